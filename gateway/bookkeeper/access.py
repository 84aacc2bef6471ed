"""The second witness: what a finished request, as Envoy's access log tells it, means for books, holds and
the engine that had it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from gateway.bookkeeper.reconcile_cases import draw_in
from gateway.budget.admission import AdmissionRecord, Verdict
from gateway.budget.ledger import Draw
from gateway.contract.clock import Clock
from gateway.contract.ids import HoldId, OrgId, RegionName
from gateway.contract.units import UnixMillis
from gateway.events.event import Event, EventType
from gateway.openai.terms import Endpoint

TEXT_CHARS_MAX: Final = 256
"""Of a path or another text that a caller without credential can choose."""
ANONYMOUS_RATE: Final = 20
"""Entries a second that are recorded of callers without principal, with a minute's worth at once: anybody
can send such requests, and nobody may fill the disk of the books with them."""
_ANONYMOUS_BURST: Final = 60 * ANONYMOUS_RATE
CLIENT_GONE: Final = frozenset({"DC", "DR"})
"""Envoy's flags for a downstream connection or stream that ended from outside."""
ENGINE_ENDED: Final = frozenset({"UC", "UF", "UPE", "UR"})
"""Envoy's flags for an attempt that the engine's side ended, or never had."""
WE_ENDED: Final = frozenset({"DT", "LR", "SI", "UMSDR", "UT"})
"""Envoy's flags for an attempt that our side ended, by a time-out or a reset, while the engine had it."""
VOID_REASON: Final = "access_log"
_ENGINE_ROUTE: Final = re.compile(r"[a-z0-9.-]+-(?:stream|json)\Z")
"""What mesh/base calls the routes to a pool of pods; ``api`` is the only other one."""
_ENGINE_ADDRESS: Final = re.compile(r"(?:\d{1,3}(?:\.\d{1,3}){3}|\[[0-9a-f:.]+\]):\d{1,5}\Z")
"""An IP address and a port. Engines are reached over the network; a path is a worker of ours."""
_CHOICES: Final = re.compile(r"\d{1,4}\Z")
_SETTLES: Final = (EventType.HOLD_SETTLED, EventType.HOLD_CORRECTED)
_BATCH_RIDS: Final = 10
"""``R_0`` to ``R_9``: see ``abort_of``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessEntry:
    """One finished downstream request. Durations and stamps as Envoy measured them; -1 for what never
    happened."""

    request_id: str
    start_us: int
    """Unix time."""
    duration_ms: int
    first_byte_ms: int
    """Until the first byte of the answer came from upstream."""
    method: str
    path: str
    """Without query: it can carry what is nobody's business."""
    code: int
    """0 when no answer was begun."""
    details: str
    flags: tuple[str, ...]
    """Envoy's short names, sorted."""
    upstream_host: str
    cluster: str
    route: str
    attempts: int
    bytes_received: int
    bytes_sent: int
    org: str
    """Of the admission record, else of the Principal, else empty."""
    key: str
    record: AdmissionRecord | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Void:
    """Nothing was delivered: release the hold."""

    org: OrgId
    hold: HoldId
    draw: Draw | None = None
    """Should the hold have been granted out of a worker's lease."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SettleUnknown:
    """An engine had it and nobody saw what it produced: charge the whole hold, flagged."""

    org: OrgId
    hold: HoldId
    draw: Draw | None = None


Resolution = Void | SettleUnknown


def resolution_of(entry: AccessEntry) -> Resolution | None:
    """What the entry says of the request's hold; None where the tap's word, or expiry's, counts.

    A 2xx is the tap's: it may be settling just now. The first resolution wins, so none of these can
    harm a settled hold.

    An error is free where no engine had the request, where the engine refused it, and where the engine's
    side failed: what it spent then is the operator's. Where our side gave up waiting it is not: the engine
    worked for this caller until then, and one that asks for what takes too long would have it for nothing.
    How much it was nobody saw, so the whole hold is charged until the engine's record corrects it.
    """
    record = entry.record
    if record is None:
        return _undecided(entry.org, entry.request_id, entry.upstream_host, entry.code)
    ending = _ending(record.hold, entry.upstream_host, entry.code, entry.flags)
    return ending(org=record.org, hold=record.hold, draw=_draw_of(record)) if ending else None


def resolution_in(event: Event) -> Resolution | None:
    """The same of an entry's event, for who did not see the entry. Its draw has the context that stands in
    the event, as reconcile's."""
    context = event.context or {}
    upstream, code = context.get("upstream", ""), int(event.verdict or 0)
    if "decision" not in context:
        return _undecided(event.org, event.request_id, upstream, code)
    ending = _ending(event.hold, upstream, code, context.get("flags", "").split(","))
    if ending is None:
        return None
    try:
        draw = draw_in(event)
    except ValueError:
        draw = None
    return ending(org=OrgId(event.org), hold=HoldId(event.hold), draw=draw)


def _undecided(org: str, request_id: str, upstream: str, code: int) -> Void | None:
    # Without a decision nothing passes the gate; but the filter may have held before it was killed.
    # A hold is named by its request.
    if not org or not request_id or upstream or 200 <= code < 300:
        return None
    return Void(org=OrgId(org), hold=HoldId(request_id))


def _ending(
    hold: str, upstream: str, code: int, flags: Iterable[str]
) -> type[Void] | type[SettleUnknown] | None:
    if not hold:
        return None
    if code >= 400:
        return SettleUnknown if upstream and not WE_ENDED.isdisjoint(flags) else Void
    gone = code == 0 or not CLIENT_GONE.isdisjoint(flags)
    if not gone or 200 <= code < 300:
        return None
    return SettleUnknown if upstream else Void


def _draw_of(record: AdmissionRecord) -> Draw | None:
    try:
        return record.draw()
    except ValueError:  # no record of admit's: the ledger will know the hold, or nobody does
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Abort:
    """An engine still works on a request for whose answer nobody waits: tell it to stop."""

    engine: str
    """``address:port``, as Envoy reported it."""
    rids: tuple[str, ...]
    """What the engine may call the request."""


def abort_of(entry: AccessEntry) -> Abort | None:
    """Whom to tell to stop; None where no engine works on it, or the engine sees by itself.

    Only an answer that has not begun: SGLang looks for a closed connection only every
    SGLANG_REQUEST_STATE_WAIT_TIMEOUT (4 s) then, and at once when it writes a stream; a JSON answer
    begins when all is produced, and of a stream past its max_tokens ``abort_at_limit`` knows sooner. Only
    the last attempt: those before it were ended by the engine, or by ``perTryTimeout`` while a later
    attempt of the same id may run on the same engine.

    Ids (SGLang 0.5.23, io_struct.py ``_normalize_rid``): one prompt keeps ours, ``R``; of several, each
    is ``R_0``, ``R_1`` and so on, and ``R_1`` stops ``R_10`` too (scheduler.py compares beginnings), so
    that ten stop them all. With ``n > 1`` every choice gets an id that nobody else knows
    (``regenerate_rid``): then only the engine's own look ends it. Embeddings have no id.
    """
    record = entry.record
    if record is None or record.decision is not Verdict.METERED:
        return None
    if not _ENGINE_ROUTE.match(entry.route) or not _ENGINE_ADDRESS.match(entry.upstream_host):
        return None
    if entry.first_byte_ms >= 0 or not ENGINE_ENDED.isdisjoint(entry.flags):
        return None
    rids = _rids(record.request_id, record.endpoint, record.choices)
    return Abort(engine=entry.upstream_host, rids=rids) if rids else None


def abort_at_limit(event: Event) -> Abort | None:
    """Whom to tell to stop because its stream was ended at max_tokens, which it goes past; None for any other
    event. The tap's settle says so (ext_proc/phases/settlement.py): the access entry comes only when the
    engine is done."""
    context = event.context or {}
    engine, choices = context.get("detail.upstream", ""), context.get("detail.choices", "")
    if event.type not in _SETTLES or context.get("detail.ended") != "limit":
        return None
    if not _ENGINE_ADDRESS.match(engine) or not _CHOICES.match(choices):
        return None
    rids = _rids(event.request_id, context.get("endpoint", ""), int(choices))
    return Abort(engine=engine, rids=rids) if event.request_id and rids else None


def _rids(rid: str, endpoint: str, choices: int) -> tuple[str, ...]:
    if endpoint not in (Endpoint.CHAT.value, Endpoint.COMPLETIONS.value):
        return ()
    if choices == 1:
        return (rid,)
    if endpoint == Endpoint.COMPLETIONS.value:
        return tuple(f"{rid}_{number}" for number in range(min(choices, _BATCH_RIDS)))
    return ()


def event_of(entry: AccessEntry, region: RegionName) -> Event:
    """The entry as an event: no header, no query, no address of the client."""
    record = entry.record
    context = {
        "method": entry.method,
        "path": entry.path[:TEXT_CHARS_MAX],
        "flags": ",".join(entry.flags),
        "upstream": entry.upstream_host,
        "cluster": entry.cluster,
        "route": entry.route,
        "bytes_received": str(entry.bytes_received),
        "bytes_sent": str(entry.bytes_sent),
        "duration_ms": str(entry.duration_ms),
        "first_byte_ms": str(entry.first_byte_ms) if entry.first_byte_ms >= 0 else "",
        "key": entry.key,
    }
    if record is not None:
        context |= {
            "decision": record.decision.value,
            "endpoint": record.endpoint,
            "model": record.model,
            "revision": record.revision,
            "cache": record.cache.value,
        }
    if record is not None and record.lease:
        context |= {  # of a draw that may have died untold with its worker
            "lease": record.lease,
            "lease_windows": " ".join(record.lease_windows),
            "held": record.held.text(),
            "units": str(record.completion_max),
            "hold_expires_at": str(record.hold_expires_at),
        }
    return Event(
        id=f"access/{entry.request_id[:TEXT_CHARS_MAX]}/{entry.start_us}",
        type=EventType.ACCESS,
        at_ms=UnixMillis(entry.start_us // 1000 + max(0, entry.duration_ms)),
        region=region,
        org=entry.org,
        request_id=entry.request_id[:TEXT_CHARS_MAX],
        hold=record.hold if record else "",
        attempt=str(entry.attempts) if entry.attempts else "",
        policy_version=str(record.policy_version) if record and record.policy_version else "",
        verdict=str(entry.code),
        reason=entry.details[:TEXT_CHARS_MAX],
        context={name: text for name, text in context.items() if text},
    )


class AnonymousAllowance:
    """A token bucket for entries without principal."""

    def __init__(self, clock: Clock) -> None:
        """Full."""
        self._clock = clock
        self._left = float(_ANONYMOUS_BURST)
        self._at_s = clock.monotonic_s()

    def take(self) -> bool:
        """Whether one more may be recorded now."""
        now = self._clock.monotonic_s()
        self._left = min(_ANONYMOUS_BURST, self._left + (now - self._at_s) * ANONYMOUS_RATE)
        self._at_s = now
        if self._left < 1:
            return False
        self._left -= 1
        return True
