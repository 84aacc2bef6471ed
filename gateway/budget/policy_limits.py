"""Limits as a policy file says them at one place, and as windows of an account."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from gateway.budget.measure import Measure
from gateway.budget.window import UNLIMITED, UTC, Enforcement, Window, WindowKind
from gateway.contract.units import Tokens

ANY: Final = "*"
"""Every org, team, user, key, model or workflow that is not listed."""
UNLIMITED_WORD: Final = "unlimited"
SHORTHANDS: Final = {"tokens_per_minute": WindowKind.MINUTE, "tokens_per_month": WindowKind.MONTH}
"""Fields beside ``limits``: tokens of these windows, hard."""
ROLLING: Final = "rolling_seconds"
MEASURES: Final = tuple(measure.value for measure in Measure)
LEASE_REQUESTS: Final = 32
LEASE_REQUESTS_LEAST: Final = 4
ALWAYS: Final = tuple(Window(kind=kind, limit=UNLIMITED) for kind in SHORTHANDS.values())
"""Windows that an org and a key have in any case: they are in the caller's headers, and a window without a
limit replaces the limit that an older version had."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestLimits:
    """Most of one request; None for no limit. ``completion_tokens_max`` is of each completion."""

    prompt_tokens_max: Tokens | None = None
    completion_tokens_max: Tokens | None = None

    def and_also(self, other: RequestLimits) -> RequestLimits:
        """The smaller of both."""
        return RequestLimits(
            prompt_tokens_max=_smaller(self.prompt_tokens_max, other.prompt_tokens_max),
            completion_tokens_max=_smaller(self.completion_tokens_max, other.completion_tokens_max),
        )


def _smaller(one: Tokens | None, other: Tokens | None) -> Tokens | None:
    if one is None or other is None:
        return other if one is None else one
    return min(one, other)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one place of the policy says: windows in the file's order, each name (measure and span) once, and
    the limits of a single request."""

    windows: tuple[Window, ...] = ()
    request: RequestLimits = RequestLimits()

    @classmethod
    def of_tokens(cls, *, per_minute: int | None = None, per_month: int | None = None) -> Limits:
        """Hard limits of tokens; None for none. Raises ValueError."""
        limits = ((WindowKind.MINUTE, per_minute), (WindowKind.MONTH, per_month))
        return cls(
            windows=tuple(Window(kind=kind, limit=limit) for kind, limit in limits if limit is not None)
        )

    def over(self, fallback: Limits) -> Limits:
        """These limits, and the windows of ``fallback`` that have no namesake here."""
        return Limits(
            windows=_with(self.windows, fallback.windows), request=self.request.and_also(fallback.request)
        )

    def always_counted(self) -> tuple[Window, ...]:
        """The windows, tokens of a minute and of a month first, also where nothing is said of them."""
        known = {window.name: window for window in self.windows}
        return _with(tuple(known.get(window.name, window) for window in ALWAYS), self.windows)


def _with(windows: tuple[Window, ...], more: tuple[Window, ...]) -> tuple[Window, ...]:
    names = {window.name for window in windows}
    return windows + tuple(window for window in more if window.name not in names)


def limits_from(data: Mapping[str, Any]) -> Limits:
    """The limits of a place, which must have passed the schema and policy_problems."""
    windows = [Window(kind=kind, limit=int(data[name])) for name, kind in SHORTHANDS.items() if name in data]
    windows += [window_from(entry) for entry in data.get("limits", ())]
    return Limits(windows=tuple(windows), request=request_limits_from(data.get("request", {})))


def request_limits_from(data: Mapping[str, Any]) -> RequestLimits:
    """Of a ``request`` object."""

    def tokens(name: str) -> Tokens | None:
        return Tokens(int(data[name])) if name in data else None

    return RequestLimits(
        prompt_tokens_max=tokens("prompt_tokens_max"), completion_tokens_max=tokens("completion_tokens_max")
    )


def measure_of(entry: Mapping[str, Any]) -> Measure:
    """Of a ``limits`` entry that has passed the schema: exactly one of its fields is a measure."""
    return Measure(next(name for name in MEASURES if name in entry))


def kind_of(entry: Mapping[str, Any]) -> WindowKind:
    """Of a ``limits`` entry; what is in flight is counted over no time, which is a lifetime to the ledger."""
    per = entry.get("per", WindowKind.LIFETIME.value)
    return WindowKind.ROLLING if isinstance(per, Mapping) else WindowKind(per)


def window_from(entry: Mapping[str, Any]) -> Window:
    """Raises ValueError for what a Window refuses."""
    measure, kind = measure_of(entry), kind_of(entry)
    said = entry[measure]
    return Window(
        kind=kind,
        measure=measure,
        limit=UNLIMITED if said == UNLIMITED_WORD else int(said),
        enforcement=Enforcement(entry.get("enforcement", Enforcement.HARD)),
        zone=entry.get("zone", UTC),
        seconds=int(entry["per"][ROLLING]) if kind is WindowKind.ROLLING else 0,
        burst=int(entry.get("burst", 0)),
    )
