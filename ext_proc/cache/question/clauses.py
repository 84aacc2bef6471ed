"""Clauses: who does what to whom, from where, under which condition; the shape in which order is compared."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Final, NamedTuple

from ext_proc.cache.question import frames, rewording, tables
from ext_proc.cache.question.sentence import Sentence
from ext_proc.cache.question.terms import CLAUSES, OF, PREPOSITIONS, Kind, Term, terms_of
from ext_proc.cache.question.tokens import COMMA

Part = tuple[str, tuple[str, ...]]
"""A preposition and the keys after it; the preposition of what comes first is ""."""


class Group(NamedTuple):
    """What stands under one conjunction ("" for the main part): its parts, the head first."""

    link: str
    parts: tuple[Part, ...]


@dataclass(frozen=True, slots=True)
class Clause:
    """One sentence, or a sentence before a comma that only sets the scene: its form of asking and its
    groups."""

    kind: str
    subject: str
    groups: tuple[Group, ...]


SITES: Final = tables.words("function", "places")
AT: Final = Term("at", "at", Kind.LINK)
PART_TERMS_MAX: Final = 4
"""Longer parts hold more than the object of their preposition, and keep their place."""


def read(
    sentence: Sentence, names: frozenset[str], acronyms: frozenset[str]
) -> tuple[list[Clause], list[Term]]:
    """Clauses of one sentence of canonical tokens, and the terms in them."""
    sentence = sentence.reworded(rewording.plainly(sentence.words))
    asked = _asked_at(sentence.words)
    if asked:
        front, rest = sentence.part(0, asked), sentence.part(asked)
        rest = rest.reworded(rewording.plainly(rest.words))
        while front.words and front.words[-1] == COMMA:
            front = front.part(0, -1)
        if front.words and (front.words[0] in PREPOSITIONS or front.words[0] in CLAUSES):
            return _fronted(front, rest, names, acronyms)
        if front.words:
            before, terms = _clause(front, names, acronyms)
            after, more = _clause(rest, names, acronyms)
            return [before, after], terms + more
        sentence = rest
    clause, terms = _clause(sentence, names, acronyms)
    return [clause], terms


def _asked_at(sentence: list[str]) -> int:
    """Where the form of asking begins, behind a scene or a fronted part; 0 where the sentence begins with
    it."""
    if sentence[0] in frames.ASKING and sentence[0] not in ("when", "where", "while"):
        return 0
    fronted = sentence[0] in PREPOSITIONS or sentence[0] in CLAUSES
    for index in range(1, len(sentence) - 1):
        if sentence[index] not in frames.ASKING:
            continue
        if sentence[index - 1] == COMMA:
            return index
        if fronted and index > 1 and frames.frame(sentence, index)[2] > 1:
            return index
    if fronted and COMMA in sentence and sentence[1] not in frames.AUXILIARIES:
        return sentence.index(COMMA) + 1
    return 0


def _fronted(
    front: Sentence, rest: Sentence, names: frozenset[str], acronyms: frozenset[str]
) -> tuple[list[Clause], list[Term]]:
    """ "On Sundays, is it open" as "is it open on Sundays"; "if I cancel, ..." as the last group."""
    clause, terms = _clause(rest, names, acronyms)
    before = [term for term in terms_of(front, names, acronyms) if term.key not in ("", COMMA)]
    groups = _groups(before)
    if groups[0].parts and groups[0].parts != (("", ()),):
        main = clause.groups[0]
        added = tuple(part for part in groups[0].parts if part != ("", ()))
        clause = Clause(
            clause.kind,
            clause.subject,
            (Group(main.link, _settled([*main.parts, *added])), *clause.groups[1:]),
        )
    clause = Clause(clause.kind, clause.subject, (*clause.groups, *_supposed(clause.kind, groups[1:])))
    return [clause], before + terms


def _clause(sentence: Sentence, names: frozenset[str], acronyms: frozenset[str]) -> tuple[Clause, list[Term]]:
    kind, subject, taken = frames.frame(sentence.words, 0)
    if not taken:
        kind, subject, taken = _form(sentence.words)
    terms = [term for term in terms_of(sentence.part(taken), names, acronyms) if term.key != ""]
    searched = kind == "bare" and rewording.OWNED.isdisjoint(sentence.words)
    kind, terms = _reworded(kind, _swapped(terms), searched)
    groups = _supposed(kind, _mirrored(_groups(terms)))
    if kind == "howlong" and subject == "future" and groups[0].parts[0][1][-1:] == ("last",):
        subject = ""
    return Clause(kind, subject, groups), terms


def _supposed(kind: str, groups: tuple[Group, ...]) -> tuple[Group, ...]:
    """ "what do I do when my screen is frozen" as "what do I do if my screen is frozen"."""
    if kind not in ("whattodo", "happens"):
        return groups
    return tuple(Group("if", group.parts) if group.link == "when" else group for group in groups)


def _mirrored(groups: tuple[Group, ...]) -> tuple[Group, ...]:
    """ "the difference between A and B" with A and B in one order: it is the same from either side."""
    if len(groups) != 2 or groups[1].link != "and" or len(groups[1].parts) != 1:
        return groups
    (head, *between), last = groups[0].parts, groups[1].parts[0]
    if (
        head[1] not in (("difference",), ("main", "difference"))
        or len(between) != 1
        or between[0][0] != "between"
    ):
        return groups
    first, second = sorted((between[0][1], last[1]))
    return Group("", (head, ("between", first))), Group("and", (("", second),))


ORDERED: Final = frozenset(["to", "from", "through", "via", "than", "over", "into", "by"])
"""Behind these the order of two places or things may be that of a way or of a comparison."""


def _swapped(terms: list[Term]) -> list[Term]:
    """ "must I pay" as "I must pay", and "in A and B" at the end with A and B in one order."""
    swapped = list(terms)
    for index, (one, other) in enumerate(pairwise(terms)):
        if one.key == "@must" and other.kind is Kind.PRONOUN and other.key in ("@i", "@we", "@you"):
            swapped[index : index + 2] = [other, one]
        elif other.kind is Kind.LINK and (one.key, other.key) in OWNING:
            swapped[index + 1] = OF
    if len(swapped) > 4:
        link, one, coordinates, other = swapped[-4:]
        if (
            link.kind is Kind.LINK and link.key in PREPOSITIONS - ORDERED
            and coordinates.kind is Kind.LINK and coordinates.key in ("and", "or")
            and Kind.LINK not in (one.kind, other.kind) and other.key < one.key
        ):  # fmt: skip
            swapped[-3], swapped[-1] = other, one
    return swapped


def _reworded(kind: str, terms: list[Term], searched: bool) -> tuple[str, list[Term]]:
    """Forms of asking that end in a verb of their own: "how much does it cost", "what does it mean"."""
    if kind == "openhours":
        return "what", [OPENING_HOURS, *terms]
    if kind == "howlong":
        return _taking(terms)
    if kind == "howmuchis":
        return ("amount" if _names_amount(terms) else "price"), terms
    if (
        kind == "whattime"
        and terms
        and terms[0].key in DAILY
        and (len(terms) == 1 or terms[1].kind is Kind.LINK)
    ):
        return "when", terms
    if kind == "what" and len(terms) > 2 and terms[0].key == "treatment" and terms[1].key == "for":
        return "howto", [_verb("treat", terms[0]._replace(surface="treatment")), *terms[2:]]
    if kind == "howto":
        return kind, _acted(terms)
    if searched and len(terms) > 1:
        return _looked_up(terms)
    if len(terms) > 1 and kind == "price2" and terms[-1].key == "cost":
        return "price", terms[:-1]
    links = [index for index, term in enumerate(terms) if term.kind is Kind.LINK and term.key != "of"]
    end = links[0] if links else len(terms)
    if end > 1 and kind in ("price2", "what", "whatwould") and terms[end - 1].key == "cost":
        return "price", [*terms[: end - 1], *terms[end:]]
    if end > 1 and kind == "what" and terms[end - 1].key == "mean":
        return "meaning", [*terms[: end - 1], *terms[end:]]
    if end > 1 and kind == "howmuch" and terms[end - 1].key == "cost":
        return "price", [*terms[: end - 1], *terms[end:]]
    if end and kind == "when" and terms[0].key == "deadline":
        return "what", terms
    if end > 1 and kind == "whattime" and terms[end - 1].key in ("open", "close"):
        return "when", terms
    keys = [term.key for term in terms]
    if kind == "exists" and end > 1 and keys[end - 1] == "available":
        return kind, [*terms[: end - 1], *terms[end:]]
    if kind == "yn present" and end > 1 and keys[end - 1] == "available" and _is_generic(terms[: end - 1]):
        return "exists", [*terms[: end - 1], *terms[end:]]
    if (
        kind == "yn present"
        and "have" in keys[1 : end - 1]
        and not links
        and terms[0].kind is not Kind.PRONOUN
    ):
        have = keys.index("have")
        return "exists", [*terms[have + 1 :], AT, *terms[:have]]
    return kind, terms


def _names_amount(terms: list[Term]) -> bool:
    """Whether the first thing named is money or another amount itself: "my refund", "statutory sick pay"."""
    links = [index for index, term in enumerate(terms) if term.kind is Kind.LINK]
    head = terms[: links[0] if links else len(terms)]
    return bool(head) and head[-1].key.rpartition(" ")[2].removesuffix(".ed") in rewording.AMOUNTS


DAILY: Final = frozenset(tables.rows("rewording", "daily"))
"""What takes place each day, so that "when" asks for the time."""


NOUN_KINDS: Final = frozenset({Kind.WORD, Kind.ENTITY, Kind.ACRONYM})
OWNING: Final = frozenset(tuple(row.split()) for row in tables.rows("rewording", "owning"))
"""Things and the preposition that stands for "of" behind them."""
OPENING_HOURS: Final = Term("opening hours", "open", Kind.WORD)


def _is_generic(terms: list[Term]) -> bool:
    """Whether terms name a thing as such, none that was named before and nobody's."""
    return all(term.kind in NOUN_KINDS and term.article != "the" for term in terms)


def _taking(terms: list[Term]) -> tuple[str, list[Term]]:
    """ "how long does delivery take" as "how long does it take for delivery"."""
    for index, term in enumerate(terms):
        if index and term.key == "take" and (index + 1 == len(terms) or terms[index + 1].kind is Kind.LINK):
            return "takes2", [*terms[:index], *terms[index + 1 :]]
        if term.kind is Kind.LINK and term.key != "of":
            break
    return "howlong", terms


def _acted(terms: list[Term]) -> list[Term]:
    """ "order cancellation" and "cancellation of an order", behind "the process for", as "cancel an
    order"."""
    links = [index for index, term in enumerate(terms) if term.kind is Kind.LINK]
    end = links[0] if links else len(terms)
    if not end or terms[end - 1].key not in rewording.ACTS:
        return terms
    name = terms[end - 1]
    rest = terms[end + 1 :] if links and terms[end].key == "of" else terms[end:]
    return [_verb(rewording.ACTS[name.key], name), *terms[: end - 1], *rest]


def _verb(key: str, name: Term) -> Term:
    """What is done, for a term that is its name."""
    return name._replace(key=key, kind=Kind.WORD, article="")


def _looked_up(terms: list[Term]) -> tuple[str, list[Term]]:
    """Words as typed into a search box, "appendicitis symptoms", as "what are the symptoms of
    appendicitis"."""
    links = [index for index, term in enumerate(terms) if term.kind is Kind.LINK]
    head = terms[(links[0] if links else len(terms)) - 1]
    if head.kind is not Kind.WORD:
        return "bare", terms
    if len(terms) > 1 and not links and head.key in ("meaning", "definition"):
        return "meaning", terms[:-1]
    return ("what" if head.key.rpartition(" ")[2] in rewording.ATTRIBUTES else "bare"), terms


def _possessed(keys: tuple[str, ...]) -> tuple[str, ...]:
    """ "capital of peru" as "peru capital", where the first is something that the second has."""
    if keys.count("of") != 1:
        return keys
    place = keys.index("of")
    thing, owner = keys[:place], keys[place + 1 :]
    if thing and owner and thing[-1].rpartition(" ")[2] in rewording.ATTRIBUTES:
        return (*owner, *thing)
    return keys


def _form(sentence: list[str]) -> tuple[str, str, int]:
    """Type of question without a frame: its interrogative, "yn" with its auxiliary, or "bare"."""
    first = sentence[0]
    if first in frames.WH:
        return first, "", 1
    if first in frames.AUXILIARIES:
        if len(sentence) > 1 and sentence[1] == "not":
            return "bare" if first in ("do", "have") else "yn " + YES_NO.get(first, first), "", 0
        return "yn " + YES_NO.get(first, first), "", 1
    return "bare", "", 0


YES_NO: Final = {
    "is": "present", "are": "present", "am": "present", "do": "present", "does": "present",
    "did": "past", "was": "past", "were": "past",
    "has": "perfect", "have": "perfect", "had": "perfect",
}  # fmt: skip
"""Tense of questions answered by yes or no, by their auxiliary; modal verbs stand for themselves."""


def _groups(terms: list[Term]) -> tuple[Group, ...]:
    groups: list[Group] = []
    link = ""
    parts: list[tuple[str, list[str]]] = [("", [])]
    for term in terms:
        key = term.key
        if term.kind is Kind.LINK and key in CLAUSES:
            groups.append(Group(link, _settled([(name, tuple(keys)) for name, keys in parts])))
            link = key
            parts = [("", [])]
        elif term.kind is Kind.LINK and key in PREPOSITIONS:
            parts.append((key, []))
        elif key != COMMA:
            parts[-1][1].append(key)
    groups.append(Group(link, _settled([(name, tuple(keys)) for name, keys in parts])))
    return tuple(groups)


def _settled(parts: list[Part]) -> tuple[Part, ...]:
    """Parts in one order where theirs says nothing: each under another preposition, none longer than an
    object.

    "in", "on" and "at" a place are one.
    """
    head, *rest = [("at" if _is_site(name, keys) else name, _possessed(keys)) for name, keys in parts]
    names = {name for name, _ in rest}
    if names <= WAYS and len(names) == len(rest) and all(0 < len(keys) <= PART_TERMS_MAX for _, keys in rest):
        rest.sort()
    return (head, *rest)


def _is_site(preposition: str, keys: list[str] | tuple[str, ...]) -> bool:
    """Whether "at" could stand there too; "on a garage" is not in it."""
    return bool(keys) and (
        (preposition == "in" and keys[-1] in SITES) or (preposition == "on" and keys[-1] in SCREENS)
    )


SCREENS: Final = tables.words("function", "screens")
WAYS: Final = frozenset({"from", "to", "via"})
"""Parts of a way are told in any order; what is behind other prepositions may belong to the word before."""
