"""What kind of request it is, and what of it an engine may see."""

from __future__ import annotations

import pytest

from ext_proc.phases.routing import (
    HEADERS_BYTES_MAX,
    HEADERS_MAX,
    endpoint_asked,
    hidden_from_engines,
    refuse_crowded,
    toward_engine,
)
from ext_proc.vocabulary import Continue, Phase
from gateway.contract.errors import HeadersTooLarge, MethodNotAllowed
from gateway.openai.terms import Endpoint

JSON = {"content-type": "application/json"}


def asked(method: str, path: str) -> Endpoint | None:
    return endpoint_asked({":method": method, ":path": path, **JSON}, end_of_stream=False)


@pytest.mark.parametrize("endpoint", Endpoint)
def test_the_query_string_does_not_count(endpoint: Endpoint) -> None:
    assert asked("POST", endpoint.path) is endpoint
    assert asked("POST", f"{endpoint.path}?api-version=1&model=gpt") is endpoint


@pytest.mark.parametrize(
    "path",
    [
        "/v1/chat/completions/",
        "/V1/chat/completions",
        "/chat/completions",
        "/v1//completions",
        "/v1",
        "*",
        "",
    ],
)
def test_no_other_spelling_is_metered(path: str) -> None:
    assert asked("POST", path) is None


def test_options_is_described_by_the_api_and_other_methods_are_refused() -> None:
    assert asked("OPTIONS", "/v1/chat/completions") is None
    for method in ("GET", "HEAD", "PUT", "PATCH", "DELETE", "TRACE", "post"):
        with pytest.raises(MethodNotAllowed, match="POST"):
            asked(method, "/v1/chat/completions")


def test_headers_that_leave_no_room_for_ours_are_refused() -> None:
    refuse_crowded(count=HEADERS_MAX, size_bytes=HEADERS_BYTES_MAX)
    for count, size_bytes in ((HEADERS_MAX + 1, 100), (3, HEADERS_BYTES_MAX + 1)):
        with pytest.raises(HeadersTooLarge, match="48 of 14 KiB"):
            refuse_crowded(count=count, size_bytes=size_bytes)


CLIENTS_OWN = {
    "authorization": "Bearer x",
    "api-key": "x",
    "cookie": "a=b",
    "origin": "https://app.example",
    "referer": "https://app.example/",
    "user-agent": "OpenAI/Python 3.54",
    "openai-organization": "org-1",
    "openai-project": "proj_1",
    "openai-beta": "assistants=v2",
    "x-stainless-retry-count": "0",
    "x-forwarded-for": "10.0.0.9",
    "accept": "text/event-stream",
    "expect": "100-continue",
    "cache-control": "no-cache",
}
SEEN = {":method": "POST", "traceparent": "00-1-2-01", "x-request-id": "r", "content-type": "a", "host": "h"}


def test_what_clients_send_stays_behind() -> None:
    hidden = hidden_from_engines({**CLIENTS_OWN, **SEEN, "x-envoy-internal": "true"})
    assert set(hidden) == set(CLIENTS_OWN)


def test_the_engine_gets_the_bare_path_and_what_admit_sets() -> None:
    made = Continue(phase=Phase.REQUEST_BODY, set_headers={"accept-encoding": "identity"}, body=b"{}")
    reply = toward_engine(made, Endpoint.CHAT, ("accept-encoding", "cookie"))
    assert reply.set_headers == {":path": "/v1/chat/completions", "accept-encoding": "identity"}
    assert reply.remove_headers == ("cookie",)
    assert reply.body == b"{}"
