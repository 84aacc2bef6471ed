"""Slips of the pen: words that one question has misspelt, or in two words, and the other has right."""

from __future__ import annotations

from typing import Final

from ext_proc.cache.question import tables, words
from ext_proc.cache.question.question import Question, of_tokens

UNMATCHED_MAX: Final = 8
"""Words that only one side has, beyond which two questions are not searched for slips: they differ anyway."""
HALF_CHARS_MIN: Final = 3
APART: Final = tables.words("apart")
"""First halves that also stand before the second as a word of their own: "a green house"."""


def mended(one: Question, other: Question) -> tuple[Question, Question] | None:
    """Both questions with their slips as the other writes them; None where there are none."""
    here, there = one.canonical.split(), other.canonical.split()
    only_here = set(here).difference(there)
    only_there = set(there).difference(here)
    if len(only_here) > UNMATCHED_MAX or len(only_there) > UNMATCHED_MAX:
        return None
    left = _written(here, only_there, only_here, one.names)
    right = _written(there, only_here, only_there, other.names)
    if left is None and right is None:
        return None
    return (
        one if left is None else of_tokens(left, one.names, one.acronyms),
        other if right is None else of_tokens(right, other.names, other.acronyms),
    )


def _written(
    tokens: list[str], wanted: set[str], unmatched: set[str], names: frozenset[str]
) -> list[str] | None:
    """`tokens` with those that are slips of a word in `wanted` as that; None where none is."""
    found: list[str] = []
    changed = False
    for token in tokens:
        if token not in unmatched:
            found.append(token)
            continue
        joined = found[-1] + token if found else ""
        if joined in wanted and _are_halves(found[-1], token, names):
            found[-1] = joined
            changed = True
            continue
        meant = _meant(token, wanted) if token not in names else ""
        changed = changed or bool(meant)
        found.append(meant or token)
    return found if changed else None


def _are_halves(first: str, second: str, names: frozenset[str]) -> bool:
    """Whether two words written apart are certainly the one word that they make together."""
    if min(len(first), len(second)) < HALF_CHARS_MIN or first in names or first in APART:
        return False
    return first.isalpha() and second.isalpha()


def _meant(token: str, wanted: set[str]) -> str:
    if not token.isalpha() or not token.islower() or words.known(token):
        return ""
    return next((word for word in sorted(wanted) if words.misspells(token, word)), "")
