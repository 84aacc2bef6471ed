"""The shape of two questions: form of asking, who, order, direction, conditions and scope."""

from __future__ import annotations

from typing import Final

from ext_proc.cache.question import grammar, rewording, tables
from ext_proc.cache.question.clauses import Clause, Group
from ext_proc.cache.question.guards import Guard
from ext_proc.cache.question.question import Question
from ext_proc.cache.question.terms import Kind, Term

ALIKE_KINDS: Final = frozenset(
    frozenset(pair.split("=")) for pair in ("can=possible", "can=allowed", "what=which", "takes=takes2")
)
"""Forms of asking that are answered alike though neither is the other; not transitive."""
CONDITIONS: Final = frozenset(
    [
        "if",
        "unless",
        "when",
        "while",
        "because",
        "although",
        "though",
        "whether",
        "once",
        "since",
        "until",
        "till",
        "after",
        "before",
        "without",
        "except",
        "so",
        "whereas",
    ]
)
HAPPENINGS: Final = tables.words("rewording", "happenings")
ANYBODYS: Final = tables.words("rewording", "anybody")
"""Acts that are done alike whoever does them."""
MINE: Final = "@my"


def owner_may_differ(left: list[Term], right: list[Term]) -> bool:
    """Whether the pronouns that only one side has are one kind of "my", which the shape weighs."""
    pronouns = [term.key for term in (*left, *right) if term.kind is Kind.PRONOUN]
    return all(key == MINE for key in pronouns) and not (
        any(term.key == MINE for term in left) and any(term.key == MINE for term in right)
    )


def asked_differently(asked: Question, stored: Question) -> tuple[Guard | None, str]:
    """The guard for forms of asking that are not alike."""
    if len(asked.clauses) != len(stored.clauses):
        return Guard.CONTEXT, "number of sentences differs"
    for one, other in zip(asked.clauses, stored.clauses, strict=True):
        found = _forms(one, other, asked, stored)
        if found[0] is not None:
            return found
    return None, ""


def _forms(one: Clause, other: Clause, asked: Question, stored: Question) -> tuple[Guard | None, str]:
    if one.kind != other.kind and frozenset((one.kind, other.kind)) not in ALIKE_KINDS:
        modal = one.kind.startswith("yn") and other.kind.startswith("yn")
        return (Guard.MODALITY if modal else Guard.QUESTION_TYPE), "forms of asking differ"
    if one.kind != other.kind and "allowed" in (one.kind, other.kind) and _happens(one):
        return Guard.MODALITY, "allowed is not likely"
    if one.subject != other.subject:
        subjects = {one.subject, other.subject}
        if subjects != {"", "i"} and not ("you" in subjects and _is_anybodys(one, asked, other, stored)):
            return (Guard.TENSE if subjects & {"past", "future"} else Guard.OWNER), "subjects differ"
    return None, ""


def _happens(clause: Clause) -> bool:
    """Whether it is about what befalls somebody: of that, "can I" asks how likely it is."""
    _, act = clause.groups[0].parts[0]
    return act[:1] != () and act[0] in HAPPENINGS


def _is_anybodys(one: Clause, asked: Question, other: Clause, stored: Question) -> bool:
    """Whether "you" is anybody, and not who is asked: in "how do you boil an egg", "do you have parking"."""
    if one.kind != other.kind:
        return False
    terms = (*asked.terms, *stored.terms)
    if one.kind == "exists":
        return not any(term.kind is Kind.LINK and term.key in KNOWN for term in terms)
    if one.kind != "howto" or any(term.kind is Kind.PRONOUN for term in terms):
        return False
    act = one.groups[0].parts[0][1][:1]
    if not act or act != other.groups[0].parts[0][1][:1] or act[0] in rewording.FIRMS:
        return False
    return act[0] in ANYBODYS or (_is_of_any(asked) and _is_of_any(stored))


def _is_of_any(question: Question) -> bool:
    """Whether code is asked about, or any thing of a kind."""
    return any(term.kind is Kind.CODE or term.article == "a" for term in question.terms)


KNOWN: Final = frozenset({"for", "from", "of", "to"})
"""Behind these a thing is rather known of than had: "a vaccine for malaria"."""


def difference(
    asked: Question, stored: Question, matched: list[tuple[str, str]], uneven: bool
) -> tuple[Guard | None, str]:
    """The guard for questions of the same words, but for those `matched`, whose shape differs; `uneven`:
    one side has a
    word more, so that only the form of asking and the links can be compared."""
    found = asked_differently(asked, stored)
    if found[0] is not None:
        return found
    mine = _mine_differs(asked, stored)
    if mine is not None:
        return mine, "owners differ"
    found = grammar.difference(asked, stored)
    if found[0] is not None:
        return found
    here = {key: f"*{index}" for index, (key, _) in enumerate(matched)}
    there = {key: f"*{index}" for index, (_, key) in enumerate(matched)}
    if _count_mine(asked) != _count_mine(stored):
        here[MINE] = there[MINE] = ""
    for one, other in zip(asked.clauses, stored.clauses, strict=True):
        found = _groups(one.groups, other.groups, (here, there), uneven)
        if found[0] is not None:
            return found
    return None, ""


def _count_mine(question: Question) -> int:
    return sum(term.key == MINE for term in question.terms)


def _mine_differs(asked: Question, stored: Question) -> Guard | None:
    """OWNER where "my" stands on one side only and that matters: outside what I do myself, or against "a"."""
    here = [term for term in asked.terms if term.key == MINE]
    there = [term for term in stored.terms if term.key == MINE]
    if len(here) == len(there):
        return None
    if not all(clause.kind in OWN_DEEDS for clause in (*asked.clauses, *stored.clauses)):
        return Guard.OWNER
    if here and there:
        return Guard.OWNER
    if any(term.article == "a" for term in (*asked.terms, *stored.terms)) or any(
        term.kind is Kind.PRONOUN and term.key != MINE for term in (*asked.terms, *stored.terms)
    ):
        return Guard.OWNER
    return None


OWN_DEEDS: Final = frozenset({"howto", "where", "whereto", "whattodo", "whoto"})
"""Forms of asking in which the one who asks acts, so that "the password" is "my password"."""


def _groups(
    one: tuple[Group, ...],
    other: tuple[Group, ...],
    renamed: tuple[dict[str, str], dict[str, str]],
    uneven: bool,
) -> tuple[Guard | None, str]:
    links = sorted(group.link for group in one)
    if links != sorted(group.link for group in other):
        changed = {group.link for group in one} ^ {group.link for group in other}
        return (Guard.CONDITION if changed & CONDITIONS else Guard.SCOPE), "conjunctions differ"
    left, right = _ordered(one, renamed[0]), _ordered(other, renamed[1])
    if uneven:
        if [[name for name, _ in parts] for _, parts in left] != [
            [name for name, _ in parts] for _, parts in right
        ]:
            return Guard.SCOPE, "prepositions differ"
        return None, ""
    if left == right:
        return None, ""
    names = [sorted(name for name, _ in parts) for _, parts in left]
    if names != [sorted(name for name, _ in parts) for _, parts in right]:
        return Guard.SCOPE, "prepositions differ"
    directed = any(name in DIRECTIONS for parts in names for name in parts)
    return (Guard.DIRECTION if directed else Guard.ORDER), "order differs"


DIRECTIONS: Final = frozenset(
    {"from", "to", "into", "onto", "over", "under", "above", "below", "than", "between"}
)


def _ordered(
    groups: tuple[Group, ...], renamed: dict[str, str]
) -> list[tuple[str, list[tuple[str, list[str]]]]]:
    """Groups with matched keys replaced, and without those replaced by ""; conditions in any order
    behind the main."""
    main, *rest = (
        (
            group.link,
            [
                (name, [renamed.get(key, key) for key in keys if renamed.get(key, key)])
                for name, keys in group.parts
            ],
        )
        for group in groups
    )
    if all(group[0] in CONDITIONS for group in rest):
        rest.sort()
    return [main, *rest]
