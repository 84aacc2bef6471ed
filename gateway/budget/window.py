"""Windows of an account: what is limited, over which time, and what happens at the limit."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from gateway.budget.measure import Measure
from gateway.contract.ids import AccountId
from gateway.contract.units import TOKENS_MAX, UnixMillis

UNLIMITED: Final = -1
"""Limit of a window that is counted and never refuses."""
UTC: Final = "UTC"
ROLLING_SECONDS_MAX: Final = 31 * 24 * 3600
ROLLING_BUCKETS: Final = 60
"""A rolling window of N seconds is kept in buckets of ceil(N / 60) seconds and forgets whole buckets: what
counts is never less than the last N seconds, and at most one bucket more."""
_ACCOUNT: Final = re.compile(r"[a-z0-9][a-z0-9_./-]{0,159}\Z")
"""Neither a brace (hash tag), nor a space, pipe, comma or equals sign (our separators)."""
_ZONE: Final = re.compile(r"[A-Za-z][A-Za-z0-9_+/-]{0,63}\Z")


class WindowKind(StrEnum):
    """Fixed windows begin with the clock; a rolling one ends now; a lifetime has no end."""

    MINUTE = "minute"
    HOUR = "hour"
    DAY = "day"
    MONTH = "month"
    ROLLING = "rolling"
    LIFETIME = "lifetime"


class Enforcement(StrEnum):
    """What reaching a limit does."""

    HARD = "hard"
    """Clamps and refuses."""
    SOFT = "soft"
    """Is said in the event and in a response header; refuses nothing."""
    SHADOW = "shadow"
    """Is counted, and said in the event only: to try a limit out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """``limit`` of ``measure`` in each window; UNLIMITED only counts.

    ``zone``: IANA name, of days and months only. ``seconds``: of a rolling window only. ``burst``: of
    minutes and hours only: so much of what the window before left unspent may be used on top.
    CONCURRENT goes with LIFETIME only.
    """

    kind: WindowKind
    limit: int
    measure: Measure = Measure.TOKENS
    enforcement: Enforcement = Enforcement.HARD
    zone: str = UTC
    seconds: int = 0
    burst: int = 0

    def __post_init__(self) -> None:
        """Raises ValueError."""
        if not UNLIMITED <= self.limit <= TOKENS_MAX:
            raise ValueError(f"limit: must be 0 to {TOKENS_MAX} or UNLIMITED, got {self.limit}")
        if self.zone != UTC and self.kind not in (WindowKind.DAY, WindowKind.MONTH):
            raise ValueError(f"zone: a {self.kind} has none")
        if not _ZONE.match(self.zone):
            raise ValueError(f"zone: {self.zone!r} is no name of a time zone")
        rolling = self.kind is WindowKind.ROLLING
        if rolling != (self.seconds > 0) or self.seconds > ROLLING_SECONDS_MAX:
            raise ValueError(f"seconds: 1 to {ROLLING_SECONDS_MAX} for a rolling window, 0 for others")
        bursty = self.kind in (WindowKind.MINUTE, WindowKind.HOUR)
        if not 0 <= self.burst <= (TOKENS_MAX if bursty and self.limit != UNLIMITED else 0):
            raise ValueError("burst: only of limited minutes and hours, 0 or more")
        if (self.measure is Measure.CONCURRENT) and self.kind is not WindowKind.LIFETIME:
            raise ValueError("concurrent requests are counted now, over no time: use the kind lifetime")

    @property
    def span(self) -> str:
        """``minute``, ``day``, ``day@Europe/Berlin``, ``rolling-3600``, ``lifetime``: the time part of the
        window's name."""
        if self.kind is WindowKind.ROLLING:
            return f"rolling-{self.seconds}"
        return self.kind.value if self.zone == UTC else f"{self.kind.value}@{self.zone}"

    @property
    def name(self) -> tuple[Measure, str]:
        """What an account has once."""
        return self.measure, self.span


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """``org``, ``team/<id>``, ``user/<pseudonym>``, ``key/<id>``, ``model/<name>`` or
    ``workflow/<pseudonym>`` inside the org, with the windows the caller's policy gives it (perhaps none)."""

    id: AccountId
    windows: tuple[Window, ...]

    def __post_init__(self) -> None:
        """Raises ValueError."""
        if not _ACCOUNT.match(self.id):
            raise ValueError(f"account: {self.id!r} must match {_ACCOUNT.pattern}")
        if len({window.name for window in self.windows}) < len(self.windows):
            raise ValueError(f"account {self.id}: a window stands twice")


def window_id(account: AccountId, measure: Measure, span: str, start: UnixMillis) -> str:
    """``<account>|<span>|<start ms>`` for tokens, ``<account>|<measure>|<span>|<start ms>`` for the others,
    as it stands in holds and events. The first form is all that version 1 of the library knew. ``start``
    of a rolling window is that of its bucket, of a lifetime 0."""
    if measure is Measure.TOKENS:
        return f"{account}|{span}|{start}"
    return f"{account}|{measure}|{span}|{start}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """One account window after a decision."""

    account: AccountId
    measure: Measure
    span: str
    limit: int
    """As it counts now: with credit, burst and override. UNLIMITED for none."""
    used: int
    held: int
    resets_at: UnixMillis
    """When it begins anew; of a rolling window when its oldest bucket leaves; 0 for never."""
    enforcement: Enforcement = Enforcement.HARD
    frozen: bool = False
    """The account is frozen: nothing is granted whatever is left."""

    @property
    def kind(self) -> WindowKind:
        """The kind that ``span`` names."""
        return WindowKind(self.span.partition("@")[0].partition("-")[0])

    @property
    def remaining(self) -> int:
        """What is left; 0 when a limit was lowered below what is used; UNLIMITED without a limit."""
        if self.limit == UNLIMITED:
            return UNLIMITED
        return max(0, self.limit - self.used - self.held)
