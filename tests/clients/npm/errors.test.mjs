// Every refusal as the class that the official npm package throws for OpenAI's own API; models; options.
import assert from "node:assert/strict";
import { test } from "node:test";
import OpenAI from "openai";
import { ask, client, served } from "./served.mjs";

/** Whether an error has all that an application reads. */
function whole(error, kind, status) {
  assert.ok(error instanceof kind, `${error.constructor.name}: ${error.message}`);
  assert.equal(error.status, status);
  assert.equal(error.headers.get("x-request-id"), error.requestID);
  assert.equal(error.headers.get("x-tidegate-refusal"), error.code);
  assert.deepEqual(Object.keys(error.error).sort(), ["code", "message", "param", "type"]);
  return true;
}

const CASES = [
  ["temperature", { temperature: 9 }, OpenAI.BadRequestError, 400, "temperature"],
  ["an unknown field", { no_such_parameter: 1 }, OpenAI.BadRequestError, 400, "no_such_parameter"],
  ["no messages", { messages: [] }, OpenAI.BadRequestError, 400, "messages"],
  ["an unknown model", { model: "gpt-unknown" }, OpenAI.NotFoundError, 404, "model"],
];
for (const [name, change, kind, status, param] of CASES) {
  test(`${name} is a ${kind.name}`, async () => {
    await assert.rejects(client().chat.completions.create(ask("hello", change)), (error) => {
      assert.equal(error.param, param);
      return whole(error, kind, status);
    });
  });
}

test("a prompt over the context is a BadRequestError", async () => {
  const long = { messages: [{ role: "user", content: "word ".repeat(9000) }] };
  await assert.rejects(client().chat.completions.create(ask("", long)), (error) => {
    assert.equal(error.code, "context_length_exceeded");
    return whole(error, OpenAI.BadRequestError, 400);
  });
});

test("a wrong key is an AuthenticationError", async () => {
  const stranger = client({ apiKey: "sk-wrong" });
  await assert.rejects(stranger.models.list(), (error) => whole(error, OpenAI.AuthenticationError, 401));
});

test("an unserved path is a NotFoundError", async () => {
  await assert.rejects(client().files.list(), (error) => whole(error, OpenAI.NotFoundError, 404));
});

test("a used-up budget is a RateLimitError", { skip: !served.poorKey }, async () => {
  const poor = client({ apiKey: served.poorKey, maxRetries: 1 });
  const spend = async () => {
    for (let number = 0; number < 30; number++) {
      await poor.chat.completions.create(ask(`question ${number}`, { max_tokens: 60 }));
    }
  };
  await assert.rejects(spend(), (error) => {
    assert.equal(error.code, "insufficient_quota");
    return whole(error, OpenAI.RateLimitError, 429);
  });
});

test("nobody listening is an APIConnectionError", async () => {
  const lost = client({ baseURL: "http://127.0.0.1:9/v1" });
  await assert.rejects(lost.models.list(), OpenAI.APIConnectionError);
});

test("models are listed and retrieved", async () => {
  const names = [];
  for await (const model of client().models.list()) names.push(model.id);
  assert.ok(names.includes(served.model));
  const one = await client().models.retrieve(served.model);
  assert.equal(one.object, "model");
  await assert.rejects(client().models.retrieve("nope"), (error) => whole(error, OpenAI.NotFoundError, 404));
});

test("headers, query, organization and project are taken", async () => {
  const other = client({ organization: "org-x", project: "proj-x", defaultHeaders: { "x-request-id": "mine" } });
  const { request_id, response } = await other.chat.completions
    .create(ask("extras", { temperature: 0 }), {
      headers: { "cache-control": "no-store" },
      query: { "api-version": "2024-10-21" },
    })
    .withResponse();
  assert.notEqual(request_id, "mine");
  assert.equal(response.headers.get("x-tidegate-cache"), "bypass");
});

test("a base URL may end in a slash", async () => {
  const page = await client({ baseURL: `${served.baseURL}/` }).models.list();
  assert.ok(page.data.length);
});
