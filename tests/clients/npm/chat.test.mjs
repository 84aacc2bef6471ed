// Chat completions by the official npm package.
import assert from "node:assert/strict";
import { test } from "node:test";
import OpenAI from "openai";
import { ask, client, script, served, used } from "./served.mjs";

const FRANCE = "What is the capital of France? Answer in one sentence.";

test("an answer has every field the client types", async () => {
  const answer = await client().chat.completions.create(ask(FRANCE));
  assert.equal(answer.object, "chat.completion");
  assert.match(answer.id, /^chatcmpl-/);
  assert.equal(answer.model, served.model);
  assert.match(answer.system_fingerprint, /^fp_[0-9a-f]{10}$/);
  const [choice] = answer.choices;
  assert.equal(choice.message.role, "assistant");
  assert.ok(choice.message.content);
  assert.equal(choice.message.refusal, null);
  assert.equal(answer.usage.total_tokens, answer.usage.prompt_tokens + answer.usage.completion_tokens);
  assert.ok(answer._request_id);
});

test("withResponse shows the headers, asResponse the bytes", async () => {
  const { data, response, request_id } = await client().chat.completions.create(ask(FRANCE)).withResponse();
  assert.ok(data.choices.length);
  assert.equal(request_id, response.headers.get("x-request-id"));
  assert.ok(Number(response.headers.get("x-ratelimit-limit-tokens")) > 0);
  const raw = await client().chat.completions.create(ask(FRANCE, { stream: true })).asResponse();
  assert.match(raw.headers.get("content-type"), /^text\/event-stream/);
  assert.ok((await raw.text()).endsWith("data: [DONE]\n\n"));
});

for (const asked of [true, false]) {
  test(`a stream is whole (usage ${asked ? "asked" : "not asked"})`, async () => {
    const more = { stream: true, temperature: 1, ...(asked ? { stream_options: { include_usage: true } } : {}) };
    const chunks = [];
    for await (const chunk of await client().chat.completions.create(ask(FRANCE, more))) chunks.push(chunk);
    const content = asked ? chunks.slice(0, -1) : chunks;
    assert.equal(new Set(chunks.map((chunk) => `${chunk.id} ${chunk.created} ${chunk.model}`)).size, 1);
    assert.equal(content[0].choices[0].delta.role, "assistant");
    assert.ok(content.map((chunk) => chunk.choices[0].delta.content ?? "").join(""));
    assert.ok(["stop", "length"].includes(content.at(-1).choices[0].finish_reason));
    assert.ok(content.every((chunk) => !chunk.usage));
    if (asked) {
      assert.deepEqual(chunks.at(-1).choices, []);
      assert.ok(chunks.at(-1).usage.completion_tokens >= 1);
    }
  });
}

const endless = (text, more) => ask(text, { max_tokens: 1000, ignore_eos: true, stream: true, ...more });

test("an AbortController ends a stream and its hold", async () => {
  const before = await used();
  const controller = new AbortController();
  const stream = await client().chat.completions.create(endless("Count to one thousand."), {
    signal: controller.signal,
  });
  let chunks = 0;
  for await (const chunk of stream) {
    assert.ok(chunk.id);
    if (++chunks === 3) controller.abort();
  }
  const paid = (await used()) - before;
  assert.ok(paid > 0 && paid < 1000, `${paid} tokens`);
});

test("leaving the loop ends a stream and its hold", async () => {
  const before = await used();
  const stream = await client().chat.completions.create(endless("Count to two thousand."));
  for await (const chunk of stream) {
    if (chunk.choices[0].delta.content) break;
  }
  const paid = (await used()) - before;
  assert.ok(paid > 0 && paid < 1000, `${paid} tokens`);
});

test("an AbortController ends a request that is not streamed", { skip: !served.engine }, async (t) => {
  await script(t, { contains: "never answers", stall_after_chunks: 0 });
  const controller = new AbortController();
  const asked = client().chat.completions.create(ask("never answers"), { signal: controller.signal });
  const refused = assert.rejects(asked, OpenAI.APIUserAbortError);
  controller.abort();
  await refused;
  await used();
});

test("the stream helper assembles the answer", async () => {
  const asked = ask(`${FRANCE} (helper)`, { temperature: 0, max_tokens: 200 });
  const stream = client().chat.completions.stream(asked);
  let text = "";
  stream.on("content", (delta) => (text += delta));
  const final = await stream.finalChatCompletion();
  assert.equal(final.choices[0].message.content, text);
});

test("a JSON schema is kept and parsed", async () => {
  const schema = {
    type: "object",
    properties: { city: { type: "string" }, inhabitants: { type: "integer" } },
    required: ["city", "inhabitants"],
    additionalProperties: false,
  };
  const format = { type: "json_schema", json_schema: { name: "capital", strict: true, schema } };
  const answer = await client().chat.completions.create(
    ask(`${FRANCE} (schema)`, { max_tokens: 200, temperature: 0, response_format: format }),
  );
  const parsed = JSON.parse(answer.choices[0].message.content);
  assert.deepEqual(Object.keys(parsed).sort(), ["city", "inhabitants"]);
});

test("two choices, logprobs, seed and stop", async () => {
  const two = await client().chat.completions.create(ask("Tell me a story.", { n: 2, temperature: 1 }));
  assert.deepEqual(two.choices.map((choice) => choice.index), [0, 1]);
  const [choice] = (await client().chat.completions.create(ask("x", { logprobs: true, top_logprobs: 2 }))).choices;
  assert.ok(choice.logprobs.content.every((entry) => entry.top_logprobs.length === 2));
  // SGLang draws anew whatever the seed: what repeats is the cache, which keeps whole answers, such as one that
  // ends at a stop.
  const seeded = ask("Invent a name.", { seed: 11, temperature: 1, max_tokens: 200, stop: ["e"] });
  const first = await client().chat.completions.create(seeded);
  const second = await client().chat.completions.create(seeded);
  assert.equal(first.choices[0].message.content, second.choices[0].message.content);
});

test("completions of several prompts", async () => {
  const answer = await client().completions.create({ model: served.model, prompt: ["One", "Two"], max_tokens: 4 });
  assert.deepEqual(answer.choices.map((choice) => choice.index), [0, 1]);
  assert.match(answer.id, /^cmpl-/);
});
