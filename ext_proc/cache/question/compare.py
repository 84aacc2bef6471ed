"""Two questions compared: the level of likeness and the guard that refuses them."""

from __future__ import annotations

from collections import Counter
from typing import Final

from ext_proc.cache.question import opposites, shape, slips, words
from ext_proc.cache.question.guards import Comparison, Guard, Level
from ext_proc.cache.question.question import Question
from ext_proc.cache.question.terms import Kind, Term

KIND_GUARDS: Final = (
    (Kind.CODE, Guard.CODE),
    (Kind.NUMBER, Guard.NUMBER),
    (Kind.UNIT, Guard.UNIT),
    (Kind.ID, Guard.ID),
    (Kind.DATE, Guard.DATE),
    (Kind.VERSION, Guard.VERSION),
    (Kind.NEGATION, Guard.NEGATION),
    (Kind.COMPARATIVE, Guard.COMPARATIVE),
    (Kind.QUANTIFIER, Guard.QUANTIFIER),
    (Kind.ENTITY, Guard.ENTITY),
    (Kind.ACRONYM, Guard.ACRONYM),
    (Kind.PRONOUN, Guard.OWNER),
    (Kind.MODAL, Guard.MODALITY),
)
"""Kinds of term that may not differ, in the order in which they are reported."""


def compare(asked: Question, stored: Question) -> Comparison:
    """Compares two questions; symmetric, and a question is the same as itself unless its canonical text is
    empty."""
    if asked.canonical == stored.canonical:
        return (
            Comparison(Level.CANONICAL, None)
            if asked.canonical
            else Comparison(Level.FAR, None, "not compared")
        )
    if asked.language != stored.language:
        return Comparison(Level.FAR, Guard.LANGUAGE, "languages differ")
    if asked.literal or stored.literal:
        return Comparison(Level.FAR, None, "compared as it stands")
    outcome = _compare(asked, stored)
    if outcome.level is Level.WORDS and outcome.guard is None:
        return outcome
    mended = slips.mended(asked, stored)
    return outcome if mended is None else _compare(*mended)


def _compare(asked: Question, stored: Question) -> Comparison:
    left, right = _unmatched(asked.terms, stored.terms)
    level = _level(left, right)
    guard, detail = _difference(left, right)
    if guard is None and level in (Level.WORDS, Level.NEAR):
        matched = [(left[0].key, right[0].key)] if level is Level.NEAR and left and right else []
        guard, detail = shape.difference(asked, stored, matched, bool(left) != bool(right))
    elif guard is None:
        guard, detail = shape.asked_differently(asked, stored)
    return Comparison(level, guard, detail)


def _unmatched(left: tuple[Term, ...], right: tuple[Term, ...]) -> tuple[list[Term], list[Term]]:
    """Terms of each side that the other has not as often; "my" on one side only is left to the shape."""
    here = Counter(term.key for term in left if term.kind is not Kind.LINK)
    there = Counter(term.key for term in right if term.kind is not Kind.LINK)
    if here == there:
        return [], []
    return _beyond(left, here - there), _beyond(right, there - here)


def _beyond(terms: tuple[Term, ...], more: Counter[str]) -> list[Term]:
    found: list[Term] = []
    for term in terms:
        if term.kind is not Kind.LINK and more[term.key] > 0:
            more[term.key] -= 1
            found.append(term)
    return found


def _level(left: list[Term], right: list[Term]) -> Level:
    content = [term for term in left if term.kind not in (Kind.PRONOUN, Kind.MODAL)]
    others = [term for term in right if term.kind not in (Kind.PRONOUN, Kind.MODAL)]
    if not content and not others:
        return Level.WORDS
    return Level.NEAR if len(content) <= 1 and len(others) <= 1 else Level.FAR


OPPOSED_MAX: Final = 16
"""Terms of each side of which opposites are looked for; with more the questions are far apart anyway."""


def _difference(left: list[Term], right: list[Term]) -> tuple[Guard | None, str]:
    """The guard for terms that only one side has."""
    kinds = {term.kind for term in left} | {term.kind for term in right}
    for kind, guard in KIND_GUARDS:
        if kind in kinds and not (kind is Kind.PRONOUN and shape.owner_may_differ(left, right)):
            return guard, f"{kind} terms differ"
    for term in left[:OPPOSED_MAX]:
        for other in right[:OPPOSED_MAX]:
            found = opposites.between(term.key, other.key) or opposites.between(
                words.base(term.surface)[0], words.base(other.surface)[0]
            )
            if found is not None:
                return found, "opposite terms"
    if any(opposites.is_polar(term.key) for term in (*left, *right)):
        return Guard.NEGATION, "a term of refusal on one side"
    return None, ""
