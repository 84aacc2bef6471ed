"""Conversations that end with the same question and need different answers, and some that may share one.

`python -m tests.corpus.conversations FILE` writes them as the rows that `./tidegate cache eval` reads.
"""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias, TypedDict

from tests.corpus.dialogues.answers import EARLIER_ANSWERS, TURNS
from tests.corpus.dialogues.people import PEOPLE
from tests.corpus.dialogues.scenario import FillIn, Scenario
from tests.corpus.dialogues.settings import SYSTEMS, TOOLS

SEED = 20_261
TRAPS = 200
SHOULD_HITS = 50

SCENARIOS = EARLIER_ANSWERS + PEOPLE + SYSTEMS + TOOLS + TURNS

Message: TypeAlias = dict[str, object]


class ConversationPair(TypedDict):
    """A row: two lists of OpenAI messages, `y` (1: one answer serves both), `cat` (the scenario's name)."""

    messages_a: list[Message]
    messages_b: list[Message]
    y: int
    cat: str


def _as_it_is(text: str) -> str:
    return text


def _bare(text: str) -> str:
    return text.rstrip(".?!")


def _lower(text: str) -> str:
    return text.lower()


def _lower_and_bare(text: str) -> str:
    return text.lower().rstrip(".?!")


def _insistent(text: str) -> str:
    return f"{text.rstrip('.')}!" if text.endswith(".") else f"{text}?"


REPEATS: tuple[Callable[[str], str], ...] = (_as_it_is, _lower, _bare, _lower_and_bare, _insistent)


def conversation_traps(seed: int = SEED) -> list[ConversationPair]:
    """`TRAPS` rows with `y` 0: scenarios in turn, each time with other fill-ins or another question."""
    return _distinct(TRAPS, random.Random(seed), _trap, y=0)


def conversation_repeats(seed: int = SEED) -> list[ConversationPair]:
    """`SHOULD_HITS` rows with `y` 1: the same history, the last message alike up to case and punctuation."""
    return _distinct(SHOULD_HITS, random.Random(seed + 1), _repeat, y=1)


def _distinct(
    count: int,
    chance: random.Random,
    draw: Callable[[Scenario, random.Random], tuple[list[Message], list[Message]]],
    *,
    y: int,
) -> list[ConversationPair]:
    rows: list[ConversationPair] = []
    seen: set[frozenset[str]] = set()
    while len(rows) < count:
        scenario = SCENARIOS[len(rows) % len(SCENARIOS)]
        before, after = draw(scenario, chance)
        key = frozenset((json.dumps(before), json.dumps(after)))
        if key not in seen:
            seen.add(key)
            rows.append({"messages_a": before, "messages_b": after, "y": y, "cat": scenario.name})
    return rows


def _trap(scenario: Scenario, chance: random.Random) -> tuple[list[Message], list[Message]]:
    one, another = chance.sample(scenario.fills, 2)
    ask = chance.choice(scenario.asks)
    repeat = chance.choice(REPEATS)(ask)
    if scenario.other:
        pair = (_messages(scenario.lines, one, ask), _messages(scenario.other, one, repeat))
        return pair if chance.random() < 0.5 else (pair[1], pair[0])
    return _messages(scenario.lines, one, ask), _messages(scenario.lines, another, repeat)


def _repeat(scenario: Scenario, chance: random.Random) -> tuple[list[Message], list[Message]]:
    fill = chance.choice(scenario.fills)
    ask = chance.choice(scenario.asks)
    again = chance.choice(REPEATS[1:])(ask)
    return _messages(scenario.lines, fill, ask), _messages(scenario.lines, fill, again)


def _messages(lines: tuple[str, ...], fill: FillIn, ask: str) -> list[Message]:
    return [*(_message(line, fill) for line in lines), {"role": "user", "content": ask}]


def _message(line: str, fill: FillIn) -> Message:
    role, text = line.format(*fill).split(": ", 1)
    if role == "call":
        return _call(text)
    if role == "tool":
        return {"role": "tool", "tool_call_id": "call_1", "content": text}
    return {"role": role, "content": text}


def _call(text: str) -> Message:
    name, *arguments = text.split(" ")
    fields = dict(argument.split("=", 1) for argument in arguments)
    function = {"name": name, "arguments": json.dumps(fields)}
    call = {"id": "call_1", "type": "function", "function": function}
    return {"role": "assistant", "content": None, "tool_calls": [call]}


if __name__ == "__main__":
    lines = (json.dumps(row) for row in (*conversation_traps(), *conversation_repeats()))
    Path(sys.argv[1]).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
