"""What one attempt is charged, in the ledger's words and the event's: never more than was held for it.

The engine was told max_tokens, and the prompt's bound is one by construction (ext_proc/prompt_bound.py): a
report of more is a broken engine's, and what it spent beyond is the operator's.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from gateway.budget.admission import AdmissionRecord
from gateway.budget.certainty import Certainty
from gateway.budget.measure import AMOUNT_MAX, PICO_PER_MICRO, PRICE_MAX, Amounts
from gateway.contract.units import MicroUsd, Tokens
from gateway.openai.answers import Usage
from gateway.path import hop

NOTHING: Final = Usage(prompt=Tokens(0), completion=Tokens(0))
OVER_LIMIT: Final = "over_limit"
"""Flag: the engine went past its max_tokens; the charge did not."""
OVER_BOUND: Final = "prompt_over_bound"
"""Flag: the engine reported more prompt tokens than the prompt can have; the charge did not follow."""
ABOVE: Final = frozenset({OVER_LIMIT, OVER_BOUND})


class Ended(StrEnum):
    """How an answer ended."""

    OPEN = "open"
    COMPLETE = "complete"
    CUT = "cut"
    """The client left, or so it looks: Envoy ends this filter's stream likewise when it gives it up."""
    STOPPED = "stopped"
    """The engine stopped in the middle; all of the answer that passed was seen."""
    LOST = "lost"
    """Envoy gave this filter up, which was late: the answer may have gone on unseen."""
    LIMIT = "limit"
    """The engine went past its max_tokens, and the stream was ended there."""
    ERROR = "error"
    """The engine reported an error inside a 200, gave up, or said something that is no answer."""


LATE_S: Final = hop("tap").deadline / 1000 / 2
"""A worker that was behind for half of what Envoy gives it may have been given up: what waits in Envoy, in
the socket and in the loop adds up."""


def cut_by(late_s: float) -> Ended:
    """What the end of the tap's stream means, to a worker that was so far behind. The client's leaving and
    Envoy's going on without us look the same; charged in full until reconciled is what never undercharges."""
    return Ended.LOST if late_s >= LATE_S else Ended.CUT


@dataclass(frozen=True, slots=True, kw_only=True)
class Tariff:
    """Pico-USD a token, micro-USD once a request: what measure.Price is, and the price of a prompt token
    that the engine found in its cache."""

    prompt: int = 0
    cached: int = 0
    completion: int = 0
    request: int = 0

    def __post_init__(self) -> None:
        """Raises ValueError."""
        if not all(0 <= price <= PRICE_MAX for price in (self.prompt, self.cached, self.completion)):
            raise ValueError(f"price: must be 0 to {PRICE_MAX} pico-USD a token")
        if not 0 <= self.request <= AMOUNT_MAX:
            raise ValueError(f"price: must be 0 to {AMOUNT_MAX} micro-USD a request")

    @classmethod
    def of(cls, text: str) -> Tariff:
        """Of AdmissionRecord.price. Raises ValueError."""
        if not text:
            return cls()
        prompt, cached, completion, request = map(int, text.split(","))
        return cls(prompt=prompt, cached=cached, completion=completion, request=request)

    def cost(self, usage: Usage) -> MicroUsd:
        """Micro-USD of one request, rounded up once."""
        pico = (usage.prompt - usage.cached) * self.prompt + usage.cached * self.cached
        pico += usage.completion * self.completion
        return MicroUsd(self.request + -(-pico // PICO_PER_MICRO))


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """What was held for the request."""

    prompt: Tokens
    completion: Tokens
    """The max_tokens of each choice."""
    choices: int
    micro_usd: MicroUsd
    tariff: Tariff
    price: str = ""
    """``tariff`` as it stands in the record."""

    @classmethod
    def of(cls, record: AdmissionRecord) -> Bounds:
        """What admit wrote down. Raises ValueError for a price that it cannot have written."""
        return cls(
            prompt=record.prompt_bound,
            completion=record.completion_max,
            choices=record.choices,
            micro_usd=record.held.micro_usd,
            tariff=Tariff.of(record.price),
            price=record.price,
        )

    def capped(self, usage: Usage, *, payable: int) -> tuple[Usage, set[str]]:
        """``usage`` within what was held, with no more than ``payable`` completion tokens, and flags for what
        was above."""
        flags = set()
        if usage.prompt > self.prompt:
            flags.add(OVER_BOUND)
        if usage.completion > payable:
            flags.add(OVER_LIMIT)
        if not flags:
            return usage, flags
        prompt = min(usage.prompt, self.prompt)
        return (
            Usage(
                prompt=prompt,
                completion=Tokens(min(usage.completion, payable)),
                cached=min(usage.cached, prompt),
            ),
            flags,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Charge:
    """What to settle. With ``unknown`` the whole hold is posted and ``used`` is nothing."""

    used: Amounts
    unknown: bool
    estimated: bool
    """The amount is the last report, not the final one, or a guess, or reports contradicted each other."""
    usage: Usage
    """The tokens in ``used``."""
    detail: Mapping[str, str]
    """For the event: prompt, completion, cached, finish_reason, ended, flags (comma separated), and the
    price, by which the parts of the cost follow from these."""

    @property
    def certainty(self) -> Certainty:
        """Provisional: what was seen of an answer that may have gone on, or what was not told."""
        if self.unknown:
            return Certainty.UNKNOWN
        return Certainty.PROVISIONAL if self.estimated else Certainty.EXACT

    @classmethod
    def of(
        cls,
        usage: Usage | None,
        bounds: Bounds,
        *,
        estimated: bool,
        finish_reason: str,
        ended: str,
        flags: Collection[str],
    ) -> Charge:
        """``usage``: within ``bounds``; None where nothing at all is known."""
        counted = usage or NOTHING
        # What has used no token was not served: the price of a request is not due either.
        cost = min(bounds.tariff.cost(counted), bounds.micro_usd) if counted.total else MicroUsd(0)
        detail = {
            "prompt": str(counted.prompt),
            "completion": str(counted.completion),
            "cached": str(counted.cached),
            "finish_reason": finish_reason,
            "ended": ended,
            "flags": ",".join(sorted(flags)),
        }
        if bounds.price:
            detail["price"] = bounds.price
        return cls(
            used=Amounts.of(counted.prompt, counted.completion, micro_usd=cost),
            unknown=usage is None,
            estimated=estimated,
            usage=counted,
            detail=detail,
        )
