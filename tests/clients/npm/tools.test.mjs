// Tool calls by the official npm package.
import assert from "node:assert/strict";
import { test } from "node:test";
import { ask, client } from "./served.mjs";

const tool = {
  type: "function",
  function: {
    name: "get_weather",
    parameters: { type: "object", properties: { city: { type: "string" } }, required: ["city"] },
  },
};
const asked = (text, more = {}) =>
  ask(text, { tools: [tool], tool_choice: "required", max_tokens: 100, ...more });

test("a call, its result, an answer", async () => {
  const first = await client().chat.completions.create(asked("Weather in Paris?"));
  const calls = first.choices[0].message.tool_calls; // a small model may call twice at once
  for (const call of calls) {
    assert.equal(call.function.name, "get_weather");
    JSON.parse(call.function.arguments);
  }
  const messages = [
    { role: "user", content: "Weather in Paris?" },
    first.choices[0].message,
    ...calls.map((call) => ({ role: "tool", tool_call_id: call.id, content: '{"celsius": 21}' })),
  ];
  const second = await client().chat.completions.create(asked("", { messages, tool_choice: "none" }));
  assert.ok(second.choices[0].message.content);
});

test("a streamed call", async () => {
  const stream = client().chat.completions.stream(asked("Weather in Oslo?"));
  const message = await stream.finalMessage();
  assert.equal(message.tool_calls[0].function.name, "get_weather");
  JSON.parse(message.tool_calls[0].function.arguments);
});
