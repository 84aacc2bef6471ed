"""What an event says was consumed, by whom, and sums of it: the figures of exports and of usage.

An event gives a difference: a hold that was charged in full and later corrected is two of them, each on the
day it was booked, so that a day that is closed stays as it was. Integers only.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass
from datetime import UTC, datetime
from typing import Final

from gateway.bookkeeper.replay import RECONCILED
from gateway.budget.certainty import Certainty, certainty_of
from gateway.budget.ledger import LeaseState
from gateway.events.event import Event, EventType

DAY: Final = "day"
GROUPS: Final = ("org", "team", "user", "key", "model", "workflow", DAY)
"""What sums can be grouped by. Users and unlisted workflows are the pseudonyms of the events; ``day`` is that
of UTC, as 2027-01-31. Empty where an event does not say."""
_CHARGED: Final = frozenset({EventType.HOLD_SETTLED, EventType.HOLD_EXPIRED, EventType.HOLD_CORRECTED})
_DETAIL: Final = "detail."


@dataclass(frozen=True, slots=True, kw_only=True)
class Sums:
    """Whole numbers; negative only in a stretch of time that corrects an earlier one."""

    requests: int = 0
    """That were charged: settled or expired."""
    tokens: int = 0
    """Charged; the parts below are those of them that are known."""
    prompt_tokens: int = 0
    cached_tokens: int = 0
    """Of the prompt."""
    completion_tokens: int = 0
    micro_usd: int = 0
    unknown_requests: int = 0
    """Charged in full because nobody saw what they used, and not corrected yet."""
    unknown_tokens: int = 0
    """Of ``tokens``, those of ``unknown_requests`` and of leases that nobody returned."""
    wasted_tokens: int = 0
    """Produced by attempts that gave no answer; charged to nobody."""
    cache_hits: int = 0
    """Answered from the cache; charged to nobody."""

    def __add__(self, other: Sums) -> Sums:
        return Sums(**{name: getattr(self, name) + getattr(other, name) for name in MEASURES})


MEASURES: Final = tuple(Sums.__dataclass_fields__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Consumption:
    """Of one event. ``groups`` has every name of GROUPS."""

    at_ms: int
    groups: Mapping[str, str]
    sums: Sums


def consumption_of(event: Event) -> Consumption | None:
    """None for an event that consumed nothing."""
    if event.type in _CHARGED:
        sums = _charged(event)
    elif sign := _of_lost_lease(event):
        sums = _lease(event, sign)
    elif event.type is EventType.ATTEMPT_WASTED:
        sums = Sums(wasted_tokens=_wasted(event))
    elif event.type is EventType.CACHE_HIT:
        sums = Sums(cache_hits=1)
    else:
        return None
    context = event.context or {}
    # A late draw takes back what its lease was charged, where that stands: a lease is of no key or model.
    of_lease = event.type is EventType.HOLD_GRANTED
    groups = {name: "" if of_lease else context.get(name, "") for name in GROUPS}
    return Consumption(
        at_ms=event.at_ms, groups={**groups, "org": event.org, DAY: day_of(event.at_ms)}, sums=sums
    )


def day_of(at_ms: int) -> str:
    """The day of UTC, as 2027-01-31; empty outside the years 1 to 9999."""
    try:
        return datetime.fromtimestamp(at_ms // 1000, UTC).date().isoformat()
    except (OverflowError, ValueError, OSError):
        return ""


def _charged(event: Event) -> Sums:
    corrected = event.type is EventType.HOLD_CORRECTED
    unknown = certainty_of(event.type, event.reason) is Certainty.UNKNOWN
    # What was charged before: of a provisional charge its own amounts, else the whole hold, unknown.
    provisional = "was" in (event.amounts or {})
    before = "was" if provisional else "held"
    used, was = _amount(event, "used"), _amount(event, before)
    prompt, completion = _amount(event, "used_prompt_tokens"), _amount(event, "used_completion_tokens")
    if not prompt and not completion and not unknown:  # version 1 knew the parts only as the tap's words
        prompt, completion = _number(event, "prompt"), _number(event, "completion")
    return Sums(
        requests=0 if corrected else 1,
        tokens=used - was if corrected else used,
        prompt_tokens=prompt - (_amount(event, f"{before}_prompt_tokens") if corrected else 0),
        cached_tokens=0 if unknown or provisional else _number(event, "cached"),
        completion_tokens=completion - (_amount(event, f"{before}_completion_tokens") if corrected else 0),
        micro_usd=_amount(event, "used_micro_usd")
        - (_amount(event, f"{before}_micro_usd") if corrected else 0),
        unknown_requests=int(unknown) - int(corrected and not provisional),
        unknown_tokens=(used if unknown else 0) - (was if corrected and not provisional else 0),
    )


def _of_lost_lease(event: Event) -> int:
    """A lease that nobody returned is charged; what is drawn of it late, or returned, is taken back."""
    if event.type is EventType.LEASE_EXPIRED:
        return 1
    if event.type is EventType.LEASE_RETURNED and event.reason == RECONCILED:
        return -1
    late = (event.context or {}).get("lease_state") == LeaseState.EXPIRED
    return -1 if event.type is EventType.HOLD_GRANTED and late else 0


def _lease(event: Event, sign: int) -> Sums:
    return Sums(
        tokens=sign * _amount(event, "held"),
        prompt_tokens=sign * _amount(event, "held_prompt_tokens"),
        completion_tokens=sign * _amount(event, "held_completion_tokens"),
        micro_usd=sign * _amount(event, "held_micro_usd"),
        unknown_tokens=sign * _amount(event, "held"),
    )


def _wasted(event: Event) -> int:
    """Prompt tokens that came from the engine's cache were no work, but they are its tokens all the same."""
    return _number(event, "prompt") + _number(event, "completion")


def _amount(event: Event, name: str) -> int:
    return int((event.amounts or {}).get(name, "0"))


def _number(event: Event, name: str) -> int:
    """A number that the tap wrote: of the settle's detail, or of its own note."""
    context = event.context or {}
    text = context.get(_DETAIL + name, "") or context.get(name, "")
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 15 else 0


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageRow:
    """One group: ``group`` has a value for each name that was asked for, in that order."""

    group: Mapping[str, str]
    sums: Sums


def check_groups(names: Iterable[str]) -> None:
    """Raises ValueError."""
    for name in names:
        if name not in GROUPS:
            raise ValueError(f"{name!r} is nothing to group by: one of {', '.join(GROUPS)}")


class Totals:
    """Sums by group, in the order of the group's values."""

    def __init__(self, by: Sequence[str]) -> None:
        """Raises ValueError for what is not of GROUPS."""
        check_groups(by)
        self._by = tuple(dict.fromkeys(by))
        self._sums: dict[tuple[str, ...], Sums] = {}

    def add(self, groups: Mapping[str, str], sums: Sums) -> None:
        """One more. ``groups`` may have more names than are summed by."""
        key = tuple(groups[name] for name in self._by)
        self._sums[key] = self._sums.get(key, Sums()) + sums

    def rows(self) -> list[UsageRow]:
        """Every group with anything in it."""
        return [
            UsageRow(group=dict(zip(self._by, key, strict=True)), sums=sums)
            for key, sums in sorted(self._sums.items())
            if any(astuple(sums))
        ]
