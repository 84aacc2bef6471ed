"""What the machines want measured: plain data, carried out by measures.py."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from gateway.contract.units import Tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class ObserveAdmission:
    """Metrics: a decision of admit. ``began_s``: when the message that led to it came."""

    verdict: str
    code: str
    began_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ObserveLookup:
    """Metrics: ``hit``, ``miss``, ``bypass`` or ``unavailable``; ``reason``: a hit's kind, else why not."""

    result: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ObserveAnswer:
    """Metrics: an answer that has ended. Seconds are None where there is nothing to measure."""

    model: str
    finish_reason: str
    prompt: Tokens
    completion: Tokens
    cached: Tokens
    duration_s: float | None
    first_token_s: float | None
    seconds_per_output_token: float | None
    unmended: bool = False
    """It was too large to be read whole, and went on as it was."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ObserveWaste:
    """Metrics: tokens that an engine spent and nobody is charged for; ``cause``: failed, over_limit."""

    model: str
    cause: str
    tokens: Tokens


Observation: TypeAlias = ObserveAdmission | ObserveLookup | ObserveAnswer | ObserveWaste
