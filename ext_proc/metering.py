"""The meter: what one attempt of an engine really used, read off its answer as it passes, and the answer
made true to OpenAI's reference on the way (gateway/openai/mending.py).

Pure: bytes and times in, bytes to forward and a Charge out. The charged amount is the last cumulative
usage seen (design D5), never more than was held: a stream that is cut is charged what it had reported, an
answer without a report that can be true what it showed, by estimate and flagged, and one of which nothing
was seen the whole hold. A stream whose engine goes on past max_tokens is given its end here; what the
engine still says is only counted. A meter never raises on an engine's bytes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from ext_proc.charge import ABOVE, Bounds, Charge, Ended
from ext_proc.costing import charge_of, wasted_of
from ext_proc.kept_answer import KeptAnswer
from ext_proc.limit_end import limit_end, show_charged
from ext_proc.reading import Reading
from ext_proc.usage import UsageSeen
from gateway.budget.admission import AdmissionRecord
from gateway.contract.errors import GatewayError
from gateway.contract.units import TOKENS_MAX, Tokens
from gateway.openai.answer_parts import Aborted, NotAnAnswer, mend_usage
from gateway.openai.answers import Usage, choices_of, error_frame, index_of, read_json, show_usage, write_json
from gateway.openai.engine_errors import frame_error, not_an_answer, stopped
from gateway.openai.error_body import error_body
from gateway.openai.mending import Mender
from gateway.openai.sse import DONE, SseEvent, SseParser, event_bytes
from gateway.openai.terms import Endpoint
from gateway.path import RESPONSE_BYTES_MAX


class _Form(StrEnum):
    STREAM = "stream"
    JSON = "json"
    OPAQUE = "opaque"
    """Not what the endpoint answers, whatever is in it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What to do with the bytes just fed. ``ends``: settle with ``charge()`` before releasing ``forward``."""

    forward: bytes
    ends: bool = False
    failed: GatewayError | None = None
    """There is no answer, and nothing of one has been forwarded: while the headers are still here, the whole
    attempt may become this error. If they have gone: a stream's ``forward`` shows it, JSON cannot."""


class Meter:
    """One answer of one attempt. ``feed`` in order, then ``end`` or ``cut``; ``charge`` at any time."""

    def __init__(
        self,
        *,
        content_type: str,
        endpoint: str,
        mender: Mender,
        bounds: Bounds,
        stream: bool,
        usage_asked: bool,
        continuous_usage_asked: bool,
        started_s: float,
        content_length: int | None = None,
        usage_max: Tokens = TOKENS_MAX,
        keep_answer: bool = True,
    ) -> None:
        """``content_type``: empty for what cannot be read. ``started_s``: monotonic time when the attempt
        began. ``keep_answer``: somebody will ask for ``answer()``."""
        self._form = _form_of(content_type, stream=stream)
        self._endpoint = endpoint
        self._mender = mender
        self._stream_asked = stream
        self._usage_asked = usage_asked
        self._continuous_asked = continuous_usage_asked
        self._content_length = content_length
        self._free = endpoint == Endpoint.TOKENIZE.value
        self._produces = endpoint in (Endpoint.CHAT.value, Endpoint.COMPLETIONS.value)
        self._bounds = bounds
        self._charged: Charge | None = None
        """Once the stream was cut at its limit: what follows changes it no more."""
        self._received = 0
        self._body = bytearray()
        self._mended: bytes | None = None
        self._parser = SseParser()
        self._kept: KeptAnswer | None = KeptAnswer(mender) if keep_answer else None
        seen = UsageSeen(
            one_prompt=endpoint != Endpoint.COMPLETIONS.value or bounds.choices == 1,
            most=usage_max,
            limit=bounds.completion,
            choices=bounds.choices,
        )
        self.reading: Final = Reading(seen, started_s=started_s, produces=self._produces)
        self._shown = False
        """Whether an event of the answer has been forwarded."""
        self._started_s = started_s
        self._ended_s: float | None = None
        self.unmended = False
        """The answer was too large to be read: it passes as it is."""
        self.ended = Ended.OPEN
        self.error: GatewayError | None = None
        """The engine's error, in our tree, once one was seen."""

    @classmethod
    def for_record(
        cls, record: AdmissionRecord, *, content_type: str, content_length: int | None, started_s: float
    ) -> Meter:
        """A meter with what admit wrote down for this request. Raises ValueError for what it cannot have."""
        mender = Mender(
            endpoint=record.endpoint,
            request_id=record.request_id,
            model=record.model,
            revision=record.revision,
            created_s=record.admitted_at_ms // 1000,
        )
        return cls(
            content_type=content_type,
            endpoint=record.endpoint,
            mender=mender,
            bounds=Bounds.of(record),
            stream=record.stream,
            usage_asked=record.usage_asked,
            continuous_usage_asked=record.continuous_usage_asked,
            started_s=started_s,
            content_length=content_length,
            usage_max=record.usage_max or TOKENS_MAX,
            keep_answer=bool(record.cache_key),
        )

    # --- bytes ---

    def lets_pass(self, *, at_s: float) -> bool:
        """Whether the answer says beforehand that it is too large to be read; the meter is done with it then.
        Sending it here would fill Envoy's buffers faster than anybody empties them."""
        if self._form is not _Form.JSON or (self._content_length or 0) <= RESPONSE_BYTES_MAX:
            return False
        self.unmended = True
        self._close(Ended.COMPLETE, at_s)
        return True

    @property
    def streams(self) -> bool:
        """Whether the answer is an event stream, in which an error can still be shown."""
        return self._form is _Form.STREAM

    def feed(self, chunk: bytes, *, at_s: float) -> Step:
        """The next bytes of the body."""
        self._received += len(chunk)
        if self._form is _Form.STREAM:
            return self._events_step(self._parser.feed(chunk), at_s)
        if self.ended is not Ended.OPEN:
            return Step(forward=b"")
        if self._form is _Form.OPAQUE:
            return self._nothing_read(at_s)
        if not self.unmended and self._received > RESPONSE_BYTES_MAX:
            self.unmended = True
            chunk, self._body = bytes(self._body) + chunk, bytearray()
        if self.unmended:
            return Step(forward=chunk)
        self._body += chunk
        if self._content_length is not None and self._received >= self._content_length > 0:
            return self._close_json(at_s)
        return Step(forward=b"")

    def end(self, *, at_s: float) -> Step:
        """The engine closed its answer properly (end of stream)."""
        if self._form is _Form.STREAM:
            return self._end_of_stream(at_s)
        if self.ended is not Ended.OPEN:
            return Step(forward=b"")
        if self.unmended:
            self._close(Ended.COMPLETE, at_s)
            return Step(forward=b"", ends=True)
        return self._nothing_read(at_s) if self._form is _Form.OPAQUE else self._close_json(at_s)

    def cut(self, *, at_s: float, how: Ended = Ended.CUT) -> None:
        """The client or the engine is gone (or we are: LOST); nothing more will come or can be sent."""
        if self.ended is Ended.OPEN:
            self._close(how, at_s)

    def _close(self, how: Ended, at_s: float) -> None:
        self.ended = Ended.ERROR if self.error is not None else how
        self._ended_s = at_s

    # --- JSON ---

    def _nothing_read(self, at_s: float) -> Step:
        """What was produced is not known: not an error of which we know that it was free."""
        self._close(Ended.CUT, at_s)
        return Step(forward=b"", ends=True, failed=not_an_answer())

    def _close_json(self, at_s: float) -> Step:
        answer = read_json(bytes(self._body))
        self._body.clear()
        if answer is None:
            return self._nothing_read(at_s)
        self.reading.whole(answer, at_s=at_s)
        self.error = self._mend(answer)
        if self.error is None:
            self._cap(answer)
            self._mended = write_json(answer)
            self.error = None if self._mended is not None else not_an_answer()
            if self._kept is not None and self._mended is not None:
                self._kept.whole(answer, self._mended)
        self._close(Ended.COMPLETE, at_s)
        return Step(forward=self._mended or b"", ends=True, failed=self.error)

    def _cap(self, answer: dict[str, Any]) -> None:
        """The client is told what it pays; content past the limit goes on: only a tokenizer could cut it."""
        charge = self.charge()
        if not ABOVE.isdisjoint(charge.detail["flags"].split(",")):
            show_charged(answer, charge.usage)

    def _mend(self, answer: dict[str, Any]) -> GatewayError | None:
        """What the answer is instead of an answer, if it is none."""
        frame = error_frame(answer)
        if frame is not None:
            return frame_error(frame, endpoint=self._endpoint)
        if self._stream_asked and self._form is _Form.JSON:
            return not_an_answer()
        try:
            if self._form is _Form.JSON:
                self._mender.answer(answer)
            else:
                self._mender.chunk(answer)
        except Aborted:
            return stopped()
        except NotAnAnswer:
            return not_an_answer()
        return None

    # --- streams ---

    def _events_step(self, events: list[SseEvent], at_s: float) -> Step:
        was_open, before = self.ended is Ended.OPEN, self.error
        forward = b"".join([self._event(event, at_s) for event in events])
        return Step(
            forward=forward,
            ends=was_open and self.ended is not Ended.OPEN,
            failed=self.error if before is None and not self._shown else None,
        )

    def _event(self, event: SseEvent, at_s: float) -> bytes:
        """The event as the client sees it. After an error nothing is shown any more but its end, and the
        usage, which SGLang sends after it, is still read; after the end nothing."""
        if self.ended is Ended.LIMIT:
            self._count(event, at_s)
        if self.ended is not Ended.OPEN:
            return b""
        if event.data is None and not event.oversized:
            return event.comment if self.error is None else b""
        data = b"" if event.data is None else event.data
        if data.strip() == DONE:
            failure = b"" if self._shown or self.error is not None else self._fail(not_an_answer())
            self._close(Ended.COMPLETE, at_s)
            return failure + event_bytes(DONE)
        chunk = read_json(data)
        if self.error is not None:
            if chunk is not None:
                self.reading.chunk(chunk, at_s=at_s)
            return b""
        if chunk is None:
            return self._fail(not_an_answer())
        if "error" not in chunk:
            self.reading.chunk(chunk, at_s=at_s)
        error = self._mend(chunk)
        if error is not None:
            return self._fail(error)
        if self.reading.seen.over_limit:
            return self._end_at_limit(chunk, at_s)
        return self._shown_chunk(chunk)

    def _count(self, event: SseEvent, at_s: float) -> None:
        """What an engine says after its end has been written for it."""
        chunk = None if event.data is None else read_json(event.data)
        if chunk is not None and "error" not in chunk:
            self.reading.chunk(chunk, at_s=at_s)

    def _end_at_limit(self, chunk: dict[str, Any], at_s: float) -> bytes:
        """``chunk`` went past max_tokens: the end in its place, or after it if a part of it is paid."""
        finishes, shown = self.reading.finishes, b""
        if self.reading.seen.crossing:
            shown = self._shown_chunk(chunk)
        else:
            for choice in choices_of(chunk):
                finishes.pop(index_of(choice), None)
        open_choices = [index for index in range(self._bounds.choices) if index not in finishes]
        finishes |= dict.fromkeys(open_choices, "length")
        self._close(Ended.LIMIT, at_s)
        charge = self._charged = self._charge()
        self._shown = True
        return shown + limit_end(
            self._mender,
            self.reading.seen,
            endpoint=self._endpoint,
            open_choices=open_choices,
            charged=None if charge.unknown else charge.usage,
            usage_asked=self._usage_asked,
            continuous_usage_asked=self._continuous_asked,
        )

    def _shown_chunk(self, chunk: dict[str, Any]) -> bytes:
        if self._kept is not None:
            if self._received > RESPONSE_BYTES_MAX:
                self._kept = None
            else:
                self._kept.chunk(chunk)
        shown = show_usage(
            chunk, usage_asked=self._usage_asked, continuous_usage_asked=self._continuous_asked
        )
        if not shown:
            return b""
        if self._continuous_asked:
            mend_usage(chunk)
        written = write_json(chunk)
        if written is None:
            return self._fail(not_an_answer())
        self._shown = True
        return event_bytes(written)

    def _fail(self, error: GatewayError) -> bytes:
        self.error = error
        return event_bytes(error_body(error))

    def _end_of_stream(self, at_s: float) -> Step:
        was_open = self.ended is Ended.OPEN
        step = self._events_step(self._parser.flush(), at_s)
        if not was_open or self.ended is not Ended.OPEN:
            return step
        if self.error is not None:
            self._close(Ended.ERROR, at_s)
            return Step(forward=step.forward + event_bytes(DONE), ends=True, failed=step.failed)
        # An engine that stops without [DONE] was cut, whatever its HTTP says. To the SDKs a stream that
        # just ends is a whole answer: so the client is told.
        self._close(Ended.STOPPED, at_s)
        failure = stopped()
        return Step(
            forward=step.forward + event_bytes(error_body(failure)) + event_bytes(DONE),
            ends=True,
            failed=None if self._shown else failure,
        )

    # --- findings ---

    @property
    def duration_s(self) -> float | None:
        """Seconds from the attempt's start to its end; None while open."""
        return None if self._ended_s is None else self._ended_s - self._started_s

    def charge(self) -> Charge:
        """What this attempt is to be charged, as far as is known now."""
        return self._charged or self._charge()

    def _charge(self) -> Charge:
        ended, error = self.ended, self.error
        return charge_of(
            self.reading, self._bounds, ended=ended, error=error, free=self._free, too_large=self.unmended
        )

    @property
    def wasted(self) -> Usage:
        """What the engine is known to have spent that nobody is charged for."""
        return wasted_of(self.reading, self.charge(), free=self._free)

    def answer(self) -> bytes | None:
        """The value to store (gateway/openai/stored_answer.py) of an answer that is whole, successful, with
        exact usage, and may be repeated (ext_proc/kept_answer.py); else None."""
        kept = self._repeatable()
        return None if kept is None else kept.stored()

    def answer_texts(self) -> Iterator[str]:
        """What the model wrote in ``answer()``, text by text, for those who decide whether it is stored."""
        kept = self._repeatable()
        return iter(()) if kept is None else kept.texts()

    def _repeatable(self) -> KeptAnswer | None:
        exact = self.reading.seen.is_final and not self.charge().detail["flags"]
        if self.ended is not Ended.COMPLETE or not exact:
            return None
        kept, choices = self._kept, self._bounds.choices if self._produces else 0
        return kept if kept is not None and kept.repeatable(choices=choices) else None


def _form_of(content_type: str, *, stream: bool) -> _Form:
    kind = content_type.partition(";")[0].strip().lower()
    if kind == "text/event-stream":
        return _Form.STREAM if stream else _Form.OPAQUE
    return _Form.JSON if kind == "application/json" or kind.endswith("+json") else _Form.OPAQUE
