"""The tap must never break an answer: one test for each way it can fail, on two Envoys.

The sidecars are scripted to misbehave; the pod counts who reached it. Design decisions D2 and D10.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from ext_proc.codec import read_message
from ext_proc.vocabulary import ResponseHeadersArrived
from gateway.contract.units import UnixMillis
from gateway.sidecar import wire
from tests.harness import scripted
from tests.harness.gateway import UNTIL_S
from tests.harness.scripted import routed
from tests.harness.trap import TrapStack


async def test_every_try_has_a_tap_stream_of_its_own(stack: TrapStack) -> None:
    stack.pod.statuses = [503]
    assert (await stack.chat()).status_code == 200
    assert stack.sidecar.streams == ["admit", "tap", "tap"]


async def _events(stack: TrapStack, when: int, act: Any) -> bytes:
    """Read a stream; after ``when`` events run ``act``; everything received."""
    received = b""
    acted = False
    body = {"model": "m", "messages": [], "stream": True}
    async with stack.client.stream("POST", "/v1/chat/completions", json=body) as answer:
        assert answer.status_code == 200
        async for part in answer.aiter_raw():
            received += part
            if not acted and received.count(b"data: ") >= when:
                acted = True
                await act()
    return received


async def test_every_sidecar_killed_in_mid_stream_loses_no_event(stack: TrapStack) -> None:
    received = await _events(stack, 3, stack.sidecar.stop)
    assert received.count(b'data: {"n":') == stack.pod.events
    assert received.endswith(b"data: [DONE]\n\n")


@pytest.mark.parametrize("megabytes", [2, 4, 6])
async def test_a_large_answer_in_one_burst_does_not_crash_envoy(stack: TrapStack, megabytes: int) -> None:
    """With Envoy's defaults any answer of 1.2 MB did, on both versions (mesh/base/hardening.yaml)."""
    stack.pod.pad_bytes = megabytes * 1_000_000
    for _ in range(3):
        answer = await stack.chat()
        assert answer.status_code == 200
        assert len(answer.content) > stack.pod.pad_bytes
    assert stack.sidecar.streams == ["admit", "tap"] * 3


async def test_a_client_that_reads_late_does_not_crash_envoy(stack: TrapStack) -> None:
    """With Envoy's defaults it did, as soon as more waited than the kernel's buffers hold."""
    stack.pod.event_pad_bytes = 150_000
    body = {"model": "m", "messages": [], "stream": True}
    async with stack.client.stream("POST", "/v1/chat/completions", json=body) as answer:
        await asyncio.wait_for(stack.pod.stream_sent.wait(), UNTIL_S)
        received = b"".join([part async for part in answer.aiter_raw()])
    assert received.count(b'data: {"n":') == stack.pod.events
    assert received.endswith(b"data: [DONE]\n\n")


@pytest.mark.parametrize("stage", ["response_headers", "response_body"])
@pytest.mark.parametrize("how", ["close", "break", "hang"])
async def test_a_tap_that_stops_at_any_stage_leaves_the_stream_whole(
    stack: TrapStack, stage: str, how: str
) -> None:
    async def stopping(requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
        async for request in requests:
            kind = request.WhichOneof("request")
            if kind == stage:
                if how == "break":
                    raise RuntimeError("a bug")
                if how == "hang":
                    await asyncio.sleep(60)
                return
            yield wire.ProcessingResponse(response_headers=wire.HeadersResponse())

    stack.sidecar.tap = stopping
    received = await _events(stack, 10**6, None)
    assert received.count(b'data: {"n":') == stack.pod.events
    assert received.endswith(b"data: [DONE]\n\n")


async def test_an_early_error_frame_becomes_a_retry_by_its_status(stack: TrapStack) -> None:
    """SGLang says "queue full" as 200 plus an error frame. A 503 written over the status is repeated."""
    attempts: list[str] = []

    async def turning(requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
        attempts.append("try")
        if len(attempts) > 1:
            async for answer in scripted.tap(requests):
                yield answer
            return
        await anext(requests)
        await anext(requests)  # the first body chunk comes before the headers' reply
        mutation = wire.HeaderMutation(set_headers=[routed(":status", "503")])
        yield wire.ProcessingResponse(
            response_headers=wire.HeadersResponse(response=wire.CommonResponse(header_mutation=mutation))
        )

    stack.sidecar.tap = turning
    received = await _events(stack, 10**6, None)
    assert len(attempts) == 2
    assert received.count(b'data: {"n":') == stack.pod.events


async def test_an_immediate_response_of_the_tap_is_final(stack: TrapStack) -> None:
    """Why the tap writes over the status: Envoy sends an upstream filter's own answer without a retry."""

    async def answering(requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
        await anext(requests)
        yield wire.ProcessingResponse(
            immediate_response=wire.ImmediateResponse(status=wire.HttpStatus(code=503), body=b"{}")
        )

    stack.sidecar.tap = answering
    assert ((await stack.chat()).status_code, stack.reached()) == (503, 1)


@pytest.mark.parametrize("begun", [True, False])
async def test_an_immediate_response_after_the_headers_breaks_the_transfer(
    stack: TrapStack, begun: bool
) -> None:
    """How the tap keeps half a JSON answer from looking whole: the connection ends without the last chunk.
    Before a reply to the first bytes of the body Envoy still has the headers, and the error is sent whole."""

    async def breaking(requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
        empty = wire.CommonResponse(body_mutation=wire.BodyMutation(clear_body=True))
        async for request in requests:
            if request.WhichOneof("request") == "response_headers":
                yield wire.ProcessingResponse(response_headers=wire.HeadersResponse())
            elif begun and not request.response_body.end_of_stream:
                yield wire.ProcessingResponse(response_body=wire.BodyResponse(response=empty))
            else:
                now = wire.ImmediateResponse(status=wire.HttpStatus(code=502), body=b"{}")
                yield wire.ProcessingResponse(immediate_response=now)
                return

    stack.sidecar.tap = breaking
    if begun:
        with pytest.raises(httpx.RemoteProtocolError):
            await stack.chat()
    else:
        assert ((await stack.chat()).status_code, stack.reached()) == (502, 1)


async def test_a_body_kept_back_by_empty_replies_goes_out_whole_with_the_last(stack: TrapStack) -> None:
    """As the tap mends JSON: every message is replied to at once, and the last reply holds all."""
    whole = b'{"mended":"' + b"x" * 100_000 + b'"}'

    async def keeping(requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
        async for request in requests:
            if request.WhichOneof("request") == "response_headers":
                yield wire.ProcessingResponse(response_headers=wire.HeadersResponse())
                continue
            last = request.response_body.end_of_stream
            mutation = wire.BodyMutation(body=whole) if last else wire.BodyMutation(clear_body=True)
            yield wire.ProcessingResponse(
                response_body=wire.BodyResponse(response=wire.CommonResponse(body_mutation=mutation))
            )

    stack.sidecar.tap = keeping
    answer = await stack.chat()
    assert (answer.status_code, answer.content) == (200, whole)


async def test_a_client_that_leaves_is_seen_by_the_tap_and_the_pod(stack: TrapStack) -> None:
    ended = asyncio.Event()

    async def watching(requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
        try:
            async for answer in scripted.tap(requests):
                yield answer
        finally:
            ended.set()

    stack.sidecar.tap = watching
    stack.pod.events = 10_000
    body = {"model": "m", "messages": [], "stream": True}
    async with stack.client.stream("POST", "/v1/chat/completions", json=body) as answer:
        await anext(answer.aiter_raw())
    async with asyncio.timeout(UNTIL_S):
        await ended.wait()
        await stack.pod.left.wait()


async def test_the_tap_is_told_which_engine_answers_each_try(stack: TrapStack) -> None:
    """Whom to tell to stop, in the first message of every attempt (mesh/base/engines.yaml)."""
    told: list[str] = []

    async def reading(requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
        async for request in requests:
            if request.WhichOneof("request") == "response_headers":
                event = read_message(request.SerializeToString(), at_ms=UnixMillis(0), at_s=0.0)
                assert isinstance(event, ResponseHeadersArrived)
                told.append(event.upstream)
                yield wire.ProcessingResponse(response_headers=wire.HeadersResponse())
            else:
                yield wire.ProcessingResponse(response_body=wire.BodyResponse())

    stack.sidecar.tap = reading
    stack.pod.statuses = [503]
    assert (await stack.chat()).status_code == 200
    assert told == [f"127.0.0.1:{stack.pod.port}"] * 2


def _replaced(body: bytes, *, last: bool = False) -> Any:
    """A reply that puts ``body`` in a chunk's place; ``last``: and would end the answer there."""
    mutation = wire.BodyMutation(body=body) if body else wire.BodyMutation(clear_body=True)
    if last:
        streamed = wire.message("envoy.service.ext_proc.v3.StreamedBodyResponse")
        mutation = wire.BodyMutation(streamed_response=streamed(body=body, end_of_stream=True))
    common = wire.CommonResponse(body_mutation=mutation)
    return wire.ProcessingResponse(response_body=wire.BodyResponse(response=common))


@pytest.mark.parametrize("last", [False, True])
async def test_an_answer_that_is_ended_in_its_bytes_stays_open_until_the_engine_is_done(
    stack: TrapStack, last: bool
) -> None:
    """Why an engine past max_tokens has to be told to stop: a tap can write the end, not end the transfer. A
    reply with ``end_of_stream`` is refused, and everything passes then."""

    async def ending(requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
        chunks = 0
        async for request in requests:
            if request.WhichOneof("request") == "response_headers":
                yield wire.ProcessingResponse(response_headers=wire.HeadersResponse())
                continue
            chunks += 1
            if chunks < 4:
                yield wire.ProcessingResponse(response_body=wire.BodyResponse())
            else:
                yield _replaced(b"data: [DONE]\n\n" if chunks == 4 else b"", last=last and chunks == 4)

    stack.sidecar.tap = ending
    received = await _events(stack, 10**6, None)
    assert stack.pod.stream_sent.is_set(), "the engine was not stopped"
    assert received.count(b'data: {"n":') == (stack.pod.events if last else 3)
    assert received.endswith(b"data: [DONE]\n\n")
    assert received.count(b"[DONE]") == 1


async def test_an_engine_that_does_not_stop_can_be_broken_off_behind_the_end(stack: TrapStack) -> None:
    """The client has all of its answer by then; only its transfer does not end as it should."""

    async def ending(requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
        chunks = 0
        async for request in requests:
            if request.WhichOneof("request") == "response_headers":
                yield wire.ProcessingResponse(response_headers=wire.HeadersResponse())
                continue
            chunks += 1
            if chunks == 2:
                now = wire.ImmediateResponse(status=wire.HttpStatus(code=503), body=b"{}")
                yield wire.ProcessingResponse(immediate_response=now)
                return
            yield _replaced(b"data: [DONE]\n\n")

    stack.sidecar.tap, stack.pod.events = ending, 10_000
    received = b""
    body = {"model": "m", "messages": [], "stream": True}
    with pytest.raises(httpx.RemoteProtocolError):
        async with stack.client.stream("POST", "/v1/chat/completions", json=body) as answer:
            async for part in answer.aiter_raw():
                received += part
    assert received == b"data: [DONE]\n\n"
    async with asyncio.timeout(UNTIL_S):
        await stack.pod.left.wait()
