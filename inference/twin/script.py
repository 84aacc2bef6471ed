"""Faults by script: which request is answered wrongly, and how. Pure.

A script is a list of rules; the first that matches a request and is not used up decides. Faults stand
in the script and not in the request because the gateway rewrites bodies and strips headers.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass, field, fields
from typing import Any, Final

from inference.twin.errors import EngineError

MISSING: Final = "missing"
DOUBLE: Final = "double"


class BadScript(ValueError):
    """A rule has an unknown field or a value of the wrong form."""


@dataclass(slots=True, kw_only=True)
class Rule:
    """One rule. Unset fields do nothing.

    Match (all that are set): ``contains`` in the last user message, prompt or first input; ``path``
    (whole or its end); ``model``; ``stream``. ``skip`` matching requests pass untouched first, then
    ``times`` are affected (None: all).

    Before the answer: ``delay_ms`` holds the headers back; ``status`` with ``body`` (JSON or text) and
    ``headers`` answers instead; ``junk`` is a 200 body that is not what it says (base64 as
    ``junk_base64``); ``error_frame`` is a 200 stream that is only SGLang's error event, message given
    or true.
    In the answer, chunks being content chunks, or tokens of an answer that is not streamed:
    ``stall_after_chunks`` (for ``stall_ms``, else until the client leaves), ``cut_after_chunks`` (0:
    before the headers; ``reset`` cuts by RST), ``error_after_chunks``, ``split_at`` writes each event
    in two pieces, parted at that byte (negative: from its end), ``split_every`` in pieces of so many bytes;
    ``head_pause_ms`` lies between the two halves of a stream's headers; ``usage`` is ``missing``,
    ``double`` (a stream's usage event comes twice) or fields to overwrite; ``extra_tokens`` beyond
    ``max_tokens``; ``length`` and ``text`` fix the answer; ``tokens_per_s`` and ``ttft_ms`` its pace.
    """

    contains: str | None = None
    path: str | None = None
    model: str | None = None
    stream: bool | None = None
    skip: int = 0
    times: int | None = None
    delay_ms: int = 0
    status: int | None = None
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)
    junk: str | None = None
    junk_base64: str | None = None
    error_frame: bool | str = False
    stall_after_chunks: int | None = None
    stall_ms: int | None = None
    cut_after_chunks: int | None = None
    reset: bool = False
    error_after_chunks: int | None = None
    split_at: int | None = None
    split_every: int | None = None
    head_pause_ms: int = 0
    usage: str | dict[str, Any] | None = None
    extra_tokens: int = 0
    length: int | None = None
    text: str | None = None
    tokens_per_s: float | None = None
    ttft_ms: float | None = None
    used: int = 0

    def matches(self, *, path: str, model: str, stream: bool, text: str) -> bool:
        """Whether the request is meant, leaving counts aside."""
        return (
            (self.contains is None or self.contains in text)
            and (self.path is None or path.endswith(self.path))
            and (self.model is None or self.model == model)
            and (self.stream is None or self.stream == stream)
        )

    @property
    def junk_bytes(self) -> bytes | None:
        """The junk body, if any."""
        if self.junk_base64 is not None:
            return base64.b64decode(self.junk_base64)
        return None if self.junk is None else self.junk.encode()

    @property
    def stream_error(self) -> EngineError:
        """The error event's content."""
        message = self.error_frame if isinstance(self.error_frame, str) else "The request queue is full."
        return EngineError(message, type_="SERVICE_UNAVAILABLE", status=503)


NO_FAULT: Final = Rule()


def rules(document: object) -> list[Rule]:
    """The rules of a JSON list. Raises BadScript."""
    if not isinstance(document, list):
        raise BadScript("a script is a list of rules")
    known = {entry.name for entry in fields(Rule)} - {"used"}
    made = []
    for place, entry in enumerate(document):
        if not isinstance(entry, dict):
            raise BadScript(f"rule {place}: must be an object")
        if unknown := sorted(entry.keys() - known):
            raise BadScript(f"rule {place}: no field {unknown[0]!r}; known are {', '.join(sorted(known))}")
        rule = Rule(**entry)
        if isinstance(rule.usage, str) and rule.usage not in (MISSING, DOUBLE):
            raise BadScript(f"rule {place}: usage must be {MISSING!r}, {DOUBLE!r} or an object")
        if rule.split_every is not None and rule.split_every < 1:
            raise BadScript(f"rule {place}: split_every must be at least 1")
        made.append(rule)
    return made


class Script:
    """The rules in force."""

    def __init__(self, rules: list[Rule] | None = None) -> None:
        """Without rules nothing is wrong."""
        self.rules = rules or []

    def choose(self, *, path: str, model: str, stream: bool, text: str) -> Rule:
        """The rule for this request, counted as used; NO_FAULT if none."""
        for rule in self.rules:
            if not rule.matches(path=path, model=model, stream=stream, text=text):
                continue
            if rule.times is not None and rule.used >= rule.skip + rule.times:
                continue
            rule.used += 1
            if rule.used > rule.skip:
                return rule
        return NO_FAULT
