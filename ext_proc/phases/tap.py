"""The tap filter: what did this attempt really use, and is it an answer as OpenAI's reference has it?

    RESPONSE_HEADERS -> [OPENING] -> BODY -> ENDED     an answer
                     -> [REFUSAL] -> FAILED            an error of the engine, shown in our form
                                  -> REFUSAL_BODY      the same, too slow to keep its headers back
                     -> PASSING                        nothing of ours: a mirror

OPENING and REFUSAL keep the headers back until the answer's first bytes, or the whole of an error, are
here: SGLang reports an overload as an error frame inside a 200, and only headers that have not gone on
can still become a 503, which Envoy tries again elsewhere. The 503 is written over ``:status``: an
upstream filter's immediate response would be final (Envoy sends it past the router's retry policy).
A JSON answer is kept back until it is whole, since it can only be mended whole: its pieces are replied to
with empty bodies, which Envoy's message time-out bounds, and the last with all of it. If it then turns out
to be none and its headers have gone, the transfer is broken off: half an answer must not look like one.
There an immediate response is right: Envoy then resets the client's stream (seen on 1.39 and 1.40: the
connection ends without the last chunk), or, where nothing has left it yet, sends the error whole. One
stream is one attempt.

A stream whose engine goes on past max_tokens is ended by the meter in its own bytes, and settled; Envoy
keeps the upstream open until the engine is done (a filter cannot end a STREAMED body: a reply with
``end_of_stream`` is refused, seen on 1.39 and 1.40). So the bookkeeper tells the engine to stop, which it
reads in the settle's event, and that ends the client's stream too. An engine that does not stop (n > 1
leaves it no id to be named by) is broken off like half an answer; the client has its ``[DONE]`` by then.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import Enum, auto
from typing import ClassVar, Final, NamedTuple

from ext_proc.charge import Bounds, Ended, cut_by
from ext_proc.metering import Meter
from ext_proc.phases.settlement import (
    engine_failed,
    error_headers_reply,
    landed,
    metered_fields,
    settled,
    wasted,
    without,
)
from ext_proc.stream import Effects, Machine
from ext_proc.vocabulary import (
    AwaitOpening,
    CloseStream,
    Continue,
    Deed,
    Extend,
    OpeningOverdue,
    PeerGone,
    Phase,
    ReplyNow,
    ResponseBodyArrived,
    ResponseHeadersArrived,
    Texts,
)
from gateway.budget.admission import AdmissionRecord, NotAnAdmission, Verdict
from gateway.contract import headers as names
from gateway.contract.errors import GatewayError
from gateway.contract.units import Seconds
from gateway.openai.engine_errors import engine_error, stopped
from gateway.openai.error_body import error_body, error_headers
from gateway.path import HOLD_TTL

ERROR_BYTES_MAX: Final = 64 * 1024
"""Most of an error answer that is read; it is replaced in any case."""
OPENING_S: Final = Seconds(0.1)
"""How long headers are kept back. SGLang sends them with its first bytes; the headers of an engine that
does not go on after this time, and an error then stands in the stream."""
OUR_PREFIX: Final = "x-tidegate-"
"""Of headers that only this gateway sets."""
IDENTITY: Final = ("", "identity")
"""Content codings that can be read. admit asks engines for no other (accept-encoding)."""
RETRIED_STATUS: Final = 503
"""The one answer of an engine that the routes' retry policy repeats (mesh/base/gateway.yaml, retryOn)."""
SWALLOWED_MAX: Final = 512
"""Tokens that an engine may still produce after its stream was ended at max_tokens: more than a fast one does
until the bookkeeper's abort has reached it (measured on a busy machine: 25 to 600 ms)."""
EXTEND_AFTER_S: Final = Seconds(HOLD_TTL / 2000)
"""Age of a stream from which on its hold is extended: half of the hold's life."""
EXTEND_EVERY_S: Final = Seconds(HOLD_TTL / 4000)
"""At most; a hold that is not extended any more lives for three of these."""


class TapStage(Enum):
    """Where an attempt's answer stands."""

    RESPONSE_HEADERS = auto()
    OPENING = auto()
    BODY = auto()
    REFUSAL = auto()
    REFUSAL_BODY = auto()
    FAILED = auto()
    """The attempt has become an error; what the engine still sends is dropped."""
    PASSING = auto()
    ENDED = auto()
    """Settled; nothing that may still come is shown."""
    CLOSED = auto()


class _Fed(NamedTuple):
    """What a chunk leads to: ``deeds`` before ``reply``; ``error`` if there is no answer."""

    deeds: tuple[Deed, ...]
    reply: Continue
    error: GatewayError | None


class Tap(Machine[TapStage]):
    """One attempt."""

    def __init__(self, *, keeps_headers: bool) -> None:
        """``keeps_headers``: Envoy sends bodies without waiting for the reply to the headers
        (``send_body_without_waiting_for_header_response``), so that these can be kept back."""
        super().__init__(TapStage.RESPONSE_HEADERS)
        self._keeps_headers = keeps_headers
        self._known_record: AdmissionRecord | None = None
        self._known_meter: Meter | None = None
        self._status = 0
        self._kept: tuple[Continue, ...] = ()
        """Replies to chunks that came while the headers were kept back."""
        self._error = bytearray()
        self._removed: tuple[str, ...] = ()
        """Headers of the engine's that do not go on."""
        self._upstream = ""
        self._extend_at_s = 0.0

    @property
    def decided(self) -> bool:
        """See Machine. The tap decides nothing and may end at any time."""
        return True

    # --- headers ---

    def _headers(self, event: ResponseHeadersArrived) -> tuple[TapStage, Effects]:
        record = self._known_record = _record_in(event)
        if record is None:
            return _passed(Continue(phase=Phase.RESPONSE_HEADERS), end=event.end_of_stream)
        self._status = _number(event.headers.get(":status", "")) or 0
        # An answer's length changes as it is mended; and only we speak under our prefix.
        foreign = (name for name in event.headers if name.startswith(OUR_PREFIX))
        self._removed = ("content-length", *foreign)
        if not 200 <= self._status < 300:
            return self._engine_refuses(end=event.end_of_stream)
        since_admitted = max(0, event.at_ms - record.admitted_at_ms) if record.admitted_at_ms else 0
        coding = event.headers.get("content-encoding", "").strip().lower()
        started_s = event.at_s - since_admitted / 1000
        self._upstream, self._extend_at_s = event.upstream, started_s + EXTEND_AFTER_S
        meter = self._known_meter = Meter.for_record(
            record,
            content_type=event.headers.get("content-type", "") if coding in IDENTITY else "",
            content_length=_number(event.headers.get("content-length", "")),
            started_s=started_s,
        )
        if event.end_of_stream:
            return self._fail(meter.end(at_s=event.at_s).failed or stopped(), chunks=0, end=True)
        if meter.lets_pass(at_s=event.at_s):
            return TapStage.CLOSED, (*self._settled(), self._headers_go(), CloseStream())
        if self._keeps_headers:
            return TapStage.OPENING, (AwaitOpening(at_most=OPENING_S),)
        return TapStage.BODY, (self._headers_go(),)

    # --- answers ---

    def _first_bytes(self, event: ResponseBodyArrived) -> tuple[TapStage, Effects]:
        fed = self._feed(event)
        if fed.error is not None:
            return self._fail(fed.error, chunks=len(self._kept) + 1, end=event.end_of_stream)
        self._kept = (*self._kept, fed.reply)
        if fed.reply.body == b"" and not fed.deeds and not event.end_of_stream:
            return TapStage.OPENING, ()  # less than one event, or than all of the JSON, so far
        return _answered(event, fed.deeds, self._let_headers_go())

    def _overdue(self, _: OpeningOverdue) -> tuple[TapStage, Effects]:
        return TapStage.BODY, self._let_headers_go()

    def _let_headers_go(self, headers: Continue | None = None) -> tuple[Continue, ...]:
        kept, self._kept = self._kept, ()
        return (headers or self._headers_go(), *kept)

    def _headers_go(self) -> Continue:
        return Continue(phase=Phase.RESPONSE_HEADERS, remove_headers=self._removed)

    def _more_bytes(self, event: ResponseBodyArrived) -> tuple[TapStage, Effects]:
        fed = self._feed(event)
        if fed.error is not None and not self._meter().streams:
            return TapStage.CLOSED, (
                *fed.deeds,
                self._broken_off(fed.error, fed.reply.metadata),
                CloseStream(),
            )
        stage, effects = _answered(event, fed.deeds, (fed.reply,))
        return stage, effects if fed.deeds else (*self._extended(event.at_s), *effects)

    def _extended(self, at_s: float) -> tuple[Deed, ...]:
        """The hold of a long answer must not expire, and be charged in full, before its end."""
        if at_s < self._extend_at_s:
            return ()
        self._extend_at_s = at_s + EXTEND_EVERY_S
        record = self._record()
        return (Extend(org=record.org, hold=record.hold, ttl=HOLD_TTL),)

    def _after_end(self, event: ResponseBodyArrived) -> tuple[TapStage, Effects]:
        meter = self._meter()
        meter.feed(event.body, at_s=event.at_s)
        reply = Continue(phase=Phase.RESPONSE_BODY, body=b"" if event.body else None)
        if event.end_of_stream:
            return TapStage.CLOSED, (*self._overshot(), reply, CloseStream())
        if meter.ended is Ended.LIMIT and meter.wasted.completion > SWALLOWED_MAX:
            broken = self._broken_off(stopped(), {})
            return TapStage.CLOSED, (*self._overshot(), broken, CloseStream())
        return TapStage.ENDED, (reply,)

    def _gone_after_end(self, _: PeerGone) -> tuple[TapStage, Effects]:
        return TapStage.CLOSED, self._overshot()

    def _overshot(self) -> tuple[Deed, ...]:
        """What an engine produced past its limit is known once it has stopped."""
        meter = self._meter()
        return wasted(self._record(), meter) if meter.ended is Ended.LIMIT else ()

    def _settled(self) -> tuple[Deed, ...]:
        return settled(self._record(), self._meter(), upstream=self._upstream)

    def _feed(self, event: ResponseBodyArrived) -> _Fed:
        meter = self._meter()
        step = meter.feed(event.body, at_s=event.at_s)
        forward, ends, error = step.forward, step.ends, step.failed
        if event.end_of_stream:
            last = meter.end(at_s=event.at_s)
            forward, ends, error = forward + last.forward, ends or last.ends, error or last.failed
        reply = Continue(
            phase=Phase.RESPONSE_BODY,
            body=None if forward == event.body else forward,
            metadata={names.NS_TAP: metered_fields(meter)} if ends else {},
        )
        deeds = self._settled() if ends else ()
        if event.end_of_stream:
            deeds += self._overshot()
        return _Fed(deeds=deeds, reply=reply, error=error)

    def _broken_off(self, error: GatewayError, told: Mapping[str, Texts]) -> ReplyNow:
        """Envoy lets headers go with a body's first bytes: until then the client gets the error whole."""
        return ReplyNow(
            status=error.http_status,
            headers={**error_headers(error), names.REQUEST_ID: self._record().request_id},
            body=error_body(error),
            details="tidegate_answer_broken_off",
            metadata=told,
        )

    def _gone_unopened(self, _: PeerGone) -> tuple[TapStage, Effects]:
        """Nothing of this attempt has gone on, so that it may be tried again, or end as a 5xx, or its client
        has left: only the access log knows, and has the last word, as for an attempt without headers."""
        return TapStage.CLOSED, landed(self._record())

    def _cut(self, event: PeerGone) -> tuple[TapStage, Effects]:
        self._meter().cut(at_s=event.at_s, how=cut_by(event.late_s))
        return TapStage.CLOSED, self._settled()

    # --- errors of the engine ---

    def _engine_refuses(self, *, end: bool) -> tuple[TapStage, Effects]:
        if end:
            return self._fail(self._engine_error(), chunks=0, end=True)
        if self._keeps_headers:
            return TapStage.REFUSAL, (AwaitOpening(at_most=OPENING_S),)
        return self._refusal_overdue(None)

    def _refusal_bytes(self, event: ResponseBodyArrived) -> tuple[TapStage, Effects]:
        self._collect(event)
        self._kept = (*self._kept, Continue(phase=Phase.RESPONSE_BODY, body=b""))
        if not event.end_of_stream:
            return TapStage.REFUSAL, ()
        return self._fail(self._engine_error(), chunks=len(self._kept), end=True)

    def _refusal_overdue(self, _: OpeningOverdue | None) -> tuple[TapStage, Effects]:
        """The status cannot become ours any more; type and body can."""
        ours = error_headers(self._engine_error())
        go_on = Continue(
            phase=Phase.RESPONSE_HEADERS,
            set_headers=ours,
            remove_headers=without(self._removed, ours),
        )
        return TapStage.REFUSAL_BODY, self._let_headers_go(go_on)

    def _refusal_rest(self, event: ResponseBodyArrived) -> tuple[TapStage, Effects]:
        self._collect(event)
        if not event.end_of_stream:
            return TapStage.REFUSAL_BODY, (Continue(phase=Phase.RESPONSE_BODY, body=b""),)
        error = self._engine_error()
        reply = Continue(phase=Phase.RESPONSE_BODY, body=error_body(error))
        return TapStage.CLOSED, (*engine_failed(self._record(), error, None), reply, CloseStream())

    def _refusal_cut(self, _: PeerGone) -> tuple[TapStage, Effects]:
        return TapStage.CLOSED, engine_failed(self._record(), self._engine_error(), None)

    def _collect(self, event: ResponseBodyArrived) -> None:
        self._error += event.body[: ERROR_BYTES_MAX - len(self._error)]

    def _engine_error(self) -> GatewayError:
        return engine_error(self._status, bytes(self._error), endpoint=self._record().endpoint)

    def _fail(self, error: GatewayError, *, chunks: int, end: bool) -> tuple[TapStage, Effects]:
        """Nothing of this attempt has gone on: it becomes the error it is, and a 503 is tried again.

        ``chunks`` of its body wait for a reply; the first becomes the error's body. Headers without a
        body cannot be given one, so an error that Envoy does not repeat is answered at once.
        """
        record, meter = self._record(), self._known_meter
        if chunks == 0 and error.http_status != RETRIED_STATUS:
            reply = ReplyNow(
                status=error.http_status,
                headers={**error_headers(error), names.REQUEST_ID: record.request_id},
                body=error_body(error),
                details=f"tidegate_engine_{error.code}",
            )
            return TapStage.CLOSED, (*engine_failed(record, error, meter), reply, CloseStream())
        texts = (error_body(error), *(b"" for _ in range(chunks - 1)))[:chunks]
        replies = tuple(Continue(phase=Phase.RESPONSE_BODY, body=text) for text in texts)
        headers = error_headers_reply(record, error, self._removed)
        effects = (*engine_failed(record, error, meter), headers, *replies)
        return (TapStage.CLOSED, (*effects, CloseStream())) if end else (TapStage.FAILED, effects)

    def _drop(self, event: ResponseBodyArrived) -> tuple[TapStage, Effects]:
        dropped = Continue(phase=Phase.RESPONSE_BODY, body=b"")
        if event.end_of_stream:
            return TapStage.CLOSED, (dropped, CloseStream())
        return TapStage.FAILED, (dropped,)

    # --- what is not ours, what is over ---

    def _pass(self, event: ResponseBodyArrived) -> tuple[TapStage, Effects]:
        return _passed(Continue(phase=Phase.RESPONSE_BODY), end=event.end_of_stream)

    def _gone(self, _: PeerGone) -> tuple[TapStage, Effects]:
        return TapStage.CLOSED, ()

    def _record(self) -> AdmissionRecord:
        if self._known_record is None:
            raise AssertionError("an attempt without a record stays in PASSING")
        return self._known_record

    def _meter(self) -> Meter:
        if self._known_meter is None:
            raise AssertionError("an answer is metered from its headers on")
        return self._known_meter

    steps: ClassVar[Mapping[tuple[Enum, type], Callable[..., tuple[Enum, Effects]]]] = {
        (TapStage.RESPONSE_HEADERS, ResponseHeadersArrived): _headers,
        (TapStage.RESPONSE_HEADERS, PeerGone): _gone,
        (TapStage.OPENING, ResponseBodyArrived): _first_bytes,
        (TapStage.OPENING, OpeningOverdue): _overdue,
        (TapStage.OPENING, PeerGone): _gone_unopened,
        (TapStage.BODY, ResponseBodyArrived): _more_bytes,
        (TapStage.BODY, PeerGone): _cut,
        (TapStage.ENDED, ResponseBodyArrived): _after_end,
        (TapStage.ENDED, PeerGone): _gone_after_end,
        (TapStage.REFUSAL, ResponseBodyArrived): _refusal_bytes,
        (TapStage.REFUSAL, OpeningOverdue): _refusal_overdue,
        (TapStage.REFUSAL, PeerGone): _gone_unopened,
        (TapStage.REFUSAL_BODY, ResponseBodyArrived): _refusal_rest,
        (TapStage.REFUSAL_BODY, PeerGone): _refusal_cut,
        (TapStage.FAILED, ResponseBodyArrived): _drop,
        (TapStage.FAILED, PeerGone): _gone,
        (TapStage.PASSING, ResponseBodyArrived): _pass,
        (TapStage.PASSING, PeerGone): _gone,
        (TapStage.CLOSED, PeerGone): _gone,
    }


def _answered(
    event: ResponseBodyArrived, deeds: tuple[Deed, ...], replies: tuple[Continue, ...]
) -> tuple[TapStage, Effects]:
    """Deeds first: what has ended is settled before its last bytes are released."""
    if event.end_of_stream:
        return TapStage.CLOSED, (*deeds, *replies, CloseStream())
    return (TapStage.ENDED if deeds else TapStage.BODY), (*deeds, *replies)


def _passed(reply: Continue, *, end: bool) -> tuple[TapStage, Effects]:
    return (TapStage.CLOSED, (reply, CloseStream())) if end else (TapStage.PASSING, (reply,))


def _record_in(event: ResponseHeadersArrived) -> AdmissionRecord | None:
    """The admission record of a metered request; None for a mirror's, which has none."""
    try:
        record = AdmissionRecord.from_fields(event.record or {})
        record.draw()
        Bounds.of(record)
    except (NotAnAdmission, ValueError):
        return None
    return record if record.decision is Verdict.METERED else None


def _number(text: str) -> int | None:
    """A header's number of up to 18 digits; None for anything else."""
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 18 else None
