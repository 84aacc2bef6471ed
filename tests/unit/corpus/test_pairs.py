"""The corpora of the semantic cache hold together: rows, counts, no row twice, no row in both files."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from tests.corpus.conversations import (
    SCENARIOS,
    SHOULD_HITS,
    TRAPS,
    ConversationPair,
    conversation_repeats,
    conversation_traps,
)

PAIRS = Path(__file__).parents[2] / "corpus" / "pairs"
KEYS = ["a", "b", "y", "cat", "dom"]
DOMAINS = {
    "banking",
    "code",
    "cooking",
    "devices",
    "helpdesk",
    "hr",
    "law",
    "medicine",
    "shop",
    "travel",
}
TRAP_KINDS = {
    "acronym",
    "antonym",
    "code",
    "comparison",
    "condition",
    "date",
    "direction",
    "entity",
    "id",
    "language",
    "modality",
    "modifier",
    "negation",
    "number",
    "order",
    "owner",
    "prefix",
    "quantifier",
    "question_type",
    "scope",
    "tense",
    "time",
    "unit",
    "version",
}
SAME_KINDS = {"frame", "free", "reorder", "repeat", "short", "synonym"}


def rows(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (PAIRS / name).read_text(encoding="utf-8").splitlines()]


def pair(row: dict[str, Any]) -> frozenset[str]:
    return frozenset((row["a"].casefold(), row["b"].casefold()))


def twice(found: Iterable[object]) -> list[object]:
    return [value for value, count in Counter(found).items() if count > 1]


FILES = {"traps.jsonl": 0, "attacks.jsonl": 0, "open.jsonl": 0, "same.jsonl": 1}


@pytest.mark.parametrize(("name", "y"), FILES.items())
def test_every_row_has_two_texts_an_expectation_a_kind_and_a_domain(name: str, y: int) -> None:
    for row in rows(name):
        assert list(row) == KEYS
        assert row["y"] == y
        assert all(isinstance(row[key], str) and row[key] == row[key].strip() != "" for key in ("a", "b"))
        assert row["a"] != row["b"]
        assert row["dom"] in DOMAINS | {"mixed"}


def test_there_are_enough_rows_of_every_kind_and_every_domain() -> None:
    traps, same = rows("traps.jsonl"), rows("same.jsonl")
    kinds = Counter(row["cat"] for row in traps)
    assert len(traps) >= 700
    assert len(same) >= 400
    assert set(kinds) == TRAP_KINDS
    assert min(kinds.values()) >= 20
    assert {row["cat"] for row in same} == SAME_KINDS
    assert {row["dom"] for row in traps} == {row["dom"] for row in same} == DOMAINS


def test_no_pair_stands_twice_not_even_swapped_and_none_is_expected_both_ways() -> None:
    assert not twice((row["a"], row["b"]) for row in rows("same.jsonl"))
    found = [row for name in FILES for row in rows(name)]
    assert not twice(tuple(sorted((row["a"], row["b"]))) for row in found)
    assert not twice(pair(row) for row in found if len(pair(row)) == 2)


def test_the_texts_of_a_trap_differ_in_more_than_case() -> None:
    assert all(len(pair(row)) == 2 for row in rows("traps.jsonl"))


def test_no_two_texts_that_share_an_answer_are_linked_by_a_trap() -> None:
    """A chain of rows with `y` 1 is one answer: a trap between two texts of a chain would contradict it."""
    answer: dict[str, str] = {}

    def root(text: str) -> str:
        while answer.setdefault(text, text) != text:
            text = answer[text]
        return text

    for row in rows("same.jsonl"):
        answer[root(row["a"].casefold())] = root(row["b"].casefold())
    contradicted = [
        row for row in rows("traps.jsonl") if root(row["a"].casefold()) == root(row["b"].casefold())
    ]
    assert not contradicted


def last(pair: ConversationPair) -> tuple[str, str]:
    return str(pair["messages_a"][-1]["content"]), str(pair["messages_b"][-1]["content"])


def bare(text: str) -> str:
    return text.casefold().rstrip(".?!")


def test_conversations_are_the_same_in_every_run_and_no_two_are_alike() -> None:
    found = conversation_traps() + conversation_repeats()
    assert found == conversation_traps() + conversation_repeats()
    assert conversation_traps(1) != conversation_traps()
    assert not twice(json.dumps(row) for row in found)


def test_a_trap_ends_with_the_same_question_after_another_history() -> None:
    traps = conversation_traps()
    assert len(traps) == TRAPS == 200
    assert len({trap["cat"] for trap in traps}) == len(SCENARIOS) >= 40
    for trap in traps:
        asked, repeated = last(trap)
        assert trap["y"] == 0
        assert bare(asked) == bare(repeated)
        assert trap["messages_a"][:-1] != trap["messages_b"][:-1]


def test_a_repeat_has_the_same_history_and_the_same_question_up_to_case_and_punctuation() -> None:
    repeats = conversation_repeats()
    assert len(repeats) == SHOULD_HITS == 50
    for repeat in repeats:
        asked, repeated = last(repeat)
        assert repeat["y"] == 1
        assert asked != repeated
        assert bare(asked) == bare(repeated)
        assert repeat["messages_a"][:-1] == repeat["messages_b"][:-1]


def test_fill_ins_of_a_scenario_differ_and_fill_every_slot() -> None:
    for scenario in SCENARIOS:
        lines = " ".join(scenario.lines)
        assert len(set(scenario.fills)) == len(scenario.fills) >= 4
        assert len(set(scenario.asks)) == len(scenario.asks) >= 2
        for fill in scenario.fills:
            assert all(f"{{{slot}}}" in lines for slot in range(len(fill)))
            assert f"{{{len(fill)}}}" not in lines
