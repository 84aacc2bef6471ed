"""Words: their base form, whether they are known English words, and misspellings."""

from __future__ import annotations

from functools import lru_cache
from typing import Final

from ext_proc.cache.question import tables

ENGLISH: Final = tables.words("english")
IRREGULAR: Final = dict(tables.pairs("irregular", "plurals", "plurals of one", "others"))
IRREGULAR_PAST: Final = dict(tables.pairs("irregular", "past"))
FIXED: Final = tables.words("fixed")
"""Words that look inflected and are words of their own: "news", "building"."""
NAMES: Final = tables.words("entities")
VOWELS: Final = frozenset("aeiou")
SUBSTANCES: Final = tuple(tables.words("affixes", "substances"))
"""Endings of substances and illnesses, of which one letter makes another one, known here or not."""
TYPO_CHARS_MIN: Final = 5
"""Shorter words have too many neighbours: "form" and "from"."""
WORDS_CACHED: Final = 16_384
"""Base forms kept: some megabytes, and more than the words of any conversation."""


@lru_cache(maxsize=WORDS_CACHED)
def base(word: str) -> tuple[str, bool]:
    """Base form of a lower-case word, and whether it stood in a past form: "cancelled" is ("cancel",
    True)."""
    if word.endswith("'s"):
        word = word[:-2]
    elif word.endswith("s'"):
        word = word[:-1]
    if len(word) < 3 or not word.isalpha() or word in FIXED:
        return word, False
    if word in IRREGULAR:
        return IRREGULAR[word], False
    if word in IRREGULAR_PAST:
        return IRREGULAR_PAST[word], True
    if word.endswith("s"):
        return _singular(word), False
    if word.endswith("ing") and len(word) > 5:
        return _verb(word[:-3]) or word, False
    if word.endswith("ed") and len(word) > 4 and not word.endswith("eed"):
        stem = _verb(word[:-2])
        return (stem, True) if stem else (word, False)
    return word, False


def _singular(word: str) -> str:
    if word.endswith(("ss", "us", "is")) or len(word) < 4:
        return word
    if word.endswith("ies") and len(word) > 4 and word[:-3] + "y" in ENGLISH:
        return word[:-3] + "y"
    if word.endswith(("sses", "shes", "ches", "xes", "zes", "oes")) and word[:-2] in ENGLISH:
        return word[:-2]
    return word[:-1] if word[:-1] in ENGLISH else word


def _verb(stem: str) -> str:
    """The verb whose form "-ing" or "-ed" leaves `stem`, "" where no known word fits."""
    if stem in FIXED:
        return ""
    short = (
        len(stem) > 2
        and stem[-1] not in VOWELS | set("wxy")
        and stem[-2] in VOWELS
        and stem[-3] not in VOWELS
    )
    candidates = [stem + "e", stem] if short else [stem, stem + "e"]
    if len(stem) > 3 and stem[-1] == stem[-2] and stem[-1] not in "sz":
        candidates = [stem[:-1], stem] if stem[:-1] in ENGLISH and stem not in ENGLISH else [stem, stem[:-1]]
    if stem.endswith("i"):
        candidates = [stem[:-1] + "y"]
    for candidate in candidates:
        if candidate in ENGLISH and len(candidate) > 2:
            return candidate
    return ""


@lru_cache(maxsize=WORDS_CACHED)
def known(word: str) -> bool:
    """Whether a lower-case word, or its base form, is in the list of English words."""
    return (
        word in ENGLISH
        or word in FIXED
        or word in IRREGULAR
        or word in IRREGULAR_PAST
        or base(word)[0] in ENGLISH
    )


@lru_cache(maxsize=WORDS_CACHED)
def misspells(word: str, meant: str) -> bool:
    """Whether `word`, no known word, can only be a slip of the known word `meant`: one letter off, its
    first in place.

    Among all known words one letter away `meant` must be the likeliest: swapped or doubled letters before
    a letter
    left out or put in, and that before a wrong letter.
    """
    if len(meant) < TYPO_CHARS_MIN or abs(len(word) - len(meant)) > 1 or word[0] != meant[0]:
        return False
    if known(word) or word in NAMES or not known(meant) or not word.isalpha() or not word.isascii():
        return False
    wanted = slip(word, meant)
    if (
        not wanted
        or word + "s" == meant
        or meant + "s" == word
        or (word.endswith(SUBSTANCES) and meant.endswith(SUBSTANCES))
    ):
        return False
    return not any(
        other != meant and 0 < slip(word, other) <= wanted and known(other) and base(other) != base(meant)
        for other in _neighbours(word)
    )


def slip(word: str, meant: str) -> int:
    """Kind of the one slip between two words: 1 doubled or swapped letters, 2 one letter too many or too
    few, 3 a
    wrong vowel, 4 another wrong letter; 0 where they are equal or further apart."""
    if len(word) == len(meant):
        differ = [index for index, (left, right) in enumerate(zip(word, meant, strict=True)) if left != right]
        if len(differ) == 1:
            return 3 if word[differ[0]] in VOWELS and meant[differ[0]] in VOWELS else 4
        if len(differ) == 2 and differ[1] == differ[0] + 1:
            first, second = differ
            return 1 if word[first] == meant[second] and word[second] == meant[first] else 0
        return 0
    longer, shorter = (word, meant) if len(word) > len(meant) else (meant, word)
    if len(longer) - len(shorter) != 1:
        return 0
    index = next((i for i in range(len(shorter)) if longer[i] != shorter[i]), len(shorter))
    if longer[index + 1 :] != shorter[index:]:
        return 0
    doubled = longer[index] == longer[index - 1] or longer[index : index + 1] == longer[index + 1 : index + 2]
    return 1 if doubled else 2


def _neighbours(word: str) -> set[str]:
    """All strings one slip away from `word` with the same first letter: some 50 per letter."""
    found: set[str] = set()
    letters = "abcdefghijklmnopqrstuvwxyz"
    for index in range(1, len(word) + 1):
        left, right = word[:index], word[index:]
        found.update(left + letter + right for letter in letters)
        if right:
            found.add(left + right[1:])
            found.update(left + letter + right[1:] for letter in letters)
        if len(right) > 1:
            found.add(left + right[1] + right[0] + right[2:])
    found.discard(word)
    return found
