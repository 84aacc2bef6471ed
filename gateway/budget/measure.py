"""What a budget counts: measures, amounts of all of them, and the price of a token.

Integers only. Money is counted in micro-USD; a price of P micro-USD per million tokens is P pico-USD a
token, so that the cost of a request is exact in pico-USD and rounded up once, to a whole micro-USD.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from gateway.contract.units import TOKENS_MAX, MicroUsd, Tokens

PICO_PER_MICRO: Final = 1_000_000
AMOUNT_MAX: Final = 2**40
"""Most of any measure in one hold or settle; keeps sums of thousands of them exact in a Lua number."""
PRICE_MAX: Final = 10**10
"""Pico-USD a token: 10,000 USD per million tokens, far above any price there is."""


class Measure(StrEnum):
    """What a window counts. The value is the wire name, in keys, events and policy files."""

    TOKENS = "tokens"
    """Prompt and completion together."""
    PROMPT_TOKENS = "prompt_tokens"
    COMPLETION_TOKENS = "completion_tokens"
    MICRO_USD = "micro_usd"
    REQUESTS = "requests"
    """One for each hold; released with a void."""
    CONCURRENT = "concurrent"
    """Requests in flight: held while the hold is live, never used."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Amounts:
    """How much of each measure, but for the two that count requests. ``tokens`` need not be the sum of the
    other two: what is held for a prompt is a bound, and what was estimated has no parts."""

    tokens: Tokens = Tokens(0)
    prompt_tokens: Tokens = Tokens(0)
    completion_tokens: Tokens = Tokens(0)
    micro_usd: MicroUsd = MicroUsd(0)

    def __post_init__(self) -> None:
        """Raises ValueError outside 0..AMOUNT_MAX."""
        for name in _NAMES:
            if not 0 <= getattr(self, name) <= AMOUNT_MAX:
                raise ValueError(f"{name}: must be 0 to {AMOUNT_MAX}, got {getattr(self, name)}")

    @classmethod
    def of(cls, prompt: int, completion: int, *, micro_usd: int = 0) -> Amounts:
        """Of so many prompt and completion tokens. Raises ValueError."""
        return cls(
            tokens=Tokens(prompt + completion),
            prompt_tokens=Tokens(prompt),
            completion_tokens=Tokens(completion),
            micro_usd=MicroUsd(micro_usd),
        )

    @classmethod
    def of_numbers(cls, numbers: Iterable[int]) -> Amounts:
        """What ``numbers`` gave. Raises ValueError, also for more or fewer than four; TypeError for what
        are no numbers."""
        tokens, prompt, completion, micro_usd = numbers
        return cls(
            tokens=Tokens(tokens),
            prompt_tokens=Tokens(prompt),
            completion_tokens=Tokens(completion),
            micro_usd=MicroUsd(micro_usd),
        )

    @classmethod
    def of_text(cls, text: str) -> Amounts:
        """What ``text`` gave. Raises ValueError."""
        return cls.of_numbers(map(int, text.split(",")))

    def numbers(self) -> tuple[int, int, int, int]:
        """Tokens, prompt tokens, completion tokens, micro-USD: their order wherever they have no names."""
        return self.tokens, self.prompt_tokens, self.completion_tokens, self.micro_usd

    def text(self) -> str:
        """``<tokens>,<prompt tokens>,<completion tokens>,<micro-USD>``."""
        return ",".join(map(str, self.numbers()))

    def weight(self, measure: Measure, requests: int, in_flight: int) -> int:
        """How much of ``measure``, for so many requests, of which so many are in flight."""
        match measure:
            case Measure.TOKENS:
                return self.tokens
            case Measure.PROMPT_TOKENS:
                return self.prompt_tokens
            case Measure.COMPLETION_TOKENS:
                return self.completion_tokens
            case Measure.MICRO_USD:
                return self.micro_usd
            case Measure.REQUESTS:
                return requests
            case Measure.CONCURRENT:
                return in_flight

    def covers(self, wanted: Amounts) -> bool:
        """Whether no measure of ``wanted`` is more."""
        return (
            self.tokens >= wanted.tokens
            and self.prompt_tokens >= wanted.prompt_tokens
            and self.completion_tokens >= wanted.completion_tokens
            and self.micro_usd >= wanted.micro_usd
        )

    def less(self, taken: Amounts) -> Amounts:
        """What is left. Raises ValueError where it does not cover ``taken``."""
        return Amounts(
            tokens=Tokens(self.tokens - taken.tokens),
            prompt_tokens=Tokens(self.prompt_tokens - taken.prompt_tokens),
            completion_tokens=Tokens(self.completion_tokens - taken.completion_tokens),
            micro_usd=MicroUsd(self.micro_usd - taken.micro_usd),
        )


_NAMES: Final = ("tokens", "prompt_tokens", "completion_tokens", "micro_usd")
"""Of the four, in the order of ``Amounts.numbers``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """Of one request for one model revision: pico-USD a token, and micro-USD once a request."""

    prompt: int = 0
    completion: int = 0
    request: MicroUsd = MicroUsd(0)

    def __post_init__(self) -> None:
        """Raises ValueError."""
        if not (0 <= self.prompt <= PRICE_MAX and 0 <= self.completion <= PRICE_MAX):
            raise ValueError(f"price: must be 0 to {PRICE_MAX} pico-USD a token")
        if not 0 <= self.request <= AMOUNT_MAX:
            raise ValueError(f"price: must be 0 to {AMOUNT_MAX} micro-USD a request")

    def cost(self, *, prompt: int, completion: int) -> MicroUsd:
        """Micro-USD of one request, rounded up once. Raises ValueError beyond what a Lua number holds."""
        pico = prompt * self.prompt + completion * self.completion
        if pico > TOKENS_MAX:
            raise ValueError(f"price: {prompt} and {completion} tokens cost more than can be counted")
        return MicroUsd(self.request + -(-pico // PICO_PER_MICRO))


FREE: Final = Price()
