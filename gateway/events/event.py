"""Decision events, schema version 2.

The ledger's Lua call appends flat string fields to the org's outbox stream in the same step that
moves tokens; the bookkeeper turns each into one ``Event``, chains and seals it. Types:

    hold.granted hold.refused hold.settled hold.voided hold.expired hold.corrected   from the ledger
    lease.granted lease.returned lease.expired budget.adjusted                       from the ledger
    cache.hit cache.barred request.refused request.unmetered                         noted by admit
    attempt.wasted                                                                   noted by the tap
    keys.changed cache.purged                                                        noted by the commands
    cache.barred cache.switched                                                      noted by recall
    access                                                                           Envoy's gRPC access log
    books.opened books.sealed event.unreadable                                       the bookkeeper itself

Version 1 had neither the second line of these, nor wasted attempts and changed keys, nor amounts of other
measures than tokens. Its records stand in chains that go on in version 2, so a reader reads both, and an
event keeps the version it was written in.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

SCHEMA_VERSION: Final = 2


class EventType(StrEnum):
    """What happened. The value is the wire name."""

    HOLD_GRANTED = "hold.granted"
    HOLD_REFUSED = "hold.refused"
    HOLD_SETTLED = "hold.settled"
    HOLD_VOIDED = "hold.voided"
    HOLD_EXPIRED = "hold.expired"
    HOLD_CORRECTED = "hold.corrected"
    LEASE_GRANTED = "lease.granted"
    LEASE_RETURNED = "lease.returned"
    LEASE_EXPIRED = "lease.expired"
    BUDGET_ADJUSTED = "budget.adjusted"
    CACHE_HIT = "cache.hit"
    CACHE_BARRED = "cache.barred"
    """An answer does not go with a question: a client, a judge or an operator has said so."""
    CACHE_PURGED = "cache.purged"
    """An operator has ended the answers that come from something."""
    CACHE_SWITCHED = "cache.switched"
    """A kind of hits was switched off, or on again, by its share of false ones."""
    REQUEST_REFUSED = "request.refused"
    REQUEST_UNMETERED = "request.unmetered"
    ATTEMPT_WASTED = "attempt.wasted"
    """An engine worked on it, and the answer came from another attempt, or from none."""
    KEYS_CHANGED = "keys.changed"
    """An API key was made, rotated or revoked."""
    ACCESS = "access"
    BOOKS_OPENED = "books.opened"
    BOOKS_SEALED = "books.sealed"
    EVENT_UNREADABLE = "event.unreadable"
    """An outbox entry that is no event of this schema, kept raw: dropping it would lose evidence, leaving it
    would block the outbox."""


_SINCE_2: Final = frozenset(
    {
        EventType.LEASE_GRANTED,
        EventType.LEASE_RETURNED,
        EventType.LEASE_EXPIRED,
        EventType.BUDGET_ADJUSTED,
        EventType.ATTEMPT_WASTED,
        EventType.CACHE_BARRED,
        EventType.CACHE_PURGED,
        EventType.CACHE_SWITCHED,
        EventType.KEYS_CHANGED,
    }
)
TYPES: Final = {1: frozenset(EventType) - _SINCE_2, SCHEMA_VERSION: frozenset(EventType)}
"""The types of each schema version that is read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One decision. Amounts are integers as strings, so that no reader rounds them."""

    id: str
    """Unique in the region: ``<org>/<outbox id>``, ``access/<request id>/<start us>`` or ``books/<seq>``."""
    type: EventType
    at_ms: int
    region: str
    org: str
    request_id: str
    hold: str = ""
    attempt: str = ""
    policy_version: str = ""
    verdict: str = ""
    reason: str = ""
    amounts: Mapping[str, str] | None = None
    """Those of gateway/budget/outbox.py that apply: tokens where the name says no other measure."""
    accounts: tuple[str, ...] = ()
    """Ids of the windows that the amounts touched (gateway/budget/window.py, window_id)."""
    context: Mapping[str, str] | None = None
    """Team, key, model, revision, endpoint, pseudonyms; never a prompt, an answer or a credential.
    ``detail.<name>`` is the resolver's, ``field.<name>`` a field that a newer ledger wrote."""
    version: int = SCHEMA_VERSION
    """The schema version it was written in."""
