"""Answers of many megabytes through the product: whole, charged, and Envoy stays the same process."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from gateway.path import RESPONSE_BYTES_MAX
from tests.harness.gateway import MODEL, Gateway
from tests.harness.upstream import Pod, pod

MEGABYTE = 1024 * 1024
ANSWER: dict[str, Any] = {
    "id": "x",
    "object": "chat.completion",
    "created": 1,
    "model": "m",
    "choices": [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "large"},
            "logprobs": None,
            "finish_reason": "stop",
        }
    ],
    "usage": {"prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 12},
}


@contextmanager
def large_pod() -> Iterator[Pod]:
    """A pod on an event loop of its own."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    context = pod()
    try:
        serving = asyncio.run_coroutine_threadsafe(context.__aenter__(), loop).result(10)
        serving.answer = ANSWER
        yield serving
        asyncio.run_coroutine_threadsafe(context.__aexit__(None, None, None), loop).result(10)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def test_a_large_answer_arrives_whole(tmp_path: Path) -> None:
    with large_pod() as engine:
        gateway = Gateway(tmp_path / "state", engine=f"http://127.0.0.1:{engine.port}")
        try:
            envoy, used = gateway.pid("envoy"), 0
            for megabytes in (2, 5, 7, 80):
                engine.pad_bytes = megabytes * MEGABYTE
                answer = asked(gateway)
                assert len(answer.content) > engine.pad_bytes, f"{megabytes} MiB arrive whole"
                charged, used = charged_so_far(gateway) - used, charged_so_far(gateway)
                if engine.pad_bytes < RESPONSE_BYTES_MAX:
                    assert "refusal" in answer.json()["choices"][0]["message"], "read, and mended"
                    assert charged == 12
                else:
                    assert charged > 12, "nobody read its usage: the whole hold"
            assert gateway.pid("envoy") == envoy
        finally:
            gateway.close()


def asked(gateway: Gateway) -> httpx.Response:
    body = {"model": MODEL, "messages": [{"role": "user", "content": "large"}], "max_tokens": 64}
    with gateway.client() as client:
        answer = client.post("/chat/completions", json=body)
    assert answer.status_code == 200, answer.text[:300]
    return answer


def charged_so_far(gateway: Gateway) -> int:
    return int(gateway.settled()[("org", "month")]["used"])
