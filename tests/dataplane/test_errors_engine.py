"""What engines do wrong, and HTTP that is none, through real Envoy: each as its row of the table says."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import openai
import pytest

from gateway.contract.error_cases import ERROR_CASES, ErrorCase, Origin
from tests.dataplane.test_errors import ASKED, ELSEWHERE, assert_told
from tests.harness.api_keys import sdk
from tests.harness.engines import Twin
from tests.harness.gateway import MODEL, Gateway, until
from tests.harness.openai_schema import validate

CHAT = "/v1/chat/completions"
RECEIVE_S = 20.0


@pytest.fixture(scope="module")
def scripted(engine: Twin, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    running = Gateway(tmp_path_factory.mktemp("state"), engine=engine.url)
    yield running
    running.close()


def row(origin: Origin, code: str, status: int) -> ErrorCase:
    """The row of the table."""
    (found,) = {
        (case.code, case.status, case.retry_after): case
        for case in ERROR_CASES
        if (case.origin, case.code, case.status) == (origin, code, status)
    }.values()
    return found


@dataclass(frozen=True)
class Fault:
    """A rule of the twin's script, and the row that it leads to."""

    rule: dict[str, Any]
    code: str
    status: int
    origin: Origin = Origin.ENGINE
    param: str | None = None


def said(message: str, status: int) -> dict[str, Any]:
    """SGLang's flat error body."""
    body = {"object": "error", "message": message, "type": "x", "param": None, "code": status}
    return {"status": status, "body": body}


TOO_LONG = "The input (9000 tokens) is longer than the model's context length (8192 tokens)."
FAULTS = (
    Fault(said("/srv/sglang/http.py line 3: secret", 400), "invalid_request", 400),
    Fault(said(TOO_LONG, 400), "context_length_exceeded", 400, param="messages"),
    Fault({"status": 413, "body": ""}, "content_too_large", 413),
    Fault({"status": 401, "body": ""}, "bad_gateway", 502),
    Fault({"status": 404, "body": {"detail": "Not Found"}}, "bad_gateway", 502),
    Fault({"status": 500, "body": "Traceback (most recent call last)"}, "bad_gateway", 502),
    Fault(said("timed out", 504), "timeout", 504),
    Fault(said("The request queue is full.", 503), "engine_overloaded", 503),
    Fault({"cut_after_chunks": 0}, "engine_unavailable", 503, Origin.ENVOY),
)


def healed(gateway: Gateway, engine: Twin) -> None:
    """No fault, and the engine is back in the balancing."""
    engine.script()
    body = {"model": MODEL, "messages": [{"role": "user", "content": "well?"}], "max_tokens": 1}
    with gateway.client() as client:
        until(lambda: client.post("/chat/completions", json=body).status_code == 200, "a healthy engine")


@pytest.mark.parametrize("stream", [False, True], ids=["json", "stream"])
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: f"{fault.status}-{fault.code}")
def test_an_engines_failure_is_its_row(scripted: Gateway, engine: Twin, fault: Fault, stream: bool) -> None:
    healed(scripted, engine)
    engine.script(fault.rule)
    with sdk(scripted, scripted.api_key) as client, pytest.raises(openai.APIStatusError) as caught:
        client.chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": "hello"}], max_tokens=8, stream=stream
        )
    assert_told(caught.value, row(fault.origin, fault.code, fault.status), fault.param)
    for tell in ("Traceback", "sglang", "/srv", "secret", ".py"):
        assert tell not in caught.value.message
    healed(scripted, engine)
    assert scripted.settled()[("org", "month")]["held"] == 0


def test_a_failure_in_mid_answer_is_an_api_error_in_the_stream(scripted: Gateway, engine: Twin) -> None:
    healed(scripted, engine)
    engine.script({"error_after_chunks": 3, "stream": True})
    chunks: list[Any] = []
    with (
        sdk(scripted, scripted.api_key) as client,
        client.chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": "hello"}], max_tokens=20, stream=True
        ) as stream,
        pytest.raises(openai.APIError) as caught,
    ):
        chunks.extend(stream)
    case = row(Origin.STREAM, "engine_overloaded", 0)
    assert type(caught.value).__name__ == case.sdk_class
    assert (caught.value.code, caught.value.type) == (case.code, case.type)
    assert chunks
    engine.script()


# --- answers that Envoy makes itself ---

RAW = {
    "invalid_request": (400, b"BREW / HTTP/1.1\r\nhost: localhost\r\n\r\n"),
    "invalid_request in a name": (400, b"GET / HTTP/1.1\r\nhost: localhost\r\na b: c\r\n\r\n"),
    "invalid_request by two lengths": (
        400,
        b"POST / HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n",
    ),
    "request_timeout": (408, b"GET / HTTP/1.1\r\nho"),
    "request_headers_too_large": (
        431,
        b"GET / HTTP/1.1\r\nhost: localhost\r\nx: " + b"y" * 20_000 + b"\r\n\r\n",
    ),
    "http_version_not_supported": (426, b"GET /v1/models HTTP/1.0\r\nhost: localhost\r\n\r\n"),
    "invalid_request by its coding": (
        501,
        b"POST / HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: gzip\r\n\r\n",
    ),
    "unknown_url of a host": (404, b"GET /v1/models HTTP/1.1\r\nhost: else.example\r\n\r\n"),
    "unknown_url of no path": (404, b"OPTIONS * HTTP/1.1\r\nhost: localhost\r\n\r\n"),
}


def answered(port: int, sent: bytes) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of one HTTP/1.1 answer."""
    with socket.create_connection(("127.0.0.1", port), timeout=RECEIVE_S) as peer:
        peer.sendall(sent)
        received = peer.makefile("rb")
        status = int(received.readline().split()[1])
        headers = {}
        while line := received.readline().strip():
            name, value = line.decode("ascii").split(": ", 1)
            assert name not in headers, "a header stands twice"
            headers[name] = value
        return status, headers, received.read(int(headers.get("content-length", "0")))


@pytest.mark.parametrize("name", RAW)
def test_what_envoy_refuses_is_its_row_with_a_request_id(gateway: Gateway, name: str) -> None:
    wanted, sent = RAW[name]
    status, headers, body = answered(gateway.port, sent)
    case = row(Origin.ENVOY, name.partition(" ")[0], wanted)
    error = json.loads(body)["error"]
    validate("error", json.loads(body))
    assert (status, error["code"], error["type"]) == (case.status, case.code, case.type)
    assert headers["x-tidegate-refusal"] == case.code
    assert headers.get("retry-after", "") == case.retry_after
    assert headers["server"] == "tidegate"
    assert len(headers["x-request-id"]) == 36


def test_every_code_of_the_table_is_provoked_or_named_with_its_place() -> None:
    provoked = {ask.code for ask in ASKED} | {fault.code for fault in FAULTS}
    provoked |= {name.partition(" ")[0] for name in RAW} | {"engine_overloaded"}
    assert {case.code for case in ERROR_CASES} == provoked | ELSEWHERE
    assert not provoked & ELSEWHERE
