"""The outbox entry: flat string fields that the ledger appends in the step that moves tokens.

Always present: ``type at_ms org request_id hold policy_version verdict reason accounts``
(``accounts``: ``<account>|<kind>|<window start ms>``, separated by spaces). Then amounts as
``a.<name>``, the hold's context as ``c.<name>`` and the resolver's detail as ``d.<name>``.

    type            verdict     amounts                    reason
    hold.granted    granted     held, remaining (limited)
    hold.refused    refused     needed, remaining          ``<account>|<kind>`` that refused
    hold.settled    posted      held, used, released       ``unknown`` when charged in full blindly
    hold.voided     voided      held, released             the caller's
    hold.expired    expired     held, used
    hold.corrected  corrected   held, used, released       was charged ``held``; now ``used``
    (note)          noted

So that counters can be replayed: granted adds ``held`` to the accounts' held; settled, voided and
expired take it away; settled and expired add ``used`` to used; corrected adds ``used - held`` to used.
The types are those of gateway/events/event.py (a test holds the two together).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

HOLD_GRANTED: Final = "hold.granted"
HOLD_REFUSED: Final = "hold.refused"
HOLD_SETTLED: Final = "hold.settled"
HOLD_VOIDED: Final = "hold.voided"
HOLD_EXPIRED: Final = "hold.expired"
HOLD_CORRECTED: Final = "hold.corrected"
LEDGER_TYPES: Final = (
    HOLD_GRANTED,
    HOLD_REFUSED,
    HOLD_SETTLED,
    HOLD_VOIDED,
    HOLD_EXPIRED,
    HOLD_CORRECTED,
)
NOTED: Final = "noted"
"""Verdict of an entry that moved no tokens."""
UNKNOWN_USAGE: Final = "unknown"
"""Reason of a settle that saw nothing and charged the whole hold."""
AMOUNT: Final = "a."
CONTEXT: Final = "c."
DETAIL: Final = "d."


def prefixed(prefix: str, values: Mapping[str, str]) -> dict[str, str]:
    """``values`` with ``prefix`` before each name."""
    return {prefix + name: value for name, value in values.items()}


def unprefixed(prefix: str, fields: Mapping[str, str]) -> dict[str, str]:
    """The fields that carry ``prefix``, without it."""
    return {name[len(prefix) :]: value for name, value in fields.items() if name.startswith(prefix)}
