"""curl, which has HTTP habits of its own: HTTP/1.1 and h2c, chunked uploads, Expect, HEAD, raw paths."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from tests.harness.gateway import MODEL, Gateway
from tests.harness.patience import patiently

PROGRAM = shutil.which("curl")
pytestmark = pytest.mark.skipif(
    PROGRAM is None, reason="no curl here; .ci/run installs it (Debian: apt-get install curl)"
)
JSON = ("-H", "content-type: application/json")
HTTP_1, HTTP_2 = "--http1.1", "--http2-prior-knowledge"
EXPECT_FROM_BYTES = 1024 * 1024
"""curl 7.88 asks for leave by ``Expect: 100-continue`` before it sends a body over 1 MiB by HTTP/1.1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """The last response's status, its headers in lower case, its body, and what curl told of its way."""

    status: int
    headers: dict[str, str]
    body: str
    told: str

    @property
    def error(self) -> dict[str, Any]:
        """The error object."""
        found: dict[str, Any] = json.loads(self.body)["error"]
        assert set(found) == {"message", "type", "param", "code"}
        return found


Curl = Callable[..., Answer]


@pytest.fixture
def curl(gateway: Gateway) -> Curl:
    """Runs curl with the demo key on a path under /v1 or on a whole path that starts with ``/``."""

    def run(path: str, *options: str, body: str | None = None) -> Answer:
        return patiently(lambda: once(path, options, body), lambda answer: answer.headers)

    def once(path: str, options: tuple[str, ...], body: str | None) -> Answer:
        origin = f"http://127.0.0.1:{gateway.port}"
        command = [str(PROGRAM), "-sS", "-v", "-i", "--noproxy", "*", "--max-time", "60"]
        command += ["-H", f"authorization: Bearer {gateway.api_key}", *options]
        command += [] if body is None else ["--data-binary", "@-"]
        done = subprocess.run(
            [*command, origin + (path if path.startswith("/") else f"/v1/{path}")],
            input="" if body is None else body,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-2000:]
        return answer_of(done.stdout, done.stderr)

    return run


def answer_of(output: str, told: str) -> Answer:
    """Reads ``curl -i``'s output, whose interim responses (100 Continue) come first."""
    while True:
        head, _, output = output.partition("\n\n")
        first, *lines = head.splitlines()
        if first.split()[1] != "100":
            break
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    return Answer(status=int(first.split()[1]), headers=headers, body=output, told=told)


def chat(text: str = "What is the capital of France?", **more: Any) -> str:
    messages = [{"role": "user", "content": text}]
    return json.dumps({"model": MODEL, "messages": messages, "max_tokens": 4, **more})


@pytest.fixture(params=[HTTP_1, HTTP_2], ids=["http/1.1", "h2c"])
def version(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_an_answer(curl: Curl, version: str) -> None:
    answer = curl("chat/completions", version, *JSON, body=chat())
    assert answer.status == 200
    assert answer.headers["x-request-id"]
    assert json.loads(answer.body)["choices"][0]["message"]["content"]


def test_a_stream(curl: Curl, version: str) -> None:
    answer = curl("chat/completions", version, "-N", *JSON, body=chat(stream=True))
    assert answer.status == 200
    assert answer.headers["content-type"].startswith("text/event-stream")
    events = answer.body.removesuffix("\n\n").split("\n\n")
    assert events[-1] == "data: [DONE]"
    assert all(json.loads(event.removeprefix("data: "))["choices"] for event in events[:-1])


def test_a_chunked_upload(curl: Curl, version: str) -> None:
    """HTTP/2 has no transfer codings; there curl sends a body of unknown length."""
    chunked = ("-H", "transfer-encoding: chunked")
    answer = curl("chat/completions", version, *chunked, *JSON, body=chat())
    assert answer.status == 200
    assert "content-length" not in {
        line.split(":")[0].strip("> ").lower() for line in answer.told.splitlines() if line.startswith(">")
    }


def test_expect_100_continue(curl: Curl) -> None:
    """A body that is waited for: leave first, then the answer; here that the prompt is too long."""
    answer = curl("chat/completions", HTTP_1, *JSON, body=chat("word " * (EXPECT_FROM_BYTES // 4)))
    assert "> Expect: 100-continue" in answer.told
    assert "< HTTP/1.1 100 Continue" in answer.told
    assert answer.status == 400
    assert answer.error["code"] == "context_length_exceeded"


def test_expect_100_continue_by_wish(curl: Curl) -> None:
    answer = curl("chat/completions", HTTP_1, "-H", "expect: 100-continue", *JSON, body=chat())
    assert "< HTTP/1.1 100 Continue" in answer.told
    assert answer.status == 200


def test_head(curl: Curl, version: str) -> None:
    answer = curl("models", version, "--head")
    assert answer.status == 200
    assert answer.body == ""
    posted = curl("chat/completions", version, "--head")
    assert (posted.status, posted.headers["allow"], posted.body) == (405, "POST", "")


def test_options_without_cors(curl: Curl, version: str) -> None:
    answer = curl("chat/completions", version, "-X", "OPTIONS")
    assert (answer.status, answer.headers["allow"]) == (204, "POST")
    assert "access-control-allow-origin" not in answer.headers


def test_wrong_method_media_type_and_coding(curl: Curl, version: str) -> None:
    wrong_method = curl("chat/completions", version)
    assert (wrong_method.status, wrong_method.headers["allow"]) == (405, "POST")
    as_form = curl("chat/completions", version, body=chat())
    assert as_form.status == 415, "curl's default media type is a form's"
    zipped = curl("chat/completions", version, "-H", "content-encoding: gzip", *JSON, body=chat())
    assert zipped.status == 415
    for answer in (wrong_method, as_form, zipped):
        assert answer.error["message"]
        assert answer.headers["x-request-id"]


def test_a_body_that_is_too_large(curl: Curl) -> None:
    """Not by h2c: curl 7.88 drops an answer that comes before its upload is over (RFC 9113, 8.1)."""
    answer = curl("chat/completions", HTTP_1, *JSON, body=chat("y" * 17 * 1024 * 1024))
    assert (answer.status, answer.error["code"]) == (413, "content_too_large")


def test_leaving_early_frees_the_hold(gateway: Gateway, version: str) -> None:
    """curl is ended in mid-stream, as by Ctrl-C."""
    before = int(gateway.settled()[("org", "month")]["used"])
    body = chat("Count to one thousand.", stream=True, ignore_eos=True, max_tokens=1000)
    command = [str(PROGRAM), "-sN", version, "-H", f"authorization: Bearer {gateway.api_key}", *JSON]
    with subprocess.Popen(
        [*command, "-d", body, f"{gateway.base_url}/chat/completions"], stdout=subprocess.PIPE, text=True
    ) as client:
        assert client.stdout is not None
        events = [client.stdout.readline() + client.stdout.readline() for _ in range(3)]
        client.terminate()
    assert all(event.startswith("data: {") for event in events)
    spent = int(gateway.settled()[("org", "month")]["used"]) - before
    assert 0 < spent < 1000


@pytest.mark.parametrize(
    "path",
    [
        "/generate",
        "/flush_cache",
        "/abort_request",
        "/v1/../flush_cache",
        "/v1/%2e%2e/flush_cache",
        "//flush_cache",
        "/v1/chat/completions/../../../flush_cache",
        "/get_server_info",
        "/metrics",
        "/healthz",
        "/v1/loads",
        "/V1/CHAT/COMPLETIONS",
        "/v1/chat/completions/",
    ],
)
def test_management_paths_cannot_be_reached(curl: Curl, path: str) -> None:
    answer = curl(path, "--path-as-is", *JSON, body="{}")
    assert answer.status in (400, 404), answer.body
    assert answer.status == 400 or answer.error["code"] == "unknown_url"


def test_no_credential_is_401_before_anything_else(gateway: Gateway, version: str) -> None:
    for path in ("/v1/models", "/v1/chat/completions", "/v1/nope", "/generate"):
        done = subprocess.run(
            [str(PROGRAM), "-s", version, "-w", "%{http_code}", f"http://127.0.0.1:{gateway.port}{path}"],
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.endswith("401"), path
