"""Named entities: capitals within a sentence, and well-known names that people write without."""

from __future__ import annotations

from typing import Final

from ext_proc.cache.question import tables

PLACES: Final = tables.words("entities", "places", "peoples")
"""Countries, cities, regions, languages and peoples, in lower case."""
PRODUCTS: Final = tables.words("entities", "products", "medicines", "people")
"""Products, firms, medicines and first names, in lower case."""
TITLE_WORDS_MIN: Final = 3
"""From this many words on, a text whose words are nearly all capitalised tells nothing by its capitals."""


def names_of(found: list[str]) -> tuple[frozenset[str], frozenset[str]]:
    """Capitalised words and acronyms (both in lower case) of tokens as they were written.

    Of a text in capitals, or in title case, nothing is a name: its capitals say nothing.
    """
    alphabetic = [token for token in found if token[0].isalpha()]
    capitals = [token for token in alphabetic if token[0].isupper()]
    if not capitals or (len(alphabetic) >= TITLE_WORDS_MIN and len(capitals) * 10 > len(alphabetic) * 7):
        return frozenset(), frozenset()
    names = set()
    acronyms = set()
    opens = True
    for token in found:
        if token[0].isupper() and token.removesuffix("'s").isalpha() and token not in ("I", "A"):
            lower = token.lower()
            if len(token) > 1 and token.isupper():
                acronyms.add(lower)
            elif not opens:
                names.add(lower)
                names.add(lower.removesuffix("'s"))
        opens = token == "."
    return frozenset(names), frozenset(acronyms)
