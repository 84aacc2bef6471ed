"""Every sample pair, in both directions: what must be refused is, what asks the same is served."""

from __future__ import annotations

from pathlib import Path

import pytest

from ext_proc.cache.question import Guard, Level, compare, read_question

HERE = Path(__file__).resolve().parent


def pairs(name: str) -> list[tuple[str, str, str]]:
    found = []
    heading = ""
    for line in (HERE / name).read_text(encoding="utf-8").splitlines():
        if line.startswith("["):
            heading = line.strip("[]")
        elif line and not line.startswith("#"):
            asked, _, stored = line.partition(" || ")
            found.append((heading, asked, stored))
    return found


def served(asked: str, stored: str) -> bool:
    """What the strict profile serves."""
    outcome = compare(read_question(asked), read_question(stored))
    return outcome.guard is None and outcome.level in (Level.CANONICAL, Level.WORDS)


@pytest.mark.parametrize(("kind", "asked", "stored"), pairs("traps.txt"))
def test_a_trap_is_refused_both_ways(kind: str, asked: str, stored: str) -> None:
    assert not served(asked, stored)
    assert not served(stored, asked)


@pytest.mark.parametrize(("level", "asked", "stored"), pairs("repeats.txt"))
def test_a_repeat_is_served_both_ways(level: str, asked: str, stored: str) -> None:
    outcome = compare(read_question(asked), read_question(stored))
    assert (outcome.level, outcome.guard) == (Level(level), None)
    assert served(stored, asked)


@pytest.mark.parametrize("guard", list(Guard))
def test_every_guard_speaks_for_some_trap(guard: Guard) -> None:
    spoken = {
        compare(read_question(asked), read_question(stored)).guard for _, asked, stored in pairs("traps.txt")
    }
    spoken.add(compare(read_question("Wo ist meine Bestellung?"), read_question("Where is my order?")).guard)
    assert guard in spoken
