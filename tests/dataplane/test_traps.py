"""One test for each trap of Envoy's protocols that would open the gateway or break an answer.

On real Envoy 1.40 and on the Envoy of Istio 1.31's line. The sidecars are scripted to misbehave; the pod
counts who reached it. Design decisions D2 and D10; the research behind them is cited where it matters.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from gateway.contract import headers
from gateway.path import BUFFERED_BYTES_MAX
from gateway.sidecar import wire
from tests.harness import scripted
from tests.harness.gateway import UNTIL_S
from tests.harness.scripted import deciding_reply, routed, struct
from tests.harness.trap import TrapStack


def error_code(answer: httpx.Response) -> str:
    """The code of an OpenAI-shaped error with a request id; fails for any other shape."""
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert answer.headers["x-request-id"]
    return str(error["code"])


def continue_headers() -> Any:
    return wire.ProcessingResponse(request_headers=wire.HeadersResponse())


async def test_the_good_way_reaches_the_pod_once(stack: TrapStack) -> None:
    answer = await stack.chat()
    assert (answer.status_code, stack.reached()) == (200, 1)
    assert stack.sidecar.streams == ["admit", "tap"]


# --- ext_authz ---


async def test_an_empty_check_response_is_an_allow_to_envoy_and_stops_at_the_gate(stack: TrapStack) -> None:
    async def empty(_: Any) -> Any:
        return wire.CheckResponse()

    stack.sidecar.check = empty
    answer = await stack.chat()
    assert (answer.status_code, stack.reached()) == (503, 0)
    assert error_code(answer)
    assert "admit" not in stack.sidecar.streams


@pytest.mark.parametrize(
    "principal", [{}, {"principal": {}}, {"principal": {"org": ""}}, {"principal": "demo"}]
)
async def test_an_allow_without_an_org_stops_at_the_gate(stack: TrapStack, principal: dict[str, Any]) -> None:
    async def nameless(_: Any) -> Any:
        return wire.CheckResponse(
            status=wire.Status(code=0), ok_response=wire.OkHttpResponse(), dynamic_metadata=struct(principal)
        )

    stack.sidecar.check = nameless
    answer = await stack.chat()
    assert (answer.status_code, stack.reached()) == (503, 0)


async def test_a_broken_ext_authz_is_503_never_403_never_an_allow(stack: TrapStack) -> None:
    async def broken(_: Any) -> Any:
        raise RuntimeError("a bug")

    async def hanging(_: Any) -> Any:
        await asyncio.sleep(60)

    for behaviour in (broken, hanging):
        stack.sidecar.check = behaviour
        answer = await stack.chat()
        assert (answer.status_code, error_code(answer)) == (503, "identity_unavailable")
        assert answer.headers["retry-after"]
    assert stack.reached() == 0


async def test_ext_authz_gone_is_503_and_heals(stack: TrapStack) -> None:
    await stack.sidecar.stop()
    answer = await stack.chat()
    assert (answer.status_code, error_code(answer)) == (503, "identity_unavailable")
    await stack.sidecar.start()

    for _ in range(1_200):
        if (await stack.chat()).status_code == 200:
            break
        await asyncio.sleep(0.05)
    assert stack.reached() == 1


# --- admit ---


async def _close_at_once(_: AsyncIterator[Any]) -> AsyncIterator[Any]:
    return
    yield


async def _close_at_headers(requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
    await anext(requests)
    return
    yield


async def _close_after_headers(requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
    await anext(requests)
    yield continue_headers()


async def _close_at_body(requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
    await anext(requests)
    yield continue_headers()
    await anext(requests)


async def _body_reply_without_record(requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
    await anext(requests)
    yield continue_headers()
    await anext(requests)
    yield wire.ProcessingResponse(request_body=wire.BodyResponse())


async def _record_of_another_word(requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
    await anext(requests)
    yield continue_headers()
    await anext(requests)
    reply = deciding_reply()
    reply.dynamic_metadata.fields[headers.NS_ADMIT].struct_value.fields["decision"].string_value = "maybe"
    yield reply


@pytest.mark.parametrize(
    "behaviour",
    [
        _close_at_once,
        _close_at_headers,
        _close_after_headers,
        _close_at_body,
        _body_reply_without_record,
        _record_of_another_word,
    ],
    ids=lambda behaviour: behaviour.__name__.strip("_"),
)
async def test_no_decision_no_passage_at_whatever_stage_admit_closes(
    stack: TrapStack, behaviour: scripted.Process
) -> None:
    """A clean close lets the request pass even with failure_mode_allow false; the second gate does not."""
    stack.sidecar.admit = behaviour
    answer = await stack.chat()
    assert (answer.status_code, stack.reached()) == (503, 0)
    assert error_code(answer)


async def test_metadata_with_the_headers_reply_alone_would_open_the_gate(stack: TrapStack) -> None:
    """Why the record is written only in the deciding reply: this is what Envoy does with an early one.

    If this ever stops passing the gate, the rule in ext_proc can be relaxed.
    """

    async def early(requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
        await anext(requests)
        reply = deciding_reply()
        yield wire.ProcessingResponse(
            request_headers=wire.HeadersResponse(response=reply.request_body.response),
            dynamic_metadata=reply.dynamic_metadata,
        )

    stack.sidecar.admit = early
    assert (await stack.chat()).status_code == 200


async def test_a_broken_or_hanging_admit_is_503(stack: TrapStack) -> None:
    async def broken(requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
        await anext(requests)
        raise RuntimeError("a bug")
        yield

    async def hanging(requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
        await anext(requests)
        yield continue_headers()
        await asyncio.sleep(60)

    async def wrong_answer(requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
        await anext(requests)
        yield wire.ProcessingResponse(response_headers=wire.HeadersResponse())

    for behaviour in (broken, hanging, wrong_answer):
        stack.sidecar.admit = behaviour
        answer = await stack.chat()
        assert (answer.status_code, error_code(answer)) == (503, "admission_unavailable"), behaviour.__name__
        assert answer.headers["retry-after"]
    assert stack.reached() == 0


async def test_clients_cannot_speak_for_the_filters(stack: TrapStack) -> None:
    """Headers that only we may set are removed, in any case and also when Connection names them."""
    spoofed = {
        headers.POOL: "sglang",
        "X-Tidegate-Principal": '{"org":"other"}',
        "x-tidegate-hold": "h",
        "x-envoy-retry-on": "5xx",
        "x-envoy-original-path": "/generate",
        "x-forwarded-client-cert": "x",
        "connection": "x-tidegate-pool",
        "x-request-id": "mine",
    }
    answer = await stack.chat(headers=spoofed)
    assert answer.status_code == 200
    seen = stack.pod.requests[0]
    assert "x-tidegate-principal" not in seen
    assert "x-tidegate-hold" not in seen
    assert "x-envoy-retry-on" not in seen
    assert "x-envoy-original-path" not in seen
    assert seen["x-request-id"] != "mine"
    assert answer.headers["x-request-id"] == seen["x-request-id"]


async def test_a_spoofed_route_header_reaches_nothing_without_a_decision(stack: TrapStack) -> None:
    stack.sidecar.admit = _close_at_once
    answer = await stack.chat(headers={headers.POOL: "sglang", headers.STREAM: "false"})
    assert (answer.status_code, stack.reached()) == (503, 0)


async def test_admit_sees_what_ext_authz_wrote_and_the_tap_what_admit_wrote(stack: TrapStack) -> None:
    seen: dict[str, Any] = {}

    async def admit(requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
        async for request in requests:
            seen["admit"] = dict(request.metadata_context.filter_metadata)
            if request.WhichOneof("request") == "request_headers":
                yield continue_headers()
            else:
                yield deciding_reply()
                return

    async def tap(requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
        async for request in requests:
            seen.setdefault("tap", dict(request.metadata_context.filter_metadata))
            kind = request.WhichOneof("request")
            yield (
                wire.ProcessingResponse(response_headers=wire.HeadersResponse())
                if kind == "response_headers"
                else wire.ProcessingResponse(response_body=wire.BodyResponse())
            )

    stack.sidecar.admit, stack.sidecar.tap = admit, tap
    assert (await stack.chat()).status_code == 200
    assert seen["admit"][headers.NS_PRINCIPAL]["principal"]["org"] == "demo"
    assert seen["tap"][headers.NS_ADMIT]["decision"] == "metered"


# --- bodies ---


async def test_a_body_up_to_the_bound_is_admitted_and_repeated(stack: TrapStack) -> None:
    """15 MiB pass and are sent again after a 503: Envoy's own default would stop both at 1 MiB."""
    stack.pod.statuses = [503]
    body = {"model": "m", "messages": [{"role": "user", "content": "x" * (15 * 1024 * 1024)}]}
    answer = await stack.client.post("/v1/chat/completions", json=body)
    assert (answer.status_code, stack.reached()) == (200, 2)
    assert stack.pod.bodies[0] == stack.pod.bodies[1]


async def test_a_body_over_the_bound_is_413_and_reaches_nobody(stack: TrapStack) -> None:
    """What is over BODY_BYTES_MAX and passes here, admit refuses, which is scripted in these tests."""
    answer = await stack.client.post("/v1/chat/completions", content=b"x" * (BUFFERED_BYTES_MAX + 1))
    assert (answer.status_code, stack.reached()) == (413, 0)
    assert error_code(answer)


async def test_admit_may_rewrite_the_body(stack: TrapStack) -> None:
    async def rewriting(requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
        async for request in requests:
            if request.WhichOneof("request") == "request_headers":
                yield continue_headers()
                continue
            reply = deciding_reply()
            common = reply.request_body.response
            common.body_mutation.body = b'{"re": "serialised"}'
            common.header_mutation.set_headers.append(routed("content-length", "20"))
            yield reply
            return

    stack.sidecar.admit = rewriting
    assert (await stack.chat()).status_code == 200
    assert stack.pod.bodies == [b'{"re": "serialised"}']


# --- what Envoy answers itself ---


async def test_no_pod_is_503_with_retry_after(stack: TrapStack) -> None:
    stack.pod.statuses = [503] * 20
    answer = await stack.chat()
    assert answer.status_code == 503
    assert stack.reached() <= 4


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (b"GET / HTTP/1.1\r\nhost: x\r\nbad header: 1\r\n\r\n", b"400"),
        (b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n", b"400"),
        (b"GET /a%2fb HTTP/1.1\r\nhost: x\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nhost: x\r\nx_tenant: 1\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nhost: x\r\n" + b"x: " + b"y" * 70_000 + b"\r\n\r\n", b"431"),
        (b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: gzip, chunked\r\n\r\n", b"501"),
    ],
    ids=[
        "space in a name",
        "CL and TE",
        "escaped slash",
        "underscore",
        "70 kB of headers",
        "transfer coding",
    ],
)
async def test_the_hardened_listener_refuses(stack: TrapStack, raw: bytes, status: bytes) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", stack.port)
    writer.write(raw)
    line = await asyncio.wait_for(reader.readline(), UNTIL_S)
    writer.close()
    assert line.split()[1] == status, line
    assert stack.sidecar.checks == 0
