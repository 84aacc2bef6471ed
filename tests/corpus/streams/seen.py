"""What a client got, judged without a line of the product: a parser of its own and OpenAI's schema."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any, Final

from tests.corpus.streams.cases import Expected
from tests.harness.openai_schema import validate

LEAK: Final = b"leak-canary"
"""Stands in every path, prompt and stranger's text of the corpus; no client may see it."""
_LINE: Final = re.compile(r"\r\n|\n|\r")


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """As it arrived. ``ended``: HTTP's end came, the transfer was not broken."""

    status: int
    headers: dict[str, str]
    body: bytes
    ended: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Charged:
    """What became of the hold: exact, estimated, unknown or zero; ``used`` tokens unless unknown."""

    kind: str
    used: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """``client`` as in Expected, or "silent": ended as if whole, without [DONE] and without an error."""

    client: str
    text: str
    code: str | None
    status: int


def charged(*, unknown: bool, used: int, flags: str) -> Charged:
    """Of a settled hold; ``flags`` as the meter writes them."""
    if unknown:
        return Charged(kind="unknown", used=0)
    if not used:
        return Charged(kind="zero", used=0)
    told = [flag for flag in flags.split(",") if flag]
    return Charged(kind="estimated" if told else "exact", used=used)


ZERO: Final = Charged(kind="zero", used=0)


def data_of(body: bytes, *, ended: bool) -> list[str]:
    """The data of each event, by WHATWG HTML 9.2.6; at the end of a whole transfer nothing may be left over.

    Raises AssertionError, UnicodeDecodeError.
    """
    text = body.decode("utf-8", "strict" if ended else "ignore").removeprefix("\ufeff")
    found: list[str] = []
    lines: list[str] = []
    pieces = _LINE.split(text)
    for line in pieces[:-1]:
        if not line:
            found += ["\n".join(lines)] if lines else []
            lines = []
            continue
        name, _, value = line.partition(":")
        if name == "data":
            lines.append(value.removeprefix(" "))
        else:
            assert name in ("", "event", "id", "retry") or " " not in name, f"an odd line: {line[:80]!r}"
    assert not ended or not (lines or pieces[-1]), f"an event is cut off: {(lines or pieces)[-1][:80]!r}"
    return found


def seen_in(answer: Answer) -> Seen:
    """Raises AssertionError for anything that is not what OpenAI publishes, or that tells too much."""
    assert LEAK not in answer.body, "the engine's own words reached the client"
    if answer.status >= 300:
        error = json.loads(answer.body)
        validate("error", error)
        return Seen(client="refused", text="", code=error["error"]["code"], status=answer.status)
    kind = answer.headers.get("content-type", "").strip().lower()
    assert kind.startswith("text/event-stream") or not (answer.body or answer.ended), kind
    data = data_of(answer.body, ended=answer.ended)
    done = data.index("[DONE]") if "[DONE]" in data else None
    assert done is None or set(data[done:]) == {"[DONE]"}, "something follows [DONE]"
    values = [json.loads(one) for one in data if one != "[DONE]"]
    text, code = "", None
    for value in values:
        assert code is None, "something follows an error"
        if "error" in value:
            validate("error", value)
            code = value["error"]["code"]
        else:
            validate("chat.completion.chunk", value)
            text += _content(value)
    _assert_one_answer([value for value in values if "error" not in value])
    if code is not None:
        assert done is not None or not answer.ended, "an error without [DONE]"
        return Seen(client="error", text=text, code=code, status=answer.status)
    client = "broken" if not answer.ended and done is None else "whole" if done is not None else "silent"
    return Seen(client=client, text=text, code=None, status=answer.status)


def _content(chunk: dict[str, Any]) -> str:
    return "".join(choice["delta"].get("content") or "" for choice in chunk["choices"])


def _assert_one_answer(chunks: list[dict[str, Any]]) -> None:
    for field in ("id", "created", "model", "system_fingerprint"):
        assert len({chunk.get(field) for chunk in chunks}) <= 1, f"{field} changes in mid-stream"


def fits(expected: Expected, seen: Seen, charge: Charged) -> bool:
    """Whether this is what was expected, in all that the case says."""
    said = (expected.text, expected.code, expected.status, expected.used)
    got = (seen.text, seen.code, seen.status, charge.used)
    return (
        expected.client == seen.client
        and expected.charge == charge.kind
        and all(want is None or want == have for want, have in zip(said, got, strict=True))
    )
