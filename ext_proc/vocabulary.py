"""What can happen to a stream (events) and what is to be done about it (effects).

Both are plain data without a gRPC type: the codec makes events from Envoy's messages, the performer
carries effects out and turns an answer it was asked for into the next event. Times are in the events,
because a decision reads no clock: ``at_ms`` is Unix time, ``at_s`` monotonic.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import TypeAlias

from ext_proc.cache.place import Place
from ext_proc.cache.store import Keys, Lineage, Lookup
from ext_proc.observations import Observation
from ext_proc.recall.words import Ask, Candidate, Served
from gateway.budget.certainty import Certainty
from gateway.budget.ledger import Draw, Granted, HoldRequest, Refused
from gateway.budget.measure import Amounts
from gateway.contract.errors import LedgerUnavailable
from gateway.contract.ids import AccountId, HoldId, OrgId
from gateway.contract.units import Millis, Seconds, UnixMillis

Headers: TypeAlias = Mapping[str, str]
"""Lower-case names; a header that stands twice is joined by a comma, as HTTP joins it."""
Fields: TypeAlias = Mapping[str, object]
"""One namespace of dynamic metadata, as it is read."""
Texts: TypeAlias = Mapping[str, str]
"""One as it is written: all values are strings, because a Struct's numbers are doubles."""


class Phase(Enum):
    """Which of Envoy's messages a reply answers. Values are the fields of ProcessingResponse."""

    REQUEST_HEADERS = "request_headers"
    REQUEST_BODY = "request_body"
    RESPONSE_HEADERS = "response_headers"
    RESPONSE_BODY = "response_body"


# --- events ---


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestHeadersArrived:
    """``principal`` is what ext_authz wrote; None when it wrote nothing. ``header_count`` and
    ``header_bytes`` count each field, also those of one name."""

    headers: Headers
    header_count: int
    header_bytes: int
    principal: Fields | None
    end_of_stream: bool
    at_ms: UnixMillis
    at_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestBodyArrived:
    """The whole body (BUFFERED)."""

    body: bytes
    at_ms: UnixMillis
    at_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ResponseHeadersArrived:
    """``record`` is what admit wrote; None when it wrote nothing (a mirror, an operator's request).
    ``upstream``: ``address:port`` of the engine that answers, empty where Envoy does not say."""

    headers: Headers
    record: Fields | None
    end_of_stream: bool
    at_ms: UnixMillis
    at_s: float
    upstream: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ResponseBodyArrived:
    """One chunk of the answer (STREAMED)."""

    body: bytes
    end_of_stream: bool
    at_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheAnswered:
    """Answer to AskCache; None when the cache was late or broken, which is a miss. ``epoch`` is then where a
    new answer belongs; empty: it is not stored."""

    lookup: Lookup | None
    at_ms: UnixMillis
    epoch: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RecallAnswered:
    """Answer to AskRecall: a candidate with its value (``lookup``), or ``reason``, a code. ``steps``: codes
    and numbers, for the one who asks why."""

    lookup: Lookup | None
    candidate: Candidate | None
    reason: str
    steps: tuple[str, ...]
    at_ms: UnixMillis


@dataclass(frozen=True, slots=True, kw_only=True)
class FlightJoined:
    """Answer to JoinFlight. ``leads``: nobody else asks an engine for the same answer now."""

    leads: bool
    at_ms: UnixMillis


@dataclass(frozen=True, slots=True, kw_only=True)
class Landed:
    """Answer to AwaitLanding: what the one who leads has stored, if it has; None if the cache is away."""

    lookup: Lookup | None
    at_ms: UnixMillis


@dataclass(frozen=True, slots=True, kw_only=True)
class Behind:
    """The ledger was not asked: others wait for ``account``, and this request does not come before them."""

    account: AccountId


@dataclass(frozen=True, slots=True, kw_only=True)
class HoldAnswered:
    """Answer to Reserve; Behind only where the request may wait."""

    answer: Granted | Refused | Behind | LedgerUnavailable
    at_ms: UnixMillis


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnCame:
    """Answer to AwaitTurn. ``left``: of the time it may wait; 0 when that is over, or when no place was left
    to wait in: there is no turn then."""

    left: Seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class OpeningOverdue:
    """The time of AwaitOpening is over and no reply has been given since."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerGone:
    """Nothing more will come from Envoy, and nothing can be sent."""

    at_s: float
    late_s: float = 0.0
    """How far this worker was behind, at worst, since the last message but one."""


Event: TypeAlias = (
    RequestHeadersArrived
    | RequestBodyArrived
    | ResponseHeadersArrived
    | ResponseBodyArrived
    | CacheAnswered
    | RecallAnswered
    | FlightJoined
    | Landed
    | HoldAnswered
    | TurnCame
    | OpeningOverdue
    | PeerGone
)


# --- effects: replies to Envoy ---


@dataclass(frozen=True, slots=True, kw_only=True)
class Continue:
    """Let the message of ``phase`` go on, changed as said. ``body`` None: as it is."""

    phase: Phase
    set_headers: Headers = field(default_factory=dict)
    remove_headers: tuple[str, ...] = ()
    body: bytes | None = None
    clear_route_cache: bool = False
    metadata: Mapping[str, Texts] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplyNow:
    """Envoy answers with this instead; once the answer's headers have gone on, it resets the client's stream.
    ``details`` goes into the access log."""

    status: int
    headers: Headers
    body: bytes
    details: str
    metadata: Mapping[str, Texts] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class TakeTime:
    """No decision yet: Envoy is to wait ``at_most`` for it, from now. Once for one message of Envoy."""

    at_most: Seconds


# --- effects: questions, each answered by one event ---


@dataclass(frozen=True, slots=True, kw_only=True)
class AskCache:
    """Answered by CacheAnswered."""

    org: OrgId
    keys: Keys


@dataclass(frozen=True, slots=True, kw_only=True)
class AskRecall:
    """Is there an answer to a question that means the same? Answered by RecallAnswered."""

    ask: Ask


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinFlight:
    """One of those who ask the same at the same time leads. Answered by FlightJoined."""

    org: OrgId
    key: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AwaitLanding:
    """Wait for the answer of the one who leads; answered by Landed."""

    org: OrgId
    keys: Keys
    at_most: Seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Reserve:
    """Answered by HoldAnswered. ``priority``: of a request that may wait; None for one that neither waits nor
    lets others go before it."""

    request: HoldRequest
    priority: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AwaitTurn:
    """Wait in the line of ``account``; answered by TurnCame. ``pause``: after which the first of the line is
    to try again, even if nothing was released. ``at_most``: over all waits of the hold."""

    org: OrgId
    hold: HoldId
    account: AccountId
    priority: int
    pause: Seconds
    at_most: Seconds


# --- effects: deeds, done in order and before the replies of the same step ---


@dataclass(frozen=True, slots=True, kw_only=True)
class Settle:
    """Post what a hold has cost. ``draw``: should it have been granted out of a worker's lease."""

    org: OrgId
    hold: HoldId
    used: Amounts
    certainty: Certainty
    detail: Mapping[str, str]
    draw: Draw | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Void:
    """Release a hold: nothing was produced."""

    org: OrgId
    hold: HoldId
    reason: str
    draw: Draw | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Extend:
    """Let a hold expire no sooner than ``ttl`` from now; nobody waits for it."""

    org: OrgId
    hold: HoldId
    ttl: Millis


@dataclass(frozen=True, slots=True, kw_only=True)
class Store:
    """Put an answer into the cache, and let recall remember its question; nobody waits for it."""

    org: OrgId
    place: Place
    lineage: Lineage
    answer: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Land:
    """This request leads and will store nothing: those who wait for it need not."""

    org: OrgId
    key: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """A client says that ``entry`` does not answer the question ``asked``."""

    org: OrgId
    asked: str
    entry: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Expect:
    """Let recall know a question that it could not be asked: its answer may come to be stored."""

    ask: Ask


@dataclass(frozen=True, slots=True, kw_only=True)
class Verify:
    """A hit that was drawn to be compared with an engine's answer, off the path."""

    served: Served


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """Append an event that moves no tokens; nobody waits for it."""

    org: OrgId
    kind: str
    context: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class AwaitOpening:
    """No reply yet: wait so long for the next message, then OpeningOverdue."""

    at_most: Seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class CloseStream:
    """The last reply has been given: end the stream cleanly."""


Reply: TypeAlias = Continue | ReplyNow | TakeTime
Question: TypeAlias = AskCache | AskRecall | JoinFlight | Reserve
Wait: TypeAlias = AwaitTurn | AwaitLanding
Resolution: TypeAlias = Settle | Void
Unawaited: TypeAlias = Extend | Store | Land | Bar | Expect | Verify | Note | Observation
Deed: TypeAlias = Resolution | Unawaited
Effect: TypeAlias = Reply | Question | Wait | Deed | AwaitOpening | CloseStream
