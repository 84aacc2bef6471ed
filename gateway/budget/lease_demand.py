"""What an account set has lately asked for: whether it is busy, and how large its requests are.

A forecast, therefore in floats: it sizes leases, and what a lease holds is the ledger's integer.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from gateway.budget.measure import AMOUNT_MAX, Amounts
from gateway.contract.units import MicroUsd, Tokens

MEMORY_S: Final = 2.0
"""A request's weight falls to 1/e in this time: long enough for a mean, short enough to follow the load."""
BUSY_PER_S: Final = 10.0
"""Requests a second from which an account set is busy. A lease is spoken of ten times a second at least
(lease_hand.HEAR_EVERY_S): below this it costs the ledger more calls than it saves."""


@dataclass(slots=True)
class Demand:
    """Sums that fade; ``at_s`` is when they were last brought up to date, monotonic seconds."""

    requests: float = 0.0
    tokens: float = 0.0
    prompt_tokens: float = 0.0
    completion_tokens: float = 0.0
    micro_usd: float = 0.0
    at_s: float = 0.0

    def add(self, amounts: Amounts, now_s: float) -> None:
        """One request that asks for ``amounts``."""
        self._fade(now_s)
        self.requests += 1.0
        self.tokens += amounts.tokens
        self.prompt_tokens += amounts.prompt_tokens
        self.completion_tokens += amounts.completion_tokens
        self.micro_usd += amounts.micro_usd

    def per_second(self, now_s: float) -> float:
        """Requests a second."""
        self._fade(now_s)
        return self.requests / MEMORY_S

    def busy(self, now_s: float) -> bool:
        """Whether a lease pays."""
        return self.per_second(now_s) >= BUSY_PER_S

    def amounts(self, requests: int) -> Amounts:
        """Of so many requests of the mean size, rounded up."""
        each = requests / max(self.requests, 1e-9)
        return Amounts(
            tokens=Tokens(_whole(self.tokens * each)),
            prompt_tokens=Tokens(_whole(self.prompt_tokens * each)),
            completion_tokens=Tokens(_whole(self.completion_tokens * each)),
            micro_usd=MicroUsd(_whole(self.micro_usd * each)),
        )

    def _fade(self, now_s: float) -> None:
        if now_s <= self.at_s:
            return
        kept = math.exp((self.at_s - now_s) / MEMORY_S)
        self.at_s = now_s
        self.requests *= kept
        self.tokens *= kept
        self.prompt_tokens *= kept
        self.completion_tokens *= kept
        self.micro_usd *= kept


def _whole(amount: float) -> int:
    # The tenth of a thousandth off: a mean of whole numbers must not be rounded up for a float's last digit.
    return min(AMOUNT_MAX, math.ceil(amount - 1e-4))
