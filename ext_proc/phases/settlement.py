"""Last step of the tap: what an answer has cost, whether it may be repeated, what there is to measure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from ext_proc.cache.policy import Place
from ext_proc.metering import Ended, Meter
from ext_proc.vocabulary import Continue, Deed, ObserveAnswer, Phase, Settle, Store, Void
from gateway.contract import headers as names
from gateway.contract.admission import AdmissionRecord
from gateway.contract.errors import GatewayError
from gateway.contract.units import Tokens
from gateway.openai.error_body import error_headers

ENGINE_REFUSED: Final = "engine_refused"
"""Reason of a void."""
_FINISHES: Final = frozenset({"stop", "length", "tool_calls", "content_filter"})
"""Values of the metric's label; an engine's own word must not become one."""


def settled(record: AdmissionRecord, meter: Meter) -> tuple[Deed, ...]:
    """What to do once an answer has ended, complete or not."""
    charge = meter.charge()
    deeds: list[Deed] = [
        Settle(
            org=record.org,
            hold=record.hold,
            used=charge.used,
            unknown=charge.unknown,
            detail=charge.detail,
        ),
        ObserveAnswer(
            model=record.model,
            finish_reason=_finish_label(meter),
            prompt=charge.prompt,
            completion=charge.completion,
            cached=charge.cached,
            duration_s=meter.duration_s,
            first_token_s=meter.reading.first_token_s,
            seconds_per_output_token=meter.reading.seconds_per_output_token,
            unmended=meter.unmended,
        ),
    ]
    place = Place.from_text(record.cache_key)
    answer = meter.answer() if place is not None else None
    if place is not None and answer is not None:
        deeds.append(
            Store(
                org=record.org,
                key=place.key,
                epoch=place.epoch,
                answer=answer,
                ttl_seconds=place.ttl_seconds,
            )
        )
    return tuple(deeds)


def _finish_label(meter: Meter) -> str:
    if meter.ended is Ended.CUT:
        return "cut"
    if meter.ended is Ended.ERROR:
        return "error"
    reason = meter.reading.finish_reason
    return reason if reason in _FINISHES else "unknown"


def engine_failed(record: AdmissionRecord, error: GatewayError) -> tuple[Deed, ...]:
    """What an error in place of an answer does to the hold: released if it is final. A 5xx may be tried
    again by Envoy under the same hold: then the tap says nothing, and the access log has the last word."""
    failed: list[Deed] = []
    if error.http_status < 500:
        failed.append(Void(org=record.org, hold=record.hold, reason=ENGINE_REFUSED))
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
    return tuple(failed)


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
    return {**charge.detail, "used": str(charge.used), "unknown": "true" if charge.unknown else "false"}
