"""How alike two questions are, and why a look-alike is refused."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Level(StrEnum):
    """How alike two questions are, best first."""

    CANONICAL = "canonical"
    """The same canonical text."""
    WORDS = "words"
    """The same content words in the same roles: other inflection, synonyms, misspellings, another form of
    asking."""
    NEAR = "near"
    """Exactly one content word differs, is missing or is added."""
    FAR = "far"


class Guard(StrEnum):
    """The kind of difference for which two questions are never served as one."""

    LANGUAGE = "language"
    CODE = "code"
    NUMBER = "number"
    UNIT = "unit"
    ID = "id"
    DATE = "date"
    VERSION = "version"
    NEGATION = "negation"
    ANTONYM = "antonym"
    PREFIX = "prefix"
    COMPARATIVE = "comparative"
    QUANTIFIER = "quantifier"
    ENTITY = "entity"
    ACRONYM = "acronym"
    OWNER = "owner"
    QUESTION_TYPE = "question_type"
    MODALITY = "modality"
    TENSE = "tense"
    CONDITION = "condition"
    DIRECTION = "direction"
    SCOPE = "scope"
    ORDER = "order"
    CONTEXT = "context"


@dataclass(frozen=True, slots=True)
class Comparison:
    """The outcome for two questions: with a `guard` they are refused whatever the level.

    `detail` says which rule spoke, never a word of either question.
    """

    level: Level
    guard: Guard | None
    detail: str = ""
