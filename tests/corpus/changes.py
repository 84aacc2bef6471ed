"""Changes of one word or phrase, each of which makes another question of almost every question it fits."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

_AT_END: Final = (
    *(
        "without a receipt",
        "if I am a student",
        "on weekends",
        "for free",
        "in Germany",
        "twice",
        "again",
        "first",
    ),
    *("only", "safely", "permanently", "temporarily", "online", "too", "at night", "later", "yet", "anymore"),
    *("manually", "by default", "myself"),
)
CHANGES: Final[tuple[tuple[str, str, str], ...]] = (
    ("negation", r"\bcan I\b", "can't I"),
    ("negation", r"\bdo I\b", "do I not"),
    ("negation", r"\bis\b", "is not"),
    ("owner", r"\bmy\b", "your"),
    ("owner", r"\bmy\b", "my wife's"),
    ("owner", r"\bmy\b", "someone else's"),
    ("owner", r"\bI\b", "they"),
    ("owner", r"\bI\b", "my son"),
    ("number", r"(\d)", r"\g<1>0"),
    ("question_type", r"\bHow do I\b", "Why do I"),
    ("question_type", r"\bHow do I\b", "When do I"),
    ("question_type", r"\bHow do I\b", "Where do I"),
    ("question_type", r"\bHow do I\b", "Should I"),
    ("question_type", r"^(Where|How) (can|do) I\b", "Who can"),
    ("question_type", r"\bHow much\b", "How many"),
    ("question_type", r"\bHow long\b", "How often"),
    ("tense", r"\bdo I\b", "did I"),
    ("tense", r"\bis\b", "was"),
    ("tense", r"\bare\b", "were"),
    ("tense", r"\bdoes\b", "did"),
    ("quantifier", r"\ball\b", "some"),
    ("quantifier", r"\ba\b", "two"),
    ("quantifier", r"\ba\b", "every"),
    ("quantifier", r"\bthe\b", "another"),
    ("quantifier", r"\bthe\b", "both"),
    ("direction", r"\bfrom (\w+) to (\w+)\b", r"from \2 to \1"),
    ("order", r"\bbefore\b", "after"),
    ("preposition", r"\bin\b", "outside"),
    ("preposition", r"\bwith\b", "without"),
    ("preposition", r"\bto\b", "from"),
    ("preposition", r"\bfor\b", "against"),
    ("antonym", r"\bmore\b", "less"),
    ("antonym", r"\bbest\b", "worst"),
    *(("added", r"\?$", f" {words}?") for words in _AT_END),
)
"""Kind, pattern, replacement of its first match. Left out are the verbs can, should and would in the place of
one another: what answers one often answers the other."""


def changed(question: str) -> Iterator[tuple[str, str]]:
    """Kind and text of each other question."""
    for kind, pattern, words in CHANGES:
        text = re.sub(pattern, words, question, count=1)
        if text != question:
            yield kind, text
