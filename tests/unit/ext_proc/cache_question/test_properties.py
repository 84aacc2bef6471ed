"""What holds for any text: no error, symmetry, reflexivity, one canonical text, bounds."""

from __future__ import annotations

import re
from typing import Final

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ext_proc.cache.question import Comparison, Guard, Level, compare, read_question
from ext_proc.cache.question.text import CHARS_MAX

WORDS: Final = (
    *[
        "how",
        "do",
        "i",
        "can",
        "you",
        "cancel",
        "my",
        "order",
        "what",
        "is",
        "the",
        "US",
        "us",
        "Polish",
        "polish",
        "not",
        "n't",
        "never",
        "without",
        "if",
        "unless",
        "to",
    ],
    *[
        "from",
        "London",
        "Paris",
        "two",
        "2",
        "2kg",
        "£50",
        "7pm",
        "3.11",
        "v2",
        "all",
        "some",
        "cheapest",
        "please",
        "hi",
        "thanks",
        ",",
        ".",
        "?",
        "!",
        "-",
        "A",
        "a",
        "May",
    ],
    *[
        "may",
        "I'm",
        "child's",
        "log",
        "in",
        "on",
        "off",
        "-r",
        "foo_bar",
        ".csv",
        "C++",
        "C#",
        "1,000",
        "non-refundable",
        "twenty",
        "five",
        "first",
        "half",
    ],
    *[
        "one",
        "it",
        "IT",
        "there",
        "wi-fi",
        "e-mail",
        "U.S.",
        "10%",
        "and",
        "or",
        "before",
        "after",
        "more",
        "than",
        "of",
        "don't",
        "won't",
        "recieve",
    ],
    *["emergancy", "Windows"],
)
SENTENCES: Final = st.lists(st.sampled_from(WORDS), min_size=1, max_size=12).map(" ".join)
SYMBOL = re.compile(r"[^\w\s',.?!]|[,.?!]\S|\s[,.?!]|'\B|\B'")
TEXTS: Final = st.one_of(SENTENCES, st.text(max_size=80))


@given(TEXTS)
@settings(max_examples=300)
def test_any_text_is_read_and_is_the_same_as_itself(text: str) -> None:
    question = read_question(text)
    outcome = compare(question, read_question(text))
    if question.canonical:
        assert outcome == Comparison(Level.CANONICAL, None)
    else:
        assert outcome.level is Level.FAR


@given(TEXTS, TEXTS)
@settings(max_examples=400)
def test_comparison_is_symmetric(left: str, right: str) -> None:
    here = compare(read_question(left), read_question(right))
    there = compare(read_question(right), read_question(left))
    assert here == there


@given(SENTENCES, st.data())
@settings(max_examples=300)
def test_comparison_of_neighbours_is_symmetric(left: str, data: st.DataObject) -> None:
    """Random pairs are far apart; a pair that differs by one word reaches every rule."""
    parts = left.split()
    parts[data.draw(st.integers(0, len(parts) - 1))] = data.draw(st.sampled_from(WORDS))
    right = " ".join(parts)
    here = compare(read_question(left), read_question(right))
    assert here == compare(read_question(right), read_question(left))


@given(SENTENCES, st.sampled_from(["s", "ed", "ing", "'s"]), st.data())
@settings(max_examples=300)
@example("how do i pay for a lease", "s", None)
def test_comparison_of_endings_is_symmetric(left: str, ending: str, data: st.DataObject | None) -> None:
    """Also of a preposition that is none any more: "for", "fors"."""
    parts = left.split()
    at = 4 if data is None else data.draw(st.integers(0, len(parts) - 1))
    parts[at] += ending
    right = " ".join(parts)
    here = compare(read_question(left), read_question(right))
    assert here == compare(read_question(right), read_question(left))


@given(TEXTS)
@settings(max_examples=400)
def test_canonical_text_of_a_canonical_text_is_itself(text: str) -> None:
    question = read_question(text)
    # Whether a symbol is asked about is told by what stands beside it, which canonical text no longer has.
    if question.language == "en" and not SYMBOL.search(text):
        assert read_question(question.canonical).canonical == question.canonical


@given(st.integers(0, 9999), st.integers(0, 9999))
def test_questions_of_other_numbers_are_refused(left: int, right: int) -> None:
    outcome = compare(read_question(f"How much is {left} kg?"), read_question(f"How much is {right} kg?"))
    assert (outcome.guard is None) == (left == right)


def test_a_text_over_the_bound_is_far_from_everything() -> None:
    long = "how do i pay " * (CHARS_MAX // 10)
    question = read_question(long)
    assert question.canonical == ""
    assert compare(question, question).level is Level.FAR
    assert compare(question, read_question("how do i pay")).level is Level.FAR
    assert read_question("x " * (CHARS_MAX // 2)).canonical


@pytest.mark.parametrize("text", ["", "   ", "\n", "?", "...", "\x00", "\ud800", "\u202e", "\U0001f600"])
def test_a_text_without_words_is_served_nothing_but_itself(text: str) -> None:
    question = read_question(text)
    assert question.language == "other"
    assert compare(question, read_question("How do I pay?")).guard is Guard.LANGUAGE


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("Wie kann ich mein Passwort ändern?", "wie kann ich mein passwort ändern"),
        ("¿Cómo cambio mi contraseña?", "Cómo cambio mi contraseña"),
        ("Как сменить пароль?", "как сменить пароль"),
        ("パスワードを変更するには", "パスワードを変更するには?"),
        ("for x in y:\n    print(x)", "for x in y:\nprint(x)"),
        ("What does f(x) = x+1 give?", "what does f(x) = x + 1 give?"),
        ("What does `ls -a` do?", "What does `ls -A` do?"),
    ],
)
def test_other_languages_and_code_are_the_same_only_as_they_stand(left: str, right: str) -> None:
    assert compare(read_question(left), read_question(right)).level is Level.FAR
    assert compare(read_question(left), read_question("  " + left)).level is Level.CANONICAL


@pytest.mark.parametrize(
    ("english", "other"),
    [
        ("How do I change my password?", "Wie ändere ich mein Passwort?"),
        ("Where is my order?", "Dónde está mi pedido"),
        ("Where is the hotel?", "Où est l'hôtel ?"),
        ("How do I pay?", "どうやって支払いますか"),
    ],
)
def test_another_language_is_refused(english: str, other: str) -> None:
    assert compare(read_question(english), read_question(other)).guard is Guard.LANGUAGE


def test_content_words_leave_links_out() -> None:
    assert read_question("How do I fly from London to Rome?").content_words == {"fly", "london", "rome"}
