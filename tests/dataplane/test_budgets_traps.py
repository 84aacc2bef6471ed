"""What waiting and workflows need of Envoy itself: time beyond the message's, news of clients that leave, and
one header of ours that clients may send."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from gateway.contract import headers
from gateway.path import hop
from gateway.sidecar import wire
from tests.harness.gateway import UNTIL_S
from tests.harness.scripted import deciding_reply
from tests.harness.trap import TrapStack

BEYOND_S = hop("admit").deadline / 1000 + 0.3
"""Longer than Envoy waits for an answer unasked."""


def take_time(seconds: int) -> Any:
    response = wire.ProcessingResponse()
    response.override_message_timeout.FromSeconds(seconds)
    return response


async def test_a_decision_may_take_the_time_that_was_asked_for(stack: TrapStack) -> None:
    async def admit(requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
        async for request in requests:
            if request.WhichOneof("request") == "request_headers":
                yield wire.ProcessingResponse(request_headers=wire.HeadersResponse())
                continue
            yield take_time(10)
            await asyncio.sleep(BEYOND_S)
            yield deciding_reply()
            return

    stack.sidecar.admit = admit
    assert (await stack.chat()).status_code == 200
    assert stack.reached() == 1


async def test_time_that_is_over_is_no_decision(stack: TrapStack) -> None:
    async def admit(requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
        async for request in requests:
            if request.WhichOneof("request") == "request_headers":
                yield wire.ProcessingResponse(request_headers=wire.HeadersResponse())
                continue
            yield take_time(1)
            await asyncio.Event().wait()

    stack.sidecar.admit = admit
    answer = await stack.chat()
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "admission_unavailable")
    assert stack.reached() == 0


async def test_a_client_that_leaves_while_it_waits_ends_the_stream(stack: TrapStack) -> None:
    waits, ended = asyncio.Event(), asyncio.Event()

    async def admit(requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
        try:
            async for request in requests:
                if request.WhichOneof("request") == "request_headers":
                    yield wire.ProcessingResponse(request_headers=wire.HeadersResponse())
                    continue
                yield take_time(20)
                waits.set()
        finally:
            ended.set()

    stack.sidecar.admit = admit
    asking = asyncio.create_task(stack.chat())
    async with asyncio.timeout(UNTIL_S):
        await waits.wait()
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        await ended.wait()
    assert stack.reached() == 0


async def test_one_header_of_ours_goes_on_under_another_name(stack: TrapStack) -> None:
    arrived: list[dict[str, str]] = []

    async def admit(requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
        async for request in requests:
            if request.WhichOneof("request") == "request_headers":
                found = request.request_headers.headers.headers
                arrived.append({one.key: one.raw_value.decode() for one in found})
                yield wire.ProcessingResponse(request_headers=wire.HeadersResponse())
                continue
            yield deciding_reply()
            return

    async def kept(sent: dict[str, str]) -> str | None:
        assert (await stack.chat(headers=sent)).status_code == 200
        found = arrived.pop()
        assert not [name for name in found if name.startswith("x-tidegate")]
        return found.get(headers.WORKFLOW_KEPT)

    stack.sidecar.admit = admit
    assert await kept({headers.WORKFLOW: "nightly"}) == "nightly"
    assert await kept({headers.WORKFLOW.title(): "n", headers.WORKFLOW_KEPT: "forged"}) == "n"
    assert await kept({headers.WORKFLOW_KEPT: "forged"}) is None
    assert await kept({"x-tidegate-workflows": "other"}) is None
