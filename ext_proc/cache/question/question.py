"""A question, read once: its canonical text and what comparison needs of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from ext_proc.cache.question import canonical, clauses, entities, language, text, tokens
from ext_proc.cache.question.sentence import Sentence
from ext_proc.cache.question.terms import Kind, Term

ENGLISH: Final = "en"
OTHER: Final = "other"
EXACT: Final = "= "
"""Before canonical texts that are the text itself, so that no English one equals them."""


@dataclass(frozen=True, slots=True)
class Question:
    """What `read_question` made of a text; immutable, without the text itself unless that is its canonical
    form."""

    canonical: str
    """Equal canonical texts (both not empty) are one question, without a model."""
    language: str
    """ "en", or "other" for another language and for what is not clearly English."""
    literal: bool
    """Kept as it stands (code, several lines, another language): only equal canonical texts are alike."""
    clauses: tuple[clauses.Clause, ...] = ()
    terms: tuple[Term, ...] = ()
    """Terms that carry meaning, in the order of the text."""

    names: frozenset[str] = frozenset()
    """Words that stood capitalised within a sentence, in lower case."""
    acronyms: frozenset[str] = frozenset()

    @property
    def content_words(self) -> frozenset[str]:
        """Keys of all terms that carry meaning, links left out."""
        return frozenset(term.key for term in self.terms if term.kind is not Kind.LINK)


NOTHING_MORE: Final = (clauses.Group("", (("", ()),)),)
"""Groups of "what do I do", which asks about the sentence before it."""


def read_question(raw: str) -> Question:
    """Reads one user text. Never raises; of a text beyond `text.CHARS_MAX` or without a word `canonical`
    is empty."""
    if len(raw) > text.CHARS_MAX:
        return Question("", OTHER, True)
    folded = text.folded(raw)
    if len(folded) > text.READ_CHARS_MAX or not text.readable(folded) or canonical.quotes_changed(folded):
        return _exact(folded)
    written = tokens.split(folded)
    names, acronyms = entities.names_of(written)
    plain = canonical.tokens_of_split(written)
    if not plain or not language.is_english(plain):
        return _exact(folded)
    return of_tokens(plain, names, acronyms)


def of_tokens(plain: list[str], names: frozenset[str], acronyms: frozenset[str]) -> Question:
    """The question of canonical tokens; `names` and `acronyms` as `entities.names_of` found them."""
    read_clauses: list[clauses.Clause] = []
    terms: list[Term] = []
    place = 0
    for words in canonical.sentences(plain):
        sentence = Sentence(words, range(place, place + len(words)))
        place += len(words) + 1  # behind a sentence stands its end
        found, more = clauses.read(sentence, names, acronyms)
        read_clauses.extend(found)
        terms.extend(more)
    if len(read_clauses) == 2 and read_clauses[1].kind == "bare" != read_clauses[0].kind:
        read_clauses.reverse()  # what the matter is, and what is asked about it: in either order
    if len(read_clauses) == 2 and read_clauses[0].kind == "bare" and read_clauses[1].kind == "whattodo":
        scene, asked = read_clauses
        if asked.groups == NOTHING_MORE and all(group.link != "if" for group in scene.groups):
            main, *others = scene.groups
            groups = (*asked.groups, clauses.Group("if", main.parts), *others)
            read_clauses = [clauses.Clause(asked.kind, asked.subject, groups)]
    return Question(" ".join(plain), ENGLISH, False, tuple(read_clauses), tuple(terms), names, acronyms)


def _exact(folded: str) -> Question:
    kept = text.spaced(folded)
    return Question(EXACT + kept if kept else "", OTHER, True)
