"""The meter: what one attempt of an engine really used, read off its answer as it passes.

Pure: bytes and times in, bytes to forward and a Charge out. The charged amount is the last cumulative
usage seen (design D5); a stream that is cut is charged what it had reported, an answer that reported
nothing costs the whole hold and is flagged. A meter never raises on an engine's bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from ext_proc.usage import UsageSeen
from gateway.contract.admission import AdmissionRecord
from gateway.contract.errors import GatewayError
from gateway.contract.units import TOKENS_MAX, Tokens
from gateway.openai.answers import (
    choices_of,
    error_frame,
    finish_of,
    has_content,
    index_of,
    read_json,
    shown_chunk,
    write_json,
)
from gateway.openai.assembly import Assembler
from gateway.openai.engine_errors import engine_error, frame_error
from gateway.openai.error_body import error_body
from gateway.openai.sse import DONE, SseEvent, SseParser
from gateway.openai.terms import Endpoint
from gateway.path import RESPONSE_BYTES_MAX

ERROR_BYTES_MAX: Final = 64 * 1024
"""Most of an error answer that is read; it is replaced in any case."""
_STORABLE: Final = frozenset({"stop", "tool_calls", "function_call"})


class Ended(StrEnum):
    """How the answer ended."""

    OPEN = "open"
    COMPLETE = "complete"
    CUT = "cut"
    """The client left, or the engine stopped in the middle."""
    ERROR = "error"
    """The engine reported an error inside a 200, or answered with an error status."""


class _Form(StrEnum):
    STREAM = "stream"
    JSON = "json"
    ERROR = "error"
    OPAQUE = "opaque"


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What to do with the bytes just fed. ``ends``: settle with ``charge()`` before releasing ``forward``."""

    forward: bytes
    ends: bool = False
    opening_error: GatewayError | None = None
    """The stream's first event was an error: nothing of an answer has been forwarded yet, so the whole
    attempt may still become this error. ``forward`` is what the stream itself would show."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Charge:
    """What to settle. With ``unknown`` the whole hold is posted and ``used`` is 0."""

    used: Tokens
    unknown: bool
    estimated: bool
    """The amount is the last report, not the final one, or reports contradicted each other."""
    prompt: Tokens
    completion: Tokens
    cached: Tokens
    detail: Mapping[str, str]
    """For the event: prompt, completion, cached, finish_reason, ended, flags (comma separated)."""


class Meter:
    """One answer of one attempt. ``feed`` in order, then ``end`` or ``cut``; ``charge`` at any time."""

    def __init__(
        self,
        *,
        status: int,
        content_type: str,
        endpoint: str,
        choices: int,
        usage_asked: bool,
        continuous_usage_asked: bool,
        started_s: float,
        content_length: int | None = None,
        usage_max: Tokens = TOKENS_MAX,
        length_is_complete: bool = True,
        keep_answer: bool = True,
    ) -> None:
        """``started_s``: monotonic time when the attempt began. ``length_is_complete``: max_tokens is the
        client's or the model's own, so that an answer it ended may be stored. ``keep_answer``: somebody
        will ask for ``answer()``."""
        self._form = _form_of(status, content_type)
        self._status = status
        self._usage_asked = usage_asked
        self._continuous_asked = continuous_usage_asked
        self._content_length = content_length
        self._storable = _STORABLE | ({"length"} if length_is_complete else frozenset())
        self._keep_answer = keep_answer
        self._produces = endpoint != Endpoint.EMBEDDINGS.value
        self._choices = choices
        self._received = 0
        self._body = bytearray()
        self._too_large = False
        self._parser = SseParser()
        self._assembler: Assembler | None = Assembler() if keep_answer else None
        self._seen = UsageSeen(
            one_prompt=endpoint != Endpoint.COMPLETIONS.value or choices == 1, most=usage_max
        )
        self._finishes: dict[int, str] = {}
        self._content_seen = False
        self._events = 0
        self._started_s = started_s
        self._first_s: float | None = None
        self._last_s: float | None = None
        self._ended_s: float | None = None
        self.ended = Ended.OPEN
        self.error: GatewayError | None = None
        """The engine's error, in our tree, once one was seen."""

    @classmethod
    def for_record(
        cls,
        record: AdmissionRecord,
        *,
        status: int,
        content_type: str,
        content_length: int | None,
        started_s: float,
    ) -> Meter:
        """A meter with what admit wrote down for this request."""
        return cls(
            status=status,
            content_type=content_type,
            endpoint=record.endpoint,
            choices=record.choices,
            usage_asked=record.usage_asked,
            continuous_usage_asked=record.continuous_usage_asked,
            started_s=started_s,
            content_length=content_length,
            usage_max=record.usage_max or TOKENS_MAX,
            length_is_complete=not record.clamp,
            keep_answer=bool(record.cache_key),
        )

    # --- bytes ---

    @property
    def edits(self) -> bool:
        """Whether forwarded bytes may differ in length from the engine's: content-length must go."""
        return self._form in (_Form.STREAM, _Form.ERROR)

    def feed(self, chunk: bytes, *, at_s: float) -> Step:
        """The next bytes of the body."""
        self._received += len(chunk)
        if self._form is _Form.STREAM:
            return self._events_step(self._parser.feed(chunk), at_s)
        if self._form is _Form.ERROR:
            self._body += chunk[: ERROR_BYTES_MAX - len(self._body)]
            return Step(forward=b"")
        if self.ended is Ended.OPEN:
            self._keep(chunk)
            if self._content_length is not None and self._received >= self._content_length > 0:
                self._close_json(at_s)
                return Step(forward=chunk, ends=True)
        return Step(forward=chunk)

    def end(self, *, at_s: float) -> Step:
        """The engine closed its answer properly (end of stream)."""
        if self._form is _Form.STREAM:
            return self._end_of_stream(at_s)
        if self.ended is not Ended.OPEN:
            return Step(forward=b"")
        if self._form is _Form.ERROR:
            self.error = engine_error(self._status, bytes(self._body))
            self._close(Ended.ERROR, at_s)
            return Step(forward=error_body(self.error), ends=True)
        self._close_json(at_s)
        return Step(forward=b"", ends=True)

    def cut(self, *, at_s: float) -> None:
        """The client or the engine is gone; nothing more will come or can be sent."""
        if self.ended is Ended.OPEN:
            self._close(Ended.CUT, at_s)

    def _end_of_stream(self, at_s: float) -> Step:
        rest = self._parser.flush()
        was_open = self.ended is Ended.OPEN
        step = self._events_step(rest, at_s)
        if not was_open or self.ended is not Ended.OPEN:
            return step
        # An engine that stops without [DONE] was cut, whatever its HTTP says.
        self._close(Ended.CUT, at_s)
        return Step(forward=step.forward, ends=True, opening_error=step.opening_error)

    def _close(self, how: Ended, at_s: float) -> None:
        self.ended = Ended.ERROR if self.error is not None else how
        self._ended_s = at_s

    # --- JSON ---

    def _keep(self, chunk: bytes) -> None:
        if self._too_large or len(self._body) + len(chunk) > RESPONSE_BYTES_MAX:
            self._too_large = True
            self._body.clear()
        else:
            self._body += chunk

    def _close_json(self, at_s: float) -> None:
        answer = read_json(bytes(self._body)) if self._form is _Form.JSON else None
        if answer is None:
            # Half an object is an answer cut off; what we did not want to read may well be whole.
            unread = self._too_large or self._form is _Form.OPAQUE
            self._close(Ended.COMPLETE if unread else Ended.CUT, at_s)
            return
        frame = error_frame(answer)
        if frame is not None:
            self.error = frame_error(frame)
        self._seen.final(answer)
        for choice in choices_of(answer):
            self._finishes[index_of(choice)] = finish_of(choice)
        self._content_seen = bool(self._finishes) or not self._produces
        self._first_s = at_s
        self._close(Ended.COMPLETE, at_s)

    # --- streams ---

    def _events_step(self, events: list[SseEvent], at_s: float) -> Step:
        forward: list[bytes] = []
        was_open, opening = self.ended is Ended.OPEN, None
        for event in events:
            before = self.error
            forward.append(self._event(event, at_s) if self.ended is Ended.OPEN else event.raw)
            if before is None and self.error is not None and self._events == 1:
                opening = self.error
        return Step(
            forward=b"".join(forward),
            ends=was_open and self.ended is not Ended.OPEN,
            opening_error=opening,
        )

    def _event(self, event: SseEvent, at_s: float) -> bytes:
        if event.oversized:
            self._assembler = None
        if event.data is None:
            return event.raw
        self._events += 1
        if event.data.strip() == DONE:
            self._close(Ended.COMPLETE, at_s)
            return event.raw
        chunk = read_json(event.data)
        if chunk is None:
            self._assembler = None
            return event.raw
        frame = error_frame(chunk)
        if frame is not None:
            self.error = frame_error(frame)
            return event.with_data(error_body(self.error))
        self._read_chunk(chunk, at_s)
        visible = shown_chunk(
            chunk, usage_asked=self._usage_asked, continuous_usage_asked=self._continuous_asked
        )
        if visible is chunk:
            return event.raw
        if visible is None:
            return b""
        written = write_json(visible)
        return event.raw if written is None else event.with_data(written)

    def _read_chunk(self, chunk: dict[str, Any], at_s: float) -> None:
        self._seen.chunk(chunk)
        for choice in choices_of(chunk):
            if reason := finish_of(choice):
                self._finishes[index_of(choice)] = reason
        if has_content(chunk):
            self._content_seen = True
            self._first_s = at_s if self._first_s is None else self._first_s
            self._last_s = at_s
        if self._assembler is not None:
            if self._received > RESPONSE_BYTES_MAX:
                self._assembler = None
            else:
                self._assembler.add(chunk)

    # --- findings ---

    @property
    def finish_reason(self) -> str:
        """The finish reason of the choices, joined by commas where they differ; empty if none was seen."""
        return ",".join(sorted({reason for reason in self._finishes.values() if reason}))

    @property
    def first_token_s(self) -> float | None:
        """Seconds from the attempt's start to the first content; None without content. JSON: to its end."""
        return None if self._first_s is None else self._first_s - self._started_s

    @property
    def duration_s(self) -> float | None:
        """Seconds from the attempt's start to its end; None while open."""
        return None if self._ended_s is None else self._ended_s - self._started_s

    @property
    def seconds_per_output_token(self) -> float | None:
        """Mean over the tokens after the first (OTel's time_per_output_token); None for JSON or one token."""
        usage = self._seen.usage
        if self._form is not _Form.STREAM or usage is None or usage.completion < 2:
            return None
        if self._first_s is None or self._last_s is None:
            return None
        return (self._last_s - self._first_s) / (usage.completion - 1)

    def charge(self) -> Charge:
        """What this attempt is to be charged, as far as is known now."""
        usage = self._seen.usage
        if usage is not None and not usage.total and self._content_seen and self.finish_reason != "abort":
            self._seen.flags.add("usage_invalid")  # an answer, of nothing and from nothing
            usage = None
        flags = set(self._seen.flags)
        nothing_made = self.error is not None and not self._content_seen
        unknown = usage is None and not nothing_made
        exact = self.ended is Ended.COMPLETE and self._seen.is_final
        estimated = not unknown and not nothing_made and (not exact or bool(flags))
        if usage is None:
            flags.add("usage_missing")
        if self._too_large:
            flags.add("answer_too_large")
        if estimated:
            flags.add("estimated")
        if self.error is not None:
            flags.add(f"error:{self.error.code}")
        prompt = usage.prompt if usage else Tokens(0)
        completion = usage.completion if usage else Tokens(0)
        cached = usage.cached if usage else Tokens(0)
        return Charge(
            used=Tokens(0) if unknown else Tokens(prompt + completion),
            unknown=unknown,
            estimated=estimated,
            prompt=prompt,
            completion=completion,
            cached=cached,
            detail={
                "prompt": str(prompt),
                "completion": str(completion),
                "cached": str(cached),
                "finish_reason": self.finish_reason,
                "ended": self.ended.value,
                "flags": ",".join(sorted(flags)),
            },
        )

    def answer(self) -> bytes | None:
        """The completion to store: whole, successful, not truncated, with exact usage; else None.
        A stream's is assembled; JSON's is as it came."""
        if self.ended is not Ended.COMPLETE or self.error is not None or not self._seen.is_final:
            return None
        if self._seen.flags or self._too_large or not 200 <= self._status < 300:
            return None
        if self._produces and not (
            len(self._finishes) == self._choices and set(self._finishes.values()) <= self._storable
        ):
            return None
        if self._form is _Form.JSON:
            return bytes(self._body) if self._keep_answer else None
        completion = self._assembler.completion() if self._assembler is not None else None
        return None if completion is None else write_json(completion)


def _form_of(status: int, content_type: str) -> _Form:
    kind = content_type.partition(";")[0].strip().lower()
    if status >= 400:
        return _Form.ERROR
    if kind == "text/event-stream":
        return _Form.STREAM
    return _Form.JSON if kind == "application/json" or kind.endswith("+json") else _Form.OPAQUE
