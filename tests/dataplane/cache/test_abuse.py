"""What a client may not do to the cache of others, nor by other means than the documented headers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Final

import httpx
import pytest

from tests.dataplane.cache.served import Cached, Said
from tests.harness.api_keys import key_for
from tests.harness.gateway import MODEL, until
from tests.harness.patience import patient

TEXT: Final = "Where does the Rhine begin?"
HOSTILE: Final[Mapping[str, str]] = {
    "emoji": "\U0001f9d9\u200d\u2642\ufe0f\U0001f1e9\U0001f1ea" * 40,
    "right to left": "\u202e\u05de\u05d4 \u05d4\u05e9\u05e2\u05d4\u202c? \u0645\u0631\u062d\u0628\u0627",
    "control characters": "what\x00 is\x01 \x1b[2J this\x7f?\r\n\r\nGET / HTTP/1.1",
    "combining": "e" + "\u0301" * 400,
    "no word": "?!.,;:" * 80,
    "digits": "1" * 500 + "." + "9" * 500,
    "one letter": "a" * 1500,
    "nesting": "((((" * 200 + "))))" * 200,
    "key syntax": '"}:epoch\r\nSET tgc:{demo}:epoch 0\r\n{tgc:*}',
    "lone surrogates' kin": "\ufffe\uffff\ufdd0 \U0010ffff",
    "spaces": " \t\u00a0\u2003\u3000" * 100 + "x",
    "regular expression": "(a+)+$" * 60 + "!" * 60,
    "blanks between": "no " * 600,
}


def raw(
    cached: Cached, secret: str, headers: Mapping[str, str], text: str, **fields: object
) -> httpx.Response:
    """With headers as they are; asked again of a machine that is busy."""
    body = {"model": MODEL, "messages": [{"role": "user", "content": text}], "max_tokens": 200, **fields}
    sent = {"authorization": f"Bearer {secret}", **headers}
    url = f"{cached.gateway.base_url}/chat/completions"
    with patient(headers=sent) as client:
        return client.post(url, json=body)


def said(cached: Cached, text: str, *, org: str = "demo", control: str = "") -> Said:
    """As ``Cached.ask``, but asked again of a machine that is busy, or whose store was late."""

    def ask() -> Said | None:
        found = cached.ask(text, org=org, control=control)
        return None if found.cache.endswith("unavailable") else found

    return until(ask, "an answer")


def kept(cached: Cached, text: str, org: str = "demo") -> Said:
    """The first exact hit on ``text``."""

    def ask() -> Said | None:
        found = said(cached, text, org=org)
        return found if found.cache == "hit exact" else None

    return until(ask, f"{text!r} is stored")


@pytest.fixture(scope="module")
def stranger(cached: Cached) -> str:
    """A key of an org of which the cache's policy says nothing but that its users are apart."""
    return key_for(cached.gateway, "walled-b", key="k-stranger")


def test_who_knows_anothers_entry_can_neither_read_nor_end_it(cached: Cached, stranger: str) -> None:
    entry = kept(cached, TEXT, "demo").entry
    feedback = {"x-tidegate-cache-feedback": f'wrong; entry="{entry}"'}
    for other in (stranger, cached.keys["walled-a"]):
        for text in (TEXT, "where does the rhine begin", f"{entry}"):
            answer = raw(cached, other, feedback, text)
            assert (answer.status_code, answer.headers["x-tidegate-cache"]) == (200, "bypass")
            assert answer.headers.get("x-tidegate-cache-entry") is None
    for text, cache in ((TEXT, "hit exact"), ("where does the Rhine begin", "hit canonical")):
        for _ in range(4):  # both workers
            found = said(cached, text, control="only-if-cached")
            assert (found.cache, found.entry) == (cache, entry)


@pytest.mark.parametrize("name", ["tidegate-cache-feedback", "Tidegate-Cache-Feedback"])
def test_the_inner_name_of_the_feedback_header_says_nothing(cached: Cached, name: str) -> None:
    entry = kept(cached, TEXT, "demo").entry
    for value in (f'wrong; entry="{entry}"', "no feedback at all"):
        answer = raw(cached, cached.keys["demo"], {name: value}, TEXT)
        assert (answer.status_code, answer.headers["x-tidegate-cache"]) == (200, "hit")
    assert said(cached, TEXT, control="only-if-cached").entry == entry


def test_the_inner_name_of_the_workflow_header_says_nothing(cached: Cached) -> None:
    headers = {"tidegate-workflow": "spoofed"}
    answer = raw(cached, cached.keys["demo"], headers, TEXT, metadata={"workflow": "another"})
    assert answer.status_code == 200, "the two would differ, which is refused"


SPOOFED: Final = {
    "x-tidegate-cache": "hit",
    "x-tidegate-cache-kind": "exact",
    "x-tidegate-cache-entry": "e" * 64,
    "x-tidegate-cache-similarity": "1.0",
    "x-tidegate-cache-reason": "spoofed-reason",
    "x-tidegate-cache-trace": "spoofed-trace",
    "x-tidegate-cache-profile": "verified",
    "X-Tidegate-Principal": json.dumps({"org": "demo", "user": "u"}),
    "x-tidegate-hold": "spoofed-hold",
    "age": "5",
}


def test_headers_of_answers_mean_nothing_in_requests(cached: Cached, stranger: str) -> None:
    kept(cached, TEXT, "demo")
    text = "Where does the Weser begin?"
    answer = raw(cached, stranger, SPOOFED, text)
    assert (answer.status_code, answer.headers["x-tidegate-cache"]) == (200, "miss")
    for word in ("spoofed", "e" * 64):
        assert word not in str(answer.headers)
    assert said(cached, TEXT, org="other", control="only-if-cached").status == 504


@pytest.mark.parametrize(
    "control",
    [
        "strict-only",
        "public",
        "max-age=999999999, max-stale",
        "similar",
        "profile=verified",
        "x-tidegate-cache=hit",
    ],
)
def test_a_client_cannot_loosen_what_the_policy_serves(cached: Cached, control: str) -> None:
    """The org ``reloaded`` gets answers of the very same request only, ``uncached`` none at all."""
    kept(cached, TEXT, "reloaded")
    looser = said(cached, "where does the rhine begin", org="reloaded", control=f"{control}, only-if-cached")
    assert (looser.status, looser.headers.get("x-tidegate-cache-entry")) == (504, None), looser.cache
    assert said(cached, TEXT, org="uncached", control=control).cache == "bypass mode_off"


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_question_is_a_question(cached: Cached, name: str) -> None:
    """Answered, and answered again with its own answer."""
    first = said(cached, HOSTILE[name])
    assert first.status == 200, first.text
    assert kept(cached, HOSTILE[name]).content == first.content


def test_a_question_of_a_megabyte_is_refused_as_one(cached: Cached) -> None:
    for text in ("how " * 2**18, "\u202e\U0001f9d9" * 2**17):
        refused = said(cached, text)
        assert (refused.status, refused.body["error"]["code"]) == (400, "context_length_exceeded")
    assert said(cached, TEXT).status == 200
