// What only the twin can be made to do: embeddings, failures. Left out on the real engine.
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import OpenAI from "openai";
import { ask, client, script, served, used } from "./served.mjs";

describe("embeddings", { skip: !served.embedder }, () => {
  test("every form of input, base64 by default", async () => {
    for (const input of ["one", ["one", "two"], [1, 2, 3], [[1, 2], [3]]]) {
      const answer = await client().embeddings.create({ model: served.embedder, input });
      assert.ok(answer.data.length >= 1);
      for (const { embedding } of answer.data) {
        const norm = embedding.reduce((sum, number) => sum + number * number, 0);
        assert.ok(Math.abs(norm - 1) < 1e-3, `${norm}`);
      }
    }
  });

  test("floats agree with base64", async () => {
    const asked = { model: served.embedder, input: "the same" };
    const floats = await client().embeddings.create({ ...asked, encoding_format: "float" });
    const packed = await client().embeddings.create(asked);
    floats.data[0].embedding.forEach((number, at) => {
      assert.ok(Math.abs(number - packed.data[0].embedding[at]) < 1e-6);
    });
  });
});

describe("failures", { skip: !served.engine }, () => {
  const STATUSES = [
    [500, 502, "bad_gateway"],
    [503, 503, "engine_unavailable"],
    [504, 504, "timeout"],
  ];
  for (const [status, seen, code] of STATUSES) {
    test(`an engine's ${status} is an InternalServerError`, async (t) => {
      await script(t, { contains: `says ${status}`, status, body: { object: "error", message: "/srv/x.py" } });
      await assert.rejects(client().chat.completions.create(ask(`says ${status}`)), (error) => {
        assert.ok(error instanceof OpenAI.InternalServerError);
        assert.equal(error.status, seen);
        assert.equal(error.code, code);
        assert.ok(error.requestID);
        assert.ok(!error.message.includes("/srv"));
        return true;
      });
      await client({ maxRetries: 6 }).chat.completions.create(ask("until the engine is asked again"));
    });
  }

  test("an error within a stream is thrown where it happens", async (t) => {
    await script(t, { contains: "fails in mid-answer", error_after_chunks: 3 });
    let text = "";
    await assert.rejects(async () => {
      const stream = await client().chat.completions.create(ask("fails in mid-answer", { stream: true, max_tokens: 40 }));
      for await (const chunk of stream) text += chunk.choices[0]?.delta.content ?? "";
    }, OpenAI.APIError);
    assert.ok(text);
  });

  test("a client's time-out resolves the hold", async (t) => {
    await script(t, { contains: "stalls for good", stall_after_chunks: 2 });
    const before = await used();
    const asked = client({ timeout: 400 }).chat.completions.create(ask("stalls for good", { max_tokens: 40 }));
    await assert.rejects(asked, OpenAI.APIConnectionTimeoutError);
    assert.ok((await used()) > before);
  });

  test("a 500 is retried by the client and answered", async (t) => {
    await script(t, { contains: "retry me", status: 500, times: 1 });
    const { data, response } = await client({ maxRetries: 4 })
      .chat.completions.create(ask("retry me"))
      .withResponse();
    assert.ok(data.choices.length);
    assert.equal(response.status, 200);
  });
});
