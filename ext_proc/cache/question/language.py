"""Whether a text is English: its letters, and how many of its words are English ones."""

from __future__ import annotations

from typing import Final

from ext_proc.cache.question import entities, tables, words

FOREIGN: Final = tables.words("foreign")
"""Frequent words of other languages in Latin letters that are no English words."""
KNOWN_PERCENT_MIN: Final = 50
"""Share of English words from which on a text counts as English; names and typing errors are the rest."""

FOREIGN_WORDS_PER: Final = 8
"""One foreign word among this many makes a text foreign: languages share many short words with English."""


def is_english(tokens: list[str]) -> bool:
    """Whether canonical tokens are clearly English."""
    known = unknown = foreign = 0
    for token in tokens:
        if not token.isalpha() or token.isupper():
            continue
        if token in FOREIGN:
            foreign += 1
        lower = token.lower()
        if token in SHORT or words.known(lower) or lower in entities.PLACES or lower in entities.PRODUCTS:
            known += 1
        else:
            unknown += 1
    if known == 0 or (foreign and foreign * FOREIGN_WORDS_PER >= known + unknown):
        return False
    return known * 100 >= (known + unknown) * KNOWN_PERCENT_MIN


SHORT: Final = frozenset({"a", "i"})
