"""Decision events, schema version 1.

The ledger's Lua call appends flat string fields to the org's outbox stream in the same step that
moves tokens; the bookkeeper turns each into one ``Event``, chains and seals it. Types:

    hold.granted hold.refused hold.settled hold.voided hold.expired hold.corrected   from the ledger
    cache.hit request.refused request.unmetered                                      noted by admit
    access                                                                           Envoy's gRPC access log
    books.opened books.sealed event.unreadable                                       the bookkeeper itself
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

SCHEMA_VERSION: Final = 1


class EventType(StrEnum):
    """What happened. The value is the wire name."""

    HOLD_GRANTED = "hold.granted"
    HOLD_REFUSED = "hold.refused"
    HOLD_SETTLED = "hold.settled"
    HOLD_VOIDED = "hold.voided"
    HOLD_EXPIRED = "hold.expired"
    HOLD_CORRECTED = "hold.corrected"
    CACHE_HIT = "cache.hit"
    REQUEST_REFUSED = "request.refused"
    REQUEST_UNMETERED = "request.unmetered"
    ACCESS = "access"
    BOOKS_OPENED = "books.opened"
    BOOKS_SEALED = "books.sealed"
    EVENT_UNREADABLE = "event.unreadable"
    """An outbox entry that is no event of this schema, kept raw: dropping it would lose evidence, leaving it
    would block the outbox."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One decision. Amounts are integer tokens as strings, so that no reader rounds them."""

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
    """Of held, used, released, prompt, completion, cached, remaining, needed: those that apply."""
    accounts: tuple[str, ...] = ()
    """``<account>|<window>|<window start ms>`` that the amounts touched."""
    context: Mapping[str, str] | None = None
    """Team, key, model, revision, endpoint, pseudonyms; never a prompt, an answer or a credential.
    ``detail.<name>`` is the resolver's, ``field.<name>`` a field that a newer ledger wrote."""
