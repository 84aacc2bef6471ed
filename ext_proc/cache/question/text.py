"""The text of a question before it is read: bounds, folding of characters, and what is kept as it stands."""

from __future__ import annotations

import re
import unicodedata
from typing import Final

CHARS_MAX: Final = 4_000
"""Longer texts are never compared: they are no questions."""
READ_CHARS_MAX: Final = 600
"""Longer texts are compared as they stand: some hundred words are no question whose likes are stored, and
reading them would cost milliseconds."""
FOLDED: Final = str.maketrans(
    {
        "\u2018": "'",
        "\u2019": "'",
        "\u02bc": "'",
        "\u00b4": "'",
        "\u201c": '"',
        "\u201d": '"',
        "\u2026": "...",
        "\u2212": "-",
        "\u2010": "-",
        "\u2011": "-",
        "\u00a0": " ",
        "\u202f": " ",
        "\u2009": " ",
    }
)
PLAIN: Final = re.compile(r"[\x20-\x7e\u00a1-\u00ff\u2013\u2014\u20ac\u03bc]*\Z")
"""Characters of English text; superscripts are of them but for the test of `readable`."""
VERBATIM: Final = re.compile(
    r"[\n\r\t`{}\[\]\u00b2\u00b3\u00b9\u00bc-\u00be\u00aa\u00ba\\|<>^=~]|\$\(|;\s*$|//(?!\S*\.\S)|\w\([^)]"
    r"|(?<!\S):{1,2}\w|\b\w[;:,]\s+mean\b|\(\s*[-+]?\d|\d\s*\)|\d[!'\"](?!s\b)|['\"](?:\w|\$\w+)['\"]|\(\w?,?\)|(?<!\S)\.{1,2}/(?=\s|\?|\Z)|[.\w)][*+]\?"
    r"|\b(?:cd|checkout|switch|merge|su|ls)\s+[-.~](?=\s|/|\.|\?|\Z)"
)
"""Signs of code, mathematics, lengths or several lines, where every character may carry meaning."""
MENTION: Final = re.compile(
    r"\b(?:spell(?:ed|ing|ings)?|spelt|pronounced?|pronunciation|synonyms?|rhymes?|syllables?|typo"
    r"|another word|past tense|plural|word for|(?:you|i|we) say|someone says|who (?:sings|sang|wrote))\b",
    re.IGNORECASE,
)
"""Signs that words are asked about and not things: none stands for another."""


def folded(text: str) -> str:
    """`text` in composed form with typographic quotes, dashes and spaces as plain ones, ends stripped."""
    if text.isascii():
        return text.strip()
    return unicodedata.normalize("NFC", text).translate(FOLDED).strip()


def spaced(text: str) -> str:
    """`text` with each run of spaces as one space, and code or several lines as they stand."""
    return text if VERBATIM.search(text) else " ".join(text.split())


def readable(text: str) -> bool:
    """Whether folded `text` is a line that may be taken apart into words."""
    if MENTION.search(text) is not None:
        return False
    return bool(text) and VERBATIM.search(text) is None and PLAIN.match(text) is not None
