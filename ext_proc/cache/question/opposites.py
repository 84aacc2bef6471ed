"""Opposites: antonyms of the table, and words that a prefix turns around."""

from __future__ import annotations

from typing import Final

from ext_proc.cache.question import tables, words
from ext_proc.cache.question.guards import Guard


def _antonyms() -> dict[str, frozenset[str]]:
    found: dict[str, set[str]] = {}
    for group in tables.groups("antonyms"):
        sides = [{words.base(word.strip())[0] for word in side.split(",")} for side in group]
        for index, side in enumerate(sides):
            for word in side:
                found.setdefault(word, set()).update(*sides[:index], *sides[index + 1 :])
    return {word: frozenset(others) for word, others in found.items()}


ANTONYMS: Final = _antonyms()
POLAR: Final = tables.words("polar")
"""Words that turn a question around by themselves."""


def between(left: str, right: str) -> Guard | None:
    """ANTONYM or PREFIX where the keys of two terms are opposites."""
    one, other = left.removesuffix(".ed"), right.removesuffix(".ed")
    if other in ANTONYMS.get(one, ()):
        return Guard.ANTONYM
    longer, shorter = (one, other) if len(one) > len(other) else (other, one)
    if len(shorter) > 2 and longer.endswith(shorter) and longer.removesuffix(shorter) in PREFIXES:
        return Guard.PREFIX
    if (one.endswith("less") and other == one[:-4] + "ful") or (
        other.endswith("less") and one == other[:-4] + "ful"
    ):
        return Guard.PREFIX
    return None


PREFIXES: Final = tables.words("affixes", "opposite")


def is_polar(key: str) -> bool:
    """Whether a term turns a question around where it is added or left out."""
    return key.removesuffix(".ed") in POLAR
