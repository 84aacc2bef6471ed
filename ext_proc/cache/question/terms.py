"""Terms: the words of a question in the form in which they are compared, each with its kind."""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Final, NamedTuple

from ext_proc.cache.question import entities, frames, numbers, tables, words
from ext_proc.cache.question.rewording import ATTRIBUTES
from ext_proc.cache.question.sentence import NOWHERE, Sentence
from ext_proc.cache.question.tokens import COMMA


def _keyed(heading: str) -> dict[str, str]:
    items = (item.partition("=") for item in sorted(tables.words("function", heading)))
    return {word: "@" + key for word, _, key in items}


DROPPED: Final = tables.words("function", "dropped")
PRONOUNS: Final = _keyed("pronouns")
MODALS: Final = _keyed("modals")
NEGATIONS: Final = tables.words("function", "negations")
QUANTIFIERS: Final = tables.words("function", "quantifiers")
DATES: Final = tables.words("function", "dates")
CODES: Final = tables.words("function", "codes")
PREPOSITIONS: Final = tables.words("function", "prepositions")
CLAUSES: Final = tables.words("function", "clauses")
FUNCTIONAL: Final = DROPPED | PRONOUNS.keys() | MODALS.keys() | PREPOSITIONS | CLAUSES | {"of", "not", "no"}
"""Words that are never changed to a base form nor replaced by a word of like meaning on their own."""


class Kind(StrEnum):
    """What a term is, for the reason of a refusal."""

    WORD = "word"
    NUMBER = "number"
    UNIT = "unit"
    ID = "id"
    DATE = "date"
    VERSION = "version"
    CODE = "code"
    ENTITY = "entity"
    ACRONYM = "acronym"
    PRONOUN = "pronoun"
    MODAL = "modal"
    NEGATION = "negation"
    QUANTIFIER = "quantifier"
    COMPARATIVE = "comparative"
    LINK = "link"
    DROPPED = "dropped"


class Term(NamedTuple):
    """`key` is compared, `surface` is the word as asked in lower case, `article` is "a" or "the" behind one;
    `first` and `last` are the places of its first and its last word among the canonical tokens."""

    key: str
    surface: str
    kind: Kind
    article: str = ""
    first: int = NOWHERE
    last: int = NOWHERE


NUMBER: Final = re.compile(r"[-+]?\d[\d.,/]*\Z")
VERSION: Final = re.compile(r"v?\d+\.\d+(\.\d+)+\Z|v\d[\d.]*\Z|\d+\.\d+\Z")
DATE: Final = re.compile(
    r"\d{4}-\d|\d{1,2}/\d{1,2}/\d|\d{1,2}\.\d{1,2}\.\d{4}|\d{1,2}:\d{2}|\d+(st|nd|rd|th)\Z"
)
COMPARISONS: Final = tables.words("comparatives")


def _phrases(*names: str) -> frames.Trie:
    root: frames.Trie = {}
    for row in (row for name in names for row in SYNONYMS[name]):
        group = [phrase.strip() for phrase in row.split("|")]
        for phrase in group:
            node = root
            for word in phrase.split():
                word = word if word in FUNCTIONAL else words.base(word)[0]
                node = node.setdefault(word, {})
            if node.get("", group[0]) != group[0]:
                raise ValueError(f"phrases: {phrase!r} belongs to two groups")
            node[""] = group[0]
    return root


SYNONYMS: Final = tables.sections("phrases")
PHRASES: Final = _phrases("anywhere")
VERBS: Final = _phrases("verbs")
NOUNS: Final = _phrases("nouns")
RECORDS: Final = _phrases("records")
PARTICIPLES: Final = _phrases("past")
BEGINNINGS: Final = frozenset().union(PHRASES, VERBS, NOUNS, RECORDS, PARTICIPLES)
"""Most words begin no phrase, and are not looked for in each of these."""


def _contexts() -> dict[str, tuple[frames.Trie, ...]]:
    found: dict[str, tuple[frames.Trie, ...]] = {}
    for heading in SYNONYMS:
        kind, _, named = heading.partition(" ")
        if kind == "with":
            trie = _phrases(heading)
            for word in named.split():
                stem = words.base(word)[0]
                found[stem] = (*found.get(stem, ()), trie)
    return found


CONTEXTS: Final = _contexts()
"""Phrases that are alike only beside a word, by that word in its base form."""
RECORDED: Final = tables.words("recorded")
BEFORE_VERBS: Final = frozenset(
    [
        "to",
        "i",
        "we",
        "you",
        "they",
        "not",
        "can",
        "could",
        "should",
        "must",
        "will",
        "would",
        "may",
        "might",
        "and",
        "or",
        "also",
        ",",
        ".",
    ]
)


def _alike(
    bases: list[str], sentence: list[str], index: int, past: bool, recorded: bool, beside: list[frames.Trie]
) -> tuple[str, int]:
    """Key and length of the phrase at `index` that stands for others of like meaning; ("", 0) where none
    does."""
    if not beside and bases[index] not in BEGINNINGS:
        return "", 0
    key, length = frames.longest(PHRASES, bases, index)
    for trie in beside:
        bound, taken = frames.longest(trie, bases, index)
        if taken and taken >= length:
            key, length = bound, taken
    if length:
        return key, length
    key, length = frames.longest(PARTICIPLES, bases, index) if past else ("", 0)
    if length:
        return key, length
    verbal = index == 0 or sentence[index - 1] in BEFORE_VERBS
    for trie in (VERBS, RECORDS if recorded else {}) if verbal else (NOUNS,):
        key, length = frames.longest(trie, bases, index)
        if length:
            return key, length
    return "", 0


SWITCHED: Final = tables.words("rewording", "switched")
PERIODS: Final = tables.words("function", "periods")
HOUSE: Final = tables.words("rewording", "house")
"""What a house has but one of: "your return policy" is "the return policy"."""
TECHNICAL: Final = (CODES | entities.PRODUCTS) - {"windows"}


SOFTWARE: Final = tables.words("case", "software")
"""Names of software that are ordinary words, but not behind "in" or "on" at the end of a part."""


def _gathered(asked: Sentence) -> Sentence:
    """The sentence with "turn X on" as "turn on X", "per day" as "a day", "your policy" as "the policy", and
    "windows" as "Windows" behind a preposition beside another product."""
    sentence = asked.words
    words = list(sentence)
    for index, word in enumerate(sentence):
        if word in SWITCHED:
            for particle in range(index + 2, min(index + 6, len(words))):
                if words[particle] in ("on", "off") and (
                    particle + 1 == len(words) or words[particle + 1] in PREPOSITIONS | CLAUSES
                ):
                    return Sentence(words, asked.places).moved(particle, index + 1)
                if words[particle] in PREPOSITIONS or words[particle] in CLAUSES:
                    break
        elif word == "per" and index and sentence[index + 1 : index + 2] and sentence[index + 1] in PERIODS:
            words[index] = "a"
        elif word == "your" and not HOUSE.isdisjoint(sentence[index + 1 : index + 4]):
            words[index] = "the"
        elif (
            word in SOFTWARE
            and index
            and sentence[index - 1] in ("in", "on")
            and (index + 1 == len(words) or words[index + 1] in STOPS)
        ):
            words[index] = word.title()
        elif (
            word == "windows"
            and sentence[index - 1] in ("on", "for", "in")
            and not TECHNICAL.isdisjoint(sentence)
        ):
            words[index] = "Windows"
    return Sentence(words, asked.places)


def terms_of(asked: Sentence, names: frozenset[str], acronyms: frozenset[str]) -> list[Term]:
    """Terms of a sentence; articles and forms of "be" are kept as DROPPED for the frames around them.

    `names` are lower-case words that stood capitalised within a sentence: they have no synonyms and no
    misspellings.
    """
    sentence, places = _gathered(asked)
    bases: list[str] = []
    past: list[bool] = []
    for word in sentence:
        if word in FUNCTIONAL or word in names:
            stem, gone = word.removesuffix("'s"), False
        else:
            stem, gone = words.base(word)
        bases.append(stem)
        past.append(gone)
    beside = [trie for stem in bases if stem in CONTEXTS for trie in CONTEXTS[stem]]
    recorded = _recorded(bases)
    found: list[Term] = []
    index = 0
    article = ""
    while index < len(sentence):
        word, place = sentence[index], places[index]
        key, length = _alike(bases, sentence, index, past[index], recorded[index], beside)
        if (length == 1 and (word in names or word in FUNCTIONAL)) or (
            key in DETACHED and "from" in sentence
        ):
            length = 0
        if length:
            owning = key.endswith(" of") and key[:-3] in ATTRIBUTES
            key = key[:-3] if owning else key
            if any(past[index : index + length]) and key[0] != "@":
                key += ".ed"
            kind = (
                MODAL_KIND
                if key[0] == "@"
                else _kind(bases[index] if length == 1 else key, word, names, acronyms)
            )
            found.append(Term(key, word, kind, article, place, places[index + length - 1]))
            if owning:
                found.append(OF)
            index += length
        else:
            following = sentence[index + 1] if index + 1 < len(sentence) else COMMA
            if word in ("do", "does") and following in STOPS:
                found.append(Term("do", word, Kind.WORD, "", place, place))
            else:
                found.append(_term(word, bases[index], past[index], names, acronyms, article, place))
            index += 1
        article = ARTICLES.get(word, "") if length == 0 else ""
    return found


def _recorded(bases: list[str]) -> list[bool]:
    """At each place, whether what is done there is done to something that is kept on record."""
    found: list[bool] = []
    follows = False
    for stem in reversed(bases):
        found.append(follows)
        if stem in RECORDED:
            follows = True
        elif stem in PREPOSITIONS or stem in CLAUSES:
            follows = False
    return found[::-1]


DETACHED: Final = tables.words("rewording", "detached")
"""From somewhere, these are not what else they stand for: what is removed from an album is not deleted."""
OF: Final = Term("of", "of", Kind.LINK)
ARTICLES: Final = {"a": "a", "an": "a", "the": "the"}
STOPS: Final = PREPOSITIONS | CLAUSES | {COMMA}
"""Before these, and at the end, "do" is what is done: "what does a nurse do"."""
MODAL_KIND: Final = Kind.MODAL


def _term(
    word: str,
    stem: str,
    past: bool,
    names: frozenset[str],
    acronyms: frozenset[str],
    article: str,
    place: int,
) -> Term:
    if word == COMMA:
        return Term(word, word, Kind.LINK, "", place, place)
    if word in DROPPED:
        return Term("", word, Kind.DROPPED, "", place, place)
    if word in PRONOUNS:
        return Term(PRONOUNS[word], word, Kind.PRONOUN, "", place, place)
    if word in MODALS:
        return Term(MODALS[word], word, Kind.MODAL, "", place, place)
    if word in PREPOSITIONS or word in CLAUSES or word == "of":
        return Term(word, word, Kind.LINK, "", place, place)
    key = stem + ".ed" if past else stem
    return Term(key, word, _kind(stem, word, names, acronyms), article, place, place)


def _kind(stem: str, word: str, names: frozenset[str], acronyms: frozenset[str]) -> Kind:
    if word in acronyms:
        return Kind.ACRONYM
    if word in names:
        return Kind.CODE if word in CODES else Kind.ENTITY
    if word.isalpha() and word.islower():
        if word in DATES:
            return Kind.DATE
        if stem in NEGATIONS:
            return Kind.NEGATION
        if word in QUANTIFIERS or stem in ("a few", "a little", "a bit"):
            return Kind.QUANTIFIER
        if word in COMPARISONS:
            return Kind.COMPARATIVE
        if stem in numbers.UNIT_NAMES and len(stem) < 6:
            return Kind.UNIT
        if word in CODES:
            return Kind.CODE
        if word in entities.PLACES or word in entities.PRODUCTS:
            return Kind.ENTITY
        return Kind.WORD
    if DATE.match(word):
        return Kind.DATE
    if NUMBER.match(word):
        if word.isdigit() and len(word) > 5:
            return Kind.ID
        return Kind.VERSION if VERSION.match(word) else Kind.NUMBER
    if word.isalpha():
        return Kind.ACRONYM if word.isupper() else Kind.ENTITY
    if word.isalnum() or re.fullmatch(r"[A-Za-z]+-?\d[\w.-]*", word):
        return Kind.VERSION if VERSION.match(word) else Kind.ID
    return Kind.CODE
