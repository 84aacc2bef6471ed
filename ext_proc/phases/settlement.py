"""Last step of the tap: what an answer has cost, what was wasted, whether it may be repeated, what there is
to measure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from enum import StrEnum
from typing import Final

from ext_proc.cache.personal_data import finds
from ext_proc.cache.place import Place
from ext_proc.cache.store import Lineage
from ext_proc.charge import NOTHING, Ended
from ext_proc.metering import Meter
from ext_proc.observations import ObserveAnswer, ObserveWaste
from ext_proc.vocabulary import Continue, Deed, Land, Note, Phase, Settle, Store, Void
from gateway.budget.admission import AdmissionRecord
from gateway.contract import headers as names
from gateway.contract.errors import GatewayError
from gateway.contract.units import Tokens
from gateway.events.event import EventType
from gateway.openai.answers import Usage
from gateway.openai.error_body import error_headers

ENGINE_REFUSED: Final = "engine_refused"
"""Reason of a void."""
_FINISHES: Final = frozenset({"stop", "length", "tool_calls", "content_filter"})
"""Values of the metric's label; an engine's own word must not become one."""


class Waste(StrEnum):
    """Why tokens were spent that nobody is charged for. The value is the event's reason and the metric's
    label."""

    FAILED = "failed"
    """The attempt gave no answer; Envoy may have tried again."""
    OVER_LIMIT = "over_limit"
    """Produced past the max_tokens that the engine was told."""


def settled(record: AdmissionRecord, meter: Meter, *, upstream: str) -> tuple[Deed, ...]:
    """What to do once an answer has ended, complete or not. ``upstream``: address of its engine."""
    charge = meter.charge()
    detail = dict(charge.detail)
    if meter.ended is Ended.LIMIT and upstream:
        # The bookkeeper reads this event and tells the engine to stop (gateway/bookkeeper/aborting.py).
        detail |= {"upstream": upstream, "choices": str(record.choices)}
    deeds: list[Deed] = [
        Settle(
            org=record.org,
            hold=record.hold,
            used=charge.used,
            certainty=charge.certainty,
            detail=detail,
            draw=record.draw(),
        ),
        ObserveAnswer(
            model=record.model,
            finish_reason=_finish_label(meter),
            prompt=charge.usage.prompt,
            completion=charge.usage.completion,
            cached=charge.usage.cached,
            duration_s=meter.duration_s,
            first_token_s=meter.reading.first_token_s,
            seconds_per_output_token=meter.reading.seconds_per_output_token,
            unmended=meter.unmended,
        ),
    ]
    if meter.ended is not Ended.LIMIT:  # else it is not over yet
        deeds += wasted(record, meter)
    return (*deeds, *_kept(record, meter))


def _kept(record: AdmissionRecord, meter: Meter) -> tuple[Deed, ...]:
    """The answer goes into the cache, or those who wait for it are told that it does not."""
    place = Place.from_text(record.cache_key)
    if place is None:
        return ()
    answer = meter.answer()
    # As one text, so that the detectors' bound is one of the answer: a hundred calls are a hundred texts.
    if answer is None or finds("\n".join(meter.answer_texts()), frozenset(place.detectors)) is not None:
        return landed(record)
    return (Store(org=record.org, place=place, lineage=_lineage(record, place), answer=answer),)


def landed(record: AdmissionRecord) -> tuple[Deed, ...]:
    """This attempt will store nothing: those who wait for its answer need not."""
    place = Place.from_text(record.cache_key)
    if place is None or not place.flight:
        return ()
    return (Land(org=record.org, key=place.keys.exact),)


def _lineage(record: AdmissionRecord, place: Place) -> Lineage:
    return Lineage(
        request_id=record.request_id,
        model=record.model,
        revision=record.revision,
        template=place.template,
        policy_version=place.policy_version,
        tags=place.tags,
        admitted_at=record.admitted_at_ms,
    )


def _finish_label(meter: Meter) -> str:
    if meter.ended in (Ended.CUT, Ended.STOPPED, Ended.LOST):
        return "cut"
    if meter.ended is Ended.ERROR:
        return "error"
    reason = meter.charge().detail["finish_reason"]
    return reason if reason in _FINISHES else "unknown"


def wasted(record: AdmissionRecord, meter: Meter) -> tuple[Deed, ...]:
    """What the engine of an answer spent beside what is charged: nothing, or an event and a metric."""
    over = meter.charge().usage.total
    return _noted(record, meter.wasted, Waste.OVER_LIMIT if over else Waste.FAILED)


def _noted(record: AdmissionRecord, spent: Usage, cause: Waste) -> tuple[Deed, ...]:
    if not spent.total:
        return ()
    known = json.loads(record.event_context or "{}")
    context = {
        **{str(name): str(text) for name, text in known.items()},
        "request_id": record.request_id,
        "hold": record.hold,
        "model": record.model,
        "revision": record.revision,
        "reason": cause.value,
        "tokens": str(spent.total),
        "prompt": str(spent.prompt),
        "completion": str(spent.completion),
    }
    return (
        Note(org=record.org, kind=EventType.ATTEMPT_WASTED.value, context=context),
        ObserveWaste(model=record.model, cause=cause.value, tokens=spent.total),
    )


def engine_failed(record: AdmissionRecord, error: GatewayError, meter: Meter | None) -> tuple[Deed, ...]:
    """What an error in place of an answer does to the hold: released if it is final. A 5xx may be tried
    again by Envoy under the same hold: then the tap says nothing, and the access log has the last word.
    ``meter``: of an attempt that had begun as an answer; all that it reported is waste."""
    spent = meter.reading.seen.usage if meter is not None else None
    failed = list(_noted(record, spent or NOTHING, Waste.FAILED))
    if error.http_status < 500:
        failed.append(Void(org=record.org, hold=record.hold, reason=ENGINE_REFUSED, draw=record.draw()))
    failed.append(
        ObserveAnswer(
            model=record.model,
            finish_reason="error",
            prompt=Tokens(0),
            completion=Tokens(0),
            cached=Tokens(0),
            duration_s=None,
            first_token_s=None,
            seconds_per_output_token=None,
        )
    )
    return (*failed, *landed(record))


def error_headers_reply(record: AdmissionRecord, error: GatewayError, removed: tuple[str, ...]) -> Continue:
    """The headers of the engine's error as its client should see it; ``:status`` is ours. ``removed``: those
    of the engine's that do not go on."""
    ours = {
        ":status": str(error.http_status),
        **error_headers(error),
        names.REQUEST_ID: record.request_id,
    }
    return Continue(phase=Phase.RESPONSE_HEADERS, set_headers=ours, remove_headers=without(removed, ours))


def without(removed: tuple[str, ...], ours: Mapping[str, str]) -> tuple[str, ...]:
    """What is to be removed and not written anew."""
    return tuple(name for name in removed if name not in ours)


def metered_fields(meter: Meter) -> dict[str, str]:
    """Namespace ``tidegate.tap``, for the access log."""
    charge = meter.charge()
    return {
        **charge.detail,
        "used": str(charge.used.tokens),
        "micro_usd": str(charge.used.micro_usd),
        "unknown": "true" if charge.unknown else "false",
        "certainty": charge.certainty.name.lower(),
    }
