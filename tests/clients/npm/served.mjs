// Where the gateway is and what may be asked of it: a JSON object that tests/clients/test_npm.py gives.
import OpenAI from "openai";

export const served = JSON.parse(process.env.NPM_SUITE_SERVED);

/** Refusals of a busy machine, to be asked again: see tests/harness/patience.py. */
const BUSY = ["identity_unavailable", "admission_unavailable", "budget_unavailable"];
const TRIES = 40;
const PAUSE_MS = 100;

async function patiently(url, sent) {
  for (let tried = 1; ; tried++) {
    const answer = await fetch(url, sent);
    if (tried === TRIES || !BUSY.includes(answer.headers.get("x-tidegate-refusal"))) return answer;
    await answer.body?.cancel();
    await new Promise((resolve) => setTimeout(resolve, PAUSE_MS));
  }
}

/** The client as an application makes it; no retries unless asked for, so that a first failure is seen, but a
 * busy machine's. */
export function client(options = {}) {
  const own = { baseURL: served.baseURL, apiKey: served.apiKey, maxRetries: 0, timeout: 120_000, fetch: patiently };
  return new OpenAI({ ...own, ...options });
}

/** Arguments of chat.completions.create for one user message. */
export function ask(text, more = {}) {
  return { model: served.model, messages: [{ role: "user", content: text }], max_tokens: 12, ...more };
}

/** Put fault rules in force in the twin, and take them out again after the test. */
export async function script(t, ...rules) {
  const put = (list) => fetch(`${served.engine}/__script`, { method: "POST", body: JSON.stringify(list) });
  t.after(() => put([]));
  const answer = await put(rules);
  if (!answer.ok) throw new Error(await answer.text());
}

/** Tokens charged to the org this month, once nothing is held any more. */
export async function used() {
  const deadline = Date.now() + 20_000;
  for (;;) {
    const answer = await patiently(`${served.baseURL}/usage`, { headers: { authorization: `Bearer ${served.apiKey}` } });
    const { windows } = await answer.json();
    if (windows.every((window) => window.held === 0)) {
      return windows.find((window) => window.account === "org" && window.window === "month").used;
    }
    if (Date.now() > deadline) throw new Error("holds stay open");
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}
