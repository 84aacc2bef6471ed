// Where the gateway is and what may be asked of it: a JSON object that tests/clients/test_npm.py gives.
import OpenAI from "openai";

export const served = JSON.parse(process.env.NPM_SUITE_SERVED);

/** The client as an application makes it; no retries unless asked for, so that a first failure is seen. */
export function client(options = {}) {
  return new OpenAI({ baseURL: served.baseURL, apiKey: served.apiKey, maxRetries: 0, timeout: 120_000, ...options });
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
    const answer = await fetch(`${served.baseURL}/usage`, { headers: { authorization: `Bearer ${served.apiKey}` } });
    const { windows } = await answer.json();
    if (windows.every((window) => window.held === 0)) {
      return windows.find((window) => window.account === "org" && window.window === "month").used;
    }
    if (Date.now() > deadline) throw new Error("holds stay open");
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}
