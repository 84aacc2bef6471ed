"""Shapes of conversations whose last question means something else after another history.

A line of a dialogue is `role: text`; roles are system, developer, user, assistant, call and tool. A `call` is
an assistant's message with one tool call (`name key=value`), `tool` its result. `{0}`, `{1}` ... are filled
from one fill-in of the scenario: any two fill-ins need different answers to each of the scenario's questions.
A scenario with `other` has a second dialogue that needs another answer for each fill-in.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

FillIn: TypeAlias = tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """One shape of a trap: `lines` before the last question, `asks` after them, `fills` of the slots."""

    name: str
    lines: tuple[str, ...]
    asks: tuple[str, ...]
    fills: tuple[FillIn, ...]
    other: tuple[str, ...] = ()


def scenario(name: str, dialogue: str, asks: str, fills: str, other: str = "") -> Scenario:
    """A scenario from text: lines of a dialogue, questions and fill-ins apart by ` / `, slots by `;`."""
    return Scenario(
        name=name,
        lines=_lines(dialogue),
        asks=tuple(ask.strip() for ask in asks.split(" / ")),
        fills=tuple(tuple(slot.strip() for slot in fill.split(";")) for fill in fills.split(" / ")),
        other=_lines(other),
    )


def _lines(dialogue: str) -> tuple[str, ...]:
    return tuple(line.strip() for line in dialogue.splitlines() if line.strip())
