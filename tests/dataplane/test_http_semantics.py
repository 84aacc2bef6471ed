"""HTTP as RFC 9110 has it, through real Envoy: methods, URLs, what an engine sees of a client's request and a
client of an engine's answer, Expect and chunked uploads."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar

import httpx
import pytest

from gateway.openai.terms import Endpoint
from tests.harness.gateway import MODEL, Gateway
from tests.harness.openai_schema import validate
from tests.harness.patience import patiently

BODY: dict[str, Any] = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 4}
RECEIVE_S = 20.0
TRIES = 4
"""The first and three retries, each at another engine (mesh/base/gateway.yaml)."""


class Engine(BaseHTTPRequestHandler):
    """Answers as an engine that says more than it should, and remembers what it was told."""

    protocol_version = "HTTP/1.1"
    seen: ClassVar[list[tuple[str, dict[str, str]]]] = []
    says: ClassVar = {
        "server": "uvicorn",
        "set-cookie": "a=b",
        "access-control-allow-origin": "*",
        "access-control-allow-credentials": "true",
        "vary": "Origin",
        "location": "http://10.0.0.1/",
        "x-powered-by": "engine 1.0",
        "x-tidegate-cache": "hit",
        "x-ratelimit-limit-tokens": "1",
        "x-request-id": "the-engines",
    }

    bodiless = False
    """Whether it answers 503 without a body."""

    def do_GET(self) -> None:
        """``/ready``."""
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def do_POST(self) -> None:
        """One completion."""
        self.rfile.read(int(self.headers["content-length"]))
        self.seen.append((self.path, {name.lower(): text for name, text in self.headers.items()}))
        if Engine.bodiless:
            self.send_response_only(503)
            self.send_header("content-length", "0")
            self.end_headers()
            return
        usage = {"prompt_tokens": 3, "completion_tokens": 1, "total_tokens": 4}
        message = {"role": "assistant", "content": "ok"}
        choice = {"index": 0, "message": message, "finish_reason": "stop", "logprobs": None}
        answer = {"id": "x", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]}
        content = json.dumps({**answer, "usage": usage}).encode()
        self.send_response_only(200)
        for name, text in {**self.says, "content-type": "application/json"}.items():
            self.send_header(name, text)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        """Silent."""


@pytest.fixture(scope="module")
def talking(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """The gateway in front of such engines: so many that no retry is left when each has been asked once."""
    with contextlib.ExitStack() as running:
        engines = [running.enter_context(served()) for _ in range(TRIES)]
        gateway = Gateway(tmp_path_factory.mktemp("state"), engine=",".join(engines))
        running.callback(gateway.close)
        yield gateway


@contextlib.contextmanager
def served() -> Iterator[str]:
    """One engine's URL."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Engine)
    serving = threading.Thread(target=server.serve_forever)
    serving.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        serving.join()
        server.server_close()


SENT = {
    "openai-organization": "org-1",
    "openai-project": "proj_1",
    "openai-beta": "assistants=v2",
    "x-stainless-lang": "python",
    "x-stainless-retry-count": "0",
    "user-agent": "OpenAI/Python 3.54.0",
    "origin": "https://app.example",
    "referer": "https://app.example/chat",
    "cookie": "session=1",
    "api-key": "k",
    "accept": "text/html",
    "accept-encoding": "gzip, br",
    "accept-language": "de",
    "x-forwarded-for": "192.0.2.7",
    "cache-control": "no-cache",
    "baggage": "user=alice",
    "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    "tracestate": "a=1",
}


def test_an_engine_sees_of_a_request_only_what_it_needs(talking: Gateway) -> None:
    Engine.seen.clear()
    with talking.client() as client:
        answer = client.post("/chat/completions?api-version=2024&user=alice", json=BODY, headers=SENT)
    assert answer.status_code == 200
    ((path, headers),) = Engine.seen
    assert path == "/v1/chat/completions", "no query string"
    passed = {name for name in headers if not name.startswith(("x-tidegate-", "x-envoy-"))}
    assert passed == {
        *("host", "content-type", "content-length", "accept-encoding", "x-request-id"),
        *("traceparent", "tracestate", "x-forwarded-proto"),
    }
    assert headers["accept-encoding"] == "identity", "answers are metered: they must be readable"
    assert headers["traceparent"] == SENT["traceparent"]
    assert headers["x-request-id"] == answer.headers["x-request-id"]
    assert not {"x-tidegate-principal", "x-envoy-external-address"} & set(headers)


def test_a_client_sees_of_an_engine_only_its_answer(talking: Gateway) -> None:
    with talking.client() as client:
        answer = client.post("/chat/completions", json=BODY, headers={"origin": "https://app.example"})
    headers = answer.headers
    assert headers["server"] == "tidegate"
    assert headers["x-tidegate-cache"] in ("miss", "bypass")
    assert headers["x-request-id"] != "the-engines"
    assert headers["x-ratelimit-limit-tokens"] != "1"
    assert int(headers["openai-processing-ms"]) >= 0
    for name in ("set-cookie", "vary", "location", "x-powered-by", "x-envoy-upstream-service-time"):
        assert name not in headers, name
    assert [name for name in headers if name.startswith("access-control-")] == []
    assert len(headers.get_list("x-request-id")) == len(headers.get_list("server")) == 1


@pytest.mark.parametrize("stream", [False, True])
def test_an_engines_error_without_a_body_gets_one(
    talking: Gateway, stream: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Engine, "bodiless", True)
    Engine.seen.clear()
    with talking.client() as client:
        answer = client.post("/chat/completions", json={**BODY, "stream": stream})
    assert (answer.status_code, len(Engine.seen)) == (503, TRIES)
    validate("error", answer.json())
    assert answer.json()["error"]["code"] == answer.headers["x-tidegate-refusal"] == "engine_unavailable"
    assert answer.headers["content-type"] == "application/json"
    assert int(answer.headers["retry-after"]) >= 1
    assert talking.settled()[("org", "month")]["held"] == 0


@pytest.mark.parametrize("endpoint", Endpoint)
def test_an_engines_url_takes_post_only(gateway: Gateway, endpoint: Endpoint) -> None:
    path = endpoint.path.removeprefix("/v1")
    with gateway.client() as client:
        for method in ("GET", "HEAD", "PUT", "PATCH", "DELETE"):
            answer = client.request(method, path)
            assert (answer.status_code, answer.headers["allow"]) == (405, "POST"), method
            assert answer.headers["x-request-id"]
            assert (answer.content == b"") == (method == "HEAD")
        described = client.options(path)
    assert (described.status_code, described.headers["allow"], described.content) == (204, "POST", b"")


def test_head_is_get_without_a_body_and_options_needs_a_key(gateway: Gateway) -> None:
    with gateway.client() as client:
        for path in ("/models", f"/models/{MODEL}", "/usage"):
            got, head = client.get(path), client.head(path)
            assert (head.status_code, head.content) == (200, b"")
            assert head.headers["content-type"] == got.headers["content-type"]
            assert client.options(path).headers["allow"] == "GET, HEAD"
        assert client.head("/nope").status_code == client.options("/nope").status_code == 404
    for path in ("/models", "/nope"):
        assert httpx.options(gateway.base_url + path).status_code == 401


@pytest.mark.parametrize(
    ("path", "mend"),
    [
        ("/chat/completions", "must begin with /v1"),
        ("/v1/chat/completions/", "Leave out the slash"),
        ("/V1/chat/completions", "lower case"),
        ("/v1/v1/chat/completions", "/v1 twice"),
        ("/v1", "Check it for typos"),
        ("/v1/", "Check it for typos"),
        ("/generate", "Check it for typos"),
        ("/v1/chat/completions;a=b", "Check it for typos"),
    ],
)
def test_no_other_spelling_is_served_and_each_is_told_what_would_be_right(
    gateway: Gateway, path: str, mend: str
) -> None:
    with gateway.client() as client:
        url = f"http://127.0.0.1:{gateway.port}{path}"
        for answer in (client.get(url), client.post(url, json=BODY)):
            error = answer.json()["error"]
            assert (answer.status_code, error["code"]) == (404, "unknown_url")
            assert mend in error["message"]


@pytest.mark.parametrize(
    "path", ["//v1//chat/completions", "/v1/./chat/completions", "/x/../v1/chat/completions"]
)
def test_spellings_that_envoy_makes_one_are_served(gateway: Gateway, path: str) -> None:
    head = f"POST {path} HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {gateway.api_key}\r\n"
    assert exchanged(gateway, head, json.dumps(BODY).encode())[-1] == 200


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        ("application/json", 200),
        ("application/json; charset=utf-8", 200),
        ('APPLICATION/JSON;charset="UTF-8"', 200),
        ("application/json; charset=latin-1", 415),
        ("text/json", 415),
        ("multipart/form-data; boundary=x", 415),
        ("application/jsonx", 415),
        (None, 415),
    ],
)
def test_media_types(gateway: Gateway, kind: str | None, status: int) -> None:
    headers = {} if kind is None else {"content-type": kind}
    with gateway.client() as client:
        answer = client.post("/chat/completions", content=json.dumps(BODY), headers=headers)
    assert answer.status_code == status
    if status == 415:
        assert answer.json()["error"]["code"] == "unsupported_media_type"


def exchanged(gateway: Gateway, head: str, body: bytes) -> list[int]:
    """Every status of the answer to a request with a JSON ``body``, interim ones too."""
    return patiently(lambda: _exchanged(gateway, head, body), lambda answer: answer[1])[0]


def _exchanged(gateway: Gateway, head: str, body: bytes) -> tuple[list[int], dict[str, str]]:
    """And the headers."""
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=RECEIVE_S) as peer:
        kind = "content-type: application/json\r\nconnection: close\r\n"
        peer.sendall(f"{head}{kind}content-length: {len(body)}\r\n\r\n".encode())
        received = peer.makefile("rb")
        statuses = []
        if "expect" in head:
            statuses.append(int(received.readline().split()[1]))
            assert received.readline() == b"\r\n"
        peer.sendall(body)
        statuses.append(int(received.readline().split()[1]))
        lines = iter(lambda: received.readline().decode().strip(), "")
        return statuses, dict(line.split(": ", 1) for line in lines)


def test_expect_100_continue_is_answered_before_the_body_is_sent(gateway: Gateway) -> None:
    head = "POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\nexpect: 100-continue\r\n"
    head += f"authorization: Bearer {gateway.api_key}\r\n"
    assert exchanged(gateway, head, json.dumps(BODY).encode()) == [100, 200]


def test_a_chunked_upload_is_served(gateway: Gateway) -> None:
    def pieces() -> Iterator[bytes]:
        for byte in json.dumps(BODY).encode():
            yield bytes([byte])

    with gateway.client() as client:
        headers = {"content-type": "application/json"}
        answer = patiently(
            lambda: client.post("/chat/completions", content=pieces(), headers=headers),
            lambda answer: answer.headers,
        )
    assert answer.status_code == 200
