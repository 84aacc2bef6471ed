"""The outbox entry: flat string fields that the ledger appends in the step that moves tokens.

Always present: ``type at_ms org request_id hold policy_version verdict reason accounts`` (``accounts``:
the ids of windows, see window.window_id, separated by spaces). Then amounts as ``a.<name>``, the hold's
context as ``c.<name>`` and the resolver's detail as ``d.<name>``.

    type            verdict     amounts                      reason
    hold.granted    granted     held*, remaining (limited)
    hold.refused    refused     needed, remaining            window that refused, without its start; or
                                                             ``<account>|frozen``
    hold.settled    posted      held*, used*, released       ``unknown``: charged in full blindly;
                                                             ``provisional``: there may have been more
    hold.voided     voided      held*, released              the caller's
    hold.expired    expired     held*, used*
    hold.corrected  corrected   held*, used*, was*, released ``provisional``, or none: now it is exact
    lease.granted   granted     held*, held_requests         hold is the lease
    lease.returned  returned    held*, held_requests         its rest, released; ``reconciled``: had expired
    lease.expired   expired     held*, held_requests         its rest, charged in full
    budget.adjusted set, top_up, reset, freeze, unfreeze     the operator's; context account, window, actor,
                                                             limit_before, limit_after
    (note)          noted

``held*`` stands for ``held`` (tokens) and, where they are not 0, ``held_prompt_tokens``,
``held_completion_tokens`` and ``held_micro_usd``; ``used*`` likewise, and ``was*``: what a provisional charge
was before its correction (without it the whole hold was charged). Each hold counts one request: held while
live, used once posted, expired or corrected; a request in flight is held only.

So that counters can be replayed: granted adds to held; settled, voided and expired take it away; settled and
expired add to used; corrected adds ``used* - was*``, or ``used* - held*``, to used. A hold.granted with
context ``lease`` was funded by that lease, of which it is a part: held does not change, or, with
``lease_state`` ``expired``, goes from used to held. lease.granted, returned and expired move their amounts as
holds do; returned with the reason ``reconciled`` takes them from used. Detail ``soft_over`` and
``shadow_over`` of hold.granted and lease.granted: the windows that now stand above a soft or shadow limit (of
a draw its lease has said them). budget.adjusted ``top_up`` adds the limit of its ``window`` to the credit of
the window in ``accounts``, up to TOKENS_MAX.

The types are those of gateway/events/event.py (a test holds the two together).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from gateway.budget.measure import Amounts, Measure
from gateway.budget.window import UTC, Enforcement, Window, WindowKind

HOLD_GRANTED: Final = "hold.granted"
HOLD_REFUSED: Final = "hold.refused"
HOLD_SETTLED: Final = "hold.settled"
HOLD_VOIDED: Final = "hold.voided"
HOLD_EXPIRED: Final = "hold.expired"
HOLD_CORRECTED: Final = "hold.corrected"
LEASE_GRANTED: Final = "lease.granted"
LEASE_RETURNED: Final = "lease.returned"
LEASE_EXPIRED: Final = "lease.expired"
BUDGET_ADJUSTED: Final = "budget.adjusted"
LEDGER_TYPES: Final = (
    HOLD_GRANTED,
    HOLD_REFUSED,
    HOLD_SETTLED,
    HOLD_VOIDED,
    HOLD_EXPIRED,
    HOLD_CORRECTED,
    LEASE_GRANTED,
    LEASE_RETURNED,
    LEASE_EXPIRED,
    BUDGET_ADJUSTED,
)
NOTED: Final = "noted"
"""Verdict of an entry that moved no tokens."""
UNKNOWN_USAGE: Final = "unknown"
"""Reason of a settle that saw nothing and charged the whole hold."""
PROVISIONAL_USAGE: Final = "provisional"
"""Reason of a settle that charged what was seen, of which there may have been more, or an estimate."""
AMOUNT: Final = "a."
CONTEXT: Final = "c."
DETAIL: Final = "d."


def prefixed(prefix: str, values: Mapping[str, str]) -> dict[str, str]:
    """``values`` with ``prefix`` before each name."""
    return {prefix + name: value for name, value in values.items()}


def unprefixed(prefix: str, fields: Mapping[str, str]) -> dict[str, str]:
    """The fields that carry ``prefix``, without it."""
    return {name[len(prefix) :]: value for name, value in fields.items() if name.startswith(prefix)}


def amounts(name: str, counted: Amounts) -> dict[str, int]:
    """``held*`` or ``used*``."""
    found: dict[str, int] = {name: counted.tokens}
    parts = (counted.prompt_tokens, counted.completion_tokens, counted.micro_usd)
    measures = (Measure.PROMPT_TOKENS, Measure.COMPLETION_TOKENS, Measure.MICRO_USD)
    for measure, count in zip(measures, parts, strict=True):
        if count:
            found[f"{name}_{measure}"] = count
    return found


def amounts_of(name: str, counts: Mapping[str, str] | None) -> Amounts:
    """What ``amounts`` wrote, of an entry's amounts; None has none. Raises ValueError."""
    found = counts or {}
    parts = (Measure.PROMPT_TOKENS, Measure.COMPLETION_TOKENS, Measure.MICRO_USD)
    names = (name, *(f"{name}_{measure}" for measure in parts))
    return Amounts.of_numbers(int(found.get(one, "0")) for one in names)


def window_text(window: Window) -> str:
    """``<measure>,<span>,<limit>,<enforcement>,<burst>``: a window in the ledger's limits and in events."""
    return f"{window.measure},{window.span},{window.limit},{window.enforcement},{window.burst}"


def window_of(text: str) -> Window:
    """What ``window_text`` wrote. Raises ValueError."""
    measure, span, limit, enforcement, burst = text.split(",")
    kind, _, zone = span.partition("@")
    kind, _, seconds = kind.partition("-")
    return Window(
        kind=WindowKind(kind),
        measure=Measure(measure),
        limit=int(limit),
        enforcement=Enforcement(enforcement),
        zone=zone or UTC,
        seconds=int(seconds or 0),
        burst=int(burst),
    )
