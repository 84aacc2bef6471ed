"""Whether a text is English: its letters, and how many of its words are English ones."""

from __future__ import annotations

from typing import Final

from ext_proc.cache.question import tables, words

FOREIGN: Final = tables.words("foreign")
"""Frequent words of other languages in Latin letters that are no English words."""
KNOWN_PERCENT_MIN: Final = 60
"""Share of English words from which on a text counts as English; names and typing errors are the rest."""


def is_english(tokens: list[str], names: frozenset[str]) -> bool:
    """Whether canonical tokens are clearly English; `names` are not counted."""
    known = unknown = foreign = 0
    for token in tokens:
        if not token.isalpha() or token in names or token.isupper():
            continue
        if token in FOREIGN:
            foreign += 1
        if token in SHORT or words.known(token):
            known += 1
        else:
            unknown += 1
    if known == 0 or foreign * 4 > known + unknown:
        return False
    return known * 100 >= (known + unknown) * KNOWN_PERCENT_MIN


SHORT: Final = frozenset({"a", "i"})
