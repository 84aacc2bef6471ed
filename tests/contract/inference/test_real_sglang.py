"""The real SGLang: that the recordings are still true, of each kind of answer one, and that it ends well."""

from __future__ import annotations

import asyncio
import json
import signal

import httpx
import pytest

from inference.cases import CASES, DRAINING, Case
from inference.record import Recorded, ask, draining, recorded
from tests.contract.inference.conftest import ANSWER_S, answered
from tests.contract.inference.shape import body
from tests.harness.engines import Engine

pytestmark = pytest.mark.real_sglang("limited")
CHECKED = (
    *("chat-stop", "chat-two-choices", "chat-developer", "chat-parts"),
    *("chat-stream-continuous", "chat-stream-logprobs", "chat-stream-usage"),
    *("chat-tools-required", "chat-tools-named", "chat-tools-auto", "chat-tools-history"),
    *("bad-tools-missing", "bad-tools-and-format", "chat-json-schema", "bad-json-schema-type"),
    *("text-two-prompts", "text-echo-logprobs", "text-stream-echo", "bad-echo-no-tokens", "text-suffix"),
    *("bad-context", "bad-list", "bad-role", "bad-content-type", "bad-adapter", "bad-embeddings"),
    *("chat-stream-aborted", "chat-aborted", "chat-stream-queue-full", "chat-queue-full"),
    *("chat-stream-preempted", "models", "tokenize-tools", "bad-tokenize-both", "path-unknown"),
)
"""Some ten seconds on an idle machine."""


def same_shape(live: Recorded, kept: Recorded) -> None:
    """Fails where an answer has changed in more than its values."""
    assert (live.status, live.headers) == (kept.status, kept.headers), live.text
    content_type = kept.headers.get("content-type", "")
    assert json.dumps(body(content_type, live.text)) == json.dumps(body(content_type, kept.text))


@pytest.mark.parametrize("case", [case for case in CASES if case.name in CHECKED], ids=lambda c: c.name)
def test_the_recordings_are_true(sglang: Engine, case: Case) -> None:
    same_shape(answered(sglang, case), recorded(case.name))


def test_it_speaks_english(sglang: Engine) -> None:
    asked = {"messages": [{"role": "user", "content": "What is the capital of France?"}], "temperature": 0}
    url = f"{sglang.url}/v1/chat/completions"
    answer = httpx.post(url, json={**asked, "max_tokens": 30}, timeout=ANSWER_S, trust_env=False).json()
    assert "Paris" in answer["choices"][0]["message"]["content"]
    assert answer["choices"][0]["finish_reason"] == "stop"


@pytest.mark.real_sglang("limited", ends=True)
def test_it_serves_while_it_drains(sglang: Engine) -> None:
    """The last of this engine's tests, those of the dataplane too: it ends."""

    async def asked() -> list[Recorded]:
        def terminate() -> None:
            sglang.process.send_signal(signal.SIGTERM)

        client = httpx.AsyncClient(base_url=sglang.url, timeout=ANSWER_S, trust_env=False)
        async with client, draining(client, terminate):
            return [await ask(client, case) for case in DRAINING]

    for live in asyncio.run(asked()):
        same_shape(live, recorded(live.case))
