"""Terms know where they stand in the canonical text, also where a word stands twice or is moved."""

from __future__ import annotations

import pytest

from ext_proc.cache.question import Question, read_question
from ext_proc.cache.question.sentence import NOWHERE, Sentence


def places(question: Question) -> list[tuple[str, int, int]]:
    return [(term.surface, term.first, term.last) for term in question.terms]


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ("What is a phone number for?", [("phone", 3, 4), ("for", 5, 5)]),
        ("Is the bank in the bank?", [("bank", 2, 2), ("in", 3, 3), ("bank", 5, 5)]),
        ("I lost it. What is it?", [("i", 0, 0), ("lost", 1, 1), ("it", 2, 2), ("it", 6, 6)]),
        ("How do I turn the sound on?", [("turn", 3, 6), ("sound", 5, 5)]),
    ],
)
def test_a_term_stands_where_its_words_do(asked: str, expected: list[tuple[str, int, int]]) -> None:
    assert places(read_question(asked)) == expected


def test_a_reworded_sentence_keeps_the_places_of_its_words() -> None:
    question = read_question("To open an account, what do I need?")
    tokens = question.canonical.split()
    assert [tokens[term.first] for term in question.terms] == [term.surface for term in question.terms]


def test_of_words_that_stand_twice_each_keeps_its_own_place() -> None:
    sentence = Sentence(["to", "go", "to", "b", ",", "go"], range(10, 16))
    turned = sentence.reworded(["go", "what", "to", "go", "to", "b"])
    assert turned.places == [11, NOWHERE, 10, 15, 12, 13]
    behind = sentence.reworded(["go", "to", "b", "to", "go"])
    assert behind.places == [11, 12, 13, 10, 15]


def test_the_same_words_are_the_same_sentence() -> None:
    sentence = Sentence(["a", "b"], range(2))
    assert sentence.reworded(sentence.words) is sentence


def test_a_moved_word_takes_its_place_along() -> None:
    moved = Sentence(["turn", "the", "sound", "on"], range(4)).moved(3, 1)
    assert moved == Sentence(["turn", "on", "the", "sound"], [0, 3, 1, 2])
