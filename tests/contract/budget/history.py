"""What an outbox says the counters are, by the rules in gateway/budget/outbox.py and nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from gateway.budget.outbox import window_of
from gateway.contract.units import TOKENS_MAX

_MEASURES = ("tokens", "prompt_tokens", "completion_tokens", "micro_usd")


@dataclass(slots=True)
class Count:
    """One window."""

    used: int = 0
    held: int = 0
    credit: int = 0


@dataclass(slots=True)
class History:
    """Entries in, counters out."""

    counts: dict[str, Count] = field(default_factory=dict)
    firsts: dict[str, int] = field(default_factory=dict)
    """How often each hold was resolved, since it was granted."""

    def add(self, entry: Mapping[str, str]) -> None:
        """One entry."""
        kind = entry["type"]
        if kind == "budget.adjusted":
            self._adjusted(entry)
            return
        held, used = _amounts(entry, "a.held"), _amounts(entry, "a.used")
        if kind.startswith("lease."):
            self._lease(entry, held)
        elif kind == "hold.granted":
            self.firsts[entry["hold"]] = 0
            if "c.lease" not in entry:
                self._move(entry, held=held, requests_held=1, flights=1)
            elif entry.get("c.lease_state") == "expired":
                self._move(
                    entry, held=held, requests_held=1, flights=1, used=_negative(held), requests_used=-1
                )
        elif kind in ("hold.settled", "hold.expired"):
            self._resolved(entry)
            self._move(entry, held=_negative(held), requests_held=-1, flights=-1, used=used, requests_used=1)
        elif kind == "hold.voided":
            self._resolved(entry)
            self._move(entry, held=_negative(held), requests_held=-1, flights=-1)
        elif kind == "hold.corrected":
            was = _amounts(entry, "a.was") if "a.was" in entry else held
            self._move(entry, used={name: used[name] - was[name] for name in used})

    def _resolved(self, entry: Mapping[str, str]) -> None:
        self.firsts[entry["hold"]] += 1
        assert self.firsts[entry["hold"]] == 1, f"{entry['hold']} was resolved twice"

    def _lease(self, entry: Mapping[str, str], held: dict[str, int]) -> None:
        requests = int(entry["a.held_requests"])
        if entry["type"] == "lease.granted":
            self._move(entry, held=held, requests_held=requests)
        elif entry["type"] == "lease.expired":
            self._move(
                entry, held=_negative(held), requests_held=-requests, used=held, requests_used=requests
            )
        elif entry["reason"] == "reconciled":
            self._move(entry, used=_negative(held), requests_used=-requests)
        else:
            self._move(entry, held=_negative(held), requests_held=-requests)

    def _adjusted(self, entry: Mapping[str, str]) -> None:
        if entry["verdict"] == "top_up":
            count = self.counts.setdefault(entry["accounts"], Count())
            count.credit = min(TOKENS_MAX, count.credit + window_of(entry["c.window"]).limit)

    def _move(
        self,
        entry: Mapping[str, str],
        *,
        held: Mapping[str, int] | None = None,
        used: Mapping[str, int] | None = None,
        requests_held: int = 0,
        requests_used: int = 0,
        flights: int = 0,
    ) -> None:
        for window in entry["accounts"].split():
            count = self.counts.setdefault(window, Count())
            parts = window.split("|")
            measure = "tokens" if len(parts) == 3 else parts[1]
            count.held += {**(held or {}), "requests": requests_held, "concurrent": flights}.get(measure, 0)
            count.used += {**(used or {}), "requests": requests_used}.get(measure, 0)


def _amounts(entry: Mapping[str, str], name: str) -> dict[str, int]:
    return {
        measure: int(entry.get(name if measure == "tokens" else f"{name}_{measure}", 0))
        for measure in _MEASURES
    }


def _negative(amounts: Mapping[str, int]) -> dict[str, int]:
    return {name: -amount for name, amount in amounts.items()}
