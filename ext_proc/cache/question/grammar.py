"""Grammar that tells like questions apart: articles, endings, who does what.

They say little in most questions and everything in some: "a deductible" and "the deductible", "damage" and
"damages", "have I paid" and "have I been paid". They are refused wherever ordinary repetitions hardly ever
differ in them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import Final

from ext_proc.cache.question import tables, words
from ext_proc.cache.question.guards import Guard
from ext_proc.cache.question.question import Question
from ext_proc.cache.question.rewording import SEVERAL
from ext_proc.cache.question.sentence import NOWHERE
from ext_proc.cache.question.terms import FUNCTIONAL, PERIODS, Kind, Term

Difference = tuple[Guard | None, str]
NONE: Final[Difference] = (None, "")


MASS: Final = tables.words("function", "mass")
"""Nouns that are a matter without an article and a piece with one: "chicken", "a chicken"."""
SENSES: Final = tables.words("function", "plural senses")
"""Base forms of nouns that mean another thing in the plural."""
PERSONS: Final = tables.words("rewording", "persons")
"""What is theirs is not what is called after them: "my student's account" and "my student account"."""
BE: Final = frozenset(["am", "is", "are", "was", "were", "be", "been", "being"])
DO: Final = frozenset(["do", "does", "did"])
HAVE: Final = frozenset(["has", "have", "had"])
BETWEEN: Final = tables.words("function", "between")
"""May stand between an auxiliary and its participle."""
SUBJECTS: Final = frozenset(["i", "we", "you", "they", "he", "she", "it", "who"])


def difference(asked: Question, stored: Question) -> Difference:
    """The guard for questions whose words are alike but for these."""
    one, other = Side(asked), Side(stored)
    for find in (_auxiliary, _voice, _naming):
        found = find(one, other)
        if found[0] is not None:
            return found
    pairs = list(_pairs(asked, stored))
    if _article_moved(pairs, stored):
        return Guard.ORDER, "an article moved"
    for left, right in pairs:
        here, there = Place(left, one), Place(right, other)
        for compare in (_number, _article, _ending, _owner):
            found = compare(here, there)
            if found[0] is not None:
                return found
    return NONE


class Side:
    """One of the two questions, and its canonical tokens."""

    def __init__(self, question: Question) -> None:
        """Of a question with clauses."""
        self.question = question
        self.tokens = question.canonical.split()
        self.kind = question.clauses[-1].kind
        self.has_do = not DO.isdisjoint(self.tokens)

    @property
    def act(self) -> str:
        """What is done, where a deed is asked about."""
        return next(iter(self.question.clauses[-1].groups[0].parts[0][1]), "")


class Place:
    """A word of a term where it stands."""

    def __init__(self, term: Term, side: Side) -> None:
        """The first word of the term; without a place of its own it counts as the first of the question."""
        self.term, self.side = term, side
        self.surface = term.surface
        self.index = max(term.first, 0)

    @property
    def before(self) -> str:
        """The token before it, empty at the beginning."""
        return self.side.tokens[self.index - 1] if self.index else ""

    @property
    def last(self) -> Place:
        """The last word of a phrase, where it stands."""
        if self.term.last in (self.term.first, NOWHERE):
            return self
        term = self.term._replace(surface=self.side.tokens[self.term.last], first=self.term.last)
        return Place(term, self.side)

    @property
    def after(self) -> str:
        """The thing it says more of: "process" in "the refund process"."""
        following = self.side.tokens[self.index + 1 : self.index + 2]
        terms = self.side.question.terms
        nouns = {term.surface for term in terms if term.kind is Kind.WORD and not term.key.endswith(".ed")}
        return following[0] if following and following[0] in nouns else ""

    @property
    def stem(self) -> str:
        """Base form."""
        return words.base(self.surface)[0]

    @property
    def determiner(self) -> str:
        """Article or owner, also before adjectives; empty where there is none."""
        for token in reversed(self.side.tokens[max(0, self.index - NOUNS_MAX) : self.index]):
            if token in FUNCTIONAL or token.isdigit():
                return token if token in DETERMINERS else ""
        return ""


NOUNS_MAX: Final = 4
DETERMINERS: Final = frozenset(
    ["a", "an", "the", "my", "your", "our", "his", "her", "their", "its", "this", "that"]
)


def _pairs(asked: Question, stored: Question) -> Iterator[tuple[Term, Term]]:
    """Terms of the same key, in order."""
    theirs: dict[str, list[Term]] = defaultdict(list)
    for term in stored.terms:
        if term.kind is not Kind.LINK:
            theirs[term.key].append(term)
    for term in asked.terms:
        if term.kind is not Kind.LINK and theirs[term.key]:
            yield term, theirs[term.key].pop(0)


def _auxiliary(one: Side, other: Side) -> Difference:
    """ "what is Apple Pay" and "what does Apple pay"; "is the lamp dim" and "does the lamp dim"."""
    if one.kind != other.kind or not (one.kind in ASKED or one.kind.startswith("yn")):
        return NONE
    subjects = {side.question.clauses[-1].subject for side in (one, other)}
    if one.kind == "where" and len(subjects) > 1 and "be" in (_verb(one.tokens), _verb(other.tokens)):
        return Guard.QUESTION_TYPE, "to be or to do"  # "where can I park" and "where is the park"
    if {_verb(one.tokens), _verb(other.tokens)} == {"be", "do"}:
        going = any(token.endswith("ing") for token in (*one.tokens, *other.tokens))
        return NONE if going and one.kind in ("why", "when") else (Guard.QUESTION_TYPE, "to be or to do")
    return NONE


ASKED: Final = frozenset(
    ["what", "how", "where", "who", "when", "why", "whattime", "howlong", "howoften", "howoftencan"]
)


def _verb(tokens: list[str]) -> str:
    """Of the form of asking: "be", "do" or another one; what I do myself is also asked without "do"."""
    if tokens[1:4] == ["is", "it", "that"]:
        return ""
    index = next((place for place, token in enumerate(tokens[:4]) if token in BE | DO), -1)
    if index < 0 or tokens[index] in BE:
        return "be" if index >= 0 else ""
    return "" if tokens[0] != "where" and tokens[index + 1 : index + 2] in (["i"], ["we"]) else "do"


def _voice(one: Side, other: Side) -> Difference:
    """ "have I been paid" and "have I paid"; "I have been a tenant" and "I have a tenant"."""
    left, right = _suffering(one), _suffering(other)
    turned = any(
        {said, told} == {True, False}
        for key in left.keys() & right.keys()
        for said, told in zip(left[key], right[key], strict=False)
    )
    certain = [{said for told in side.values() for said in told} - {None} for side in (left, right)]
    been = ["been" in side.tokens for side in (one, other)]
    have = [not HAVE.isdisjoint(side.tokens) for side in (one, other)]
    if turned or (all(certain) and certain[0] != certain[1]) or (been[0] != been[1] and all(have)):
        return Guard.ORDER, "who does it differs"
    return NONE


def _suffering(side: Side) -> dict[str, list[bool | None]]:
    """What `_suffered` says of each participle, by its key and in order."""
    found: dict[str, list[bool | None]] = defaultdict(list)
    for term in side.question.terms:
        if term.key.endswith(".ed") and term.first != NOWHERE:
            found[term.key].append(_suffered(side.tokens, term))
    return found


def _suffered(tokens: list[str], participle: Term) -> bool | None:
    """Whether what `participle` says is done to its subject; None where that is not certain."""
    index = participle.first - 1
    while index > 0 and tokens[index] in BETWEEN:
        index -= 1
    if index < 0:
        return None
    if tokens[index] in BE:
        return True
    if tokens[index] in HAVE:
        return False
    if tokens[index] in SUBJECTS:
        return index > 0 and tokens[index - 1] in BE
    if participle.surface == "used" or (tokens[0] in HAVE and "been" not in tokens):
        return False
    before = tokens[: index + 1]
    told = not SCENES.isdisjoint(before) and BE.isdisjoint(before) and tokens[index] not in DETERMINERS
    return False if told else None


SCENES: Final = frozenset({"if", "when", "which", "who"})
"""Behind these, and a subject, a form in "-ed" is what the subject does."""


def _number(one: Place, other: Place) -> Difference:
    """One against several, where that is not said of all alike."""
    if " " in one.term.key:
        one, other = one.last, other.last
    several, single = one, other
    if not _is_plural(_bare(one.surface), _bare(other.surface)):
        several, single = other, one
        if not _is_plural(_bare(other.surface), _bare(one.surface)):
            return NONE
    if ("'" in one.surface) != ("'" in other.surface):
        return NONE  # "master's degree" and "masters degree"
    alike = single.determiner == several.determiner
    if several.after and single.after and alike and single.stem not in SENSES:
        return NONE  # "the refunds process"
    if single.after and not several.after and several.before in ("for", "of") and single.stem not in SENSES:
        return NONE  # "the application deadline" and "the deadline for applications"
    agrees = single.side.has_do and not several.side.has_do
    if agrees and not {single.before, several.before} & DETERMINERS:
        return NONE  # "why does it flicker" and "why it flickers"
    if single.determiner in ("a", "an") and not several.determiner and _is_general(single):
        return NONE
    return Guard.QUANTIFIER, "one and several"


def _is_general(single: Place) -> bool:
    """Whether "a" means any: "can a child fly" and "can children fly"."""
    if single.stem in PERIODS or (single.stem in SENSES and single.before in ("a", "an")):
        return False
    kind = single.side.kind
    if kind == "howto":
        return single.side.act not in SEVERAL
    if kind.startswith("yn"):
        return single.side.tokens[1:2] in (["a"], ["an"]) and single.index <= NOUNS_MAX
    return kind in GENERAL


GENERAL: Final = frozenset({"what", "meaning", "takes", "takes2", "howlong"})


def _bare(surface: str) -> str:
    return surface.removesuffix("'s").removesuffix("'")


def _is_plural(word: str, of: str) -> bool:
    if word == of or not word.isalpha() or words.base(word)[0] != words.base(of)[0]:
        return False
    if of.endswith("s"):
        return word == of + "es"
    return (word.endswith("s") and not of.endswith("s") and not of.endswith(("ing", "ed"))) or word in PLURALS


PLURALS: Final = frozenset(word for word, _ in tables.pairs("irregular", "plurals"))
"""Irregular ones that are said of several only."""


def _article_moved(pairs: list[tuple[Term, Term]], stored: Question) -> bool:
    """ "stop a running process" and "stop running a process"."""
    gone = {left.article for left, right in pairs if left.article and not right.article}
    come = {right.article for left, right in pairs if right.article and not left.article}
    paired = [right for _, right in pairs]
    return not gone.isdisjoint(come) and paired == [term for term in stored.terms if term in paired]


NAMED: Final = frozenset({Kind.ENTITY, Kind.ACRONYM})


def _article(one: Place, other: Place) -> Difference:
    """ "what is a deductible" and "what is the deductible"; "cook chicken" and "cook a chicken"; "what is
    Polygon" and "what is a polygon"."""
    articles = {one.term.article, other.term.article}
    if one.surface != other.surface or len(articles) == 1:
        return NONE
    kinds = {one.term.kind, other.term.kind}
    named = Kind.WORD in kinds and not NAMED.isdisjoint(kinds)
    if named and ("a" in articles or one.surface in words.ENGLISH):
        return Guard.ENTITY, "a name and a thing"
    if articles == {"a", ""} and "her" in (one.before, other.before):
        return Guard.OWNER, "hers or for her"
    if (articles == {"a", "the"} and one.side.kind != "howto") or (
        articles == {"a", ""} and one.stem in MASS
    ):
        return Guard.SCOPE, "articles differ"
    return NONE


def _ending(one: Place, other: Place) -> Difference:
    """ "is there parking" and "is there a park"; what is done has either form: "after checking out"."""
    acting, plain = (one, other) if one.surface.endswith("ing") else (other, one)
    if acting.surface == plain.surface or not acting.surface.endswith("ing") or plain.surface.endswith("ing"):
        return NONE
    if " " in one.term.key or plain.stem != acting.stem or plain.before in ACTING or not plain.index:
        return NONE
    return Guard.SCOPE, "what is done and a thing"


ACTING: Final = frozenset(
    ["to", "i", "we", "you", "they", "he", "she", "it", "not", "can", "could", "should", "must", "will",
     "would", "may", "might", "and", "or", ","]
)  # fmt: skip
"""Before a verb."""


def _owner(one: Place, other: Place) -> Difference:
    """ "my student's password" and "my student password"."""
    owned = one.surface.endswith(("'s", "s'")), other.surface.endswith(("'s", "s'"))
    bare = other if owned[0] else one
    if owned[0] != owned[1] and bare.stem in PERSONS and not bare.surface.endswith("s"):
        return Guard.OWNER, "whose it is differs"
    return NONE


def _naming(one: Side, other: Side) -> Difference:
    """In "what is quick sort", "what does shipped mean" no word stands for another."""
    for side in (one, other):
        if side.kind not in ("what", "meaning") or len(side.question.terms) > NAME_TERMS_MAX:
            return NONE
        named = side.question.terms
        if any(term.kind in (Kind.LINK, Kind.PRONOUN) or term.article == "the" for term in named):
            return NONE
    for left, right in _pairs(one.question, other.question):
        plain = left.kind is right.kind is Kind.WORD and " " not in left.key
        if plain and words.base(_bare(left.surface)) != words.base(_bare(right.surface)):
            return Guard.QUESTION_TYPE, "a word is asked about"
        if plain and left.surface.endswith("ing") != right.surface.endswith("ing"):
            return Guard.QUESTION_TYPE, "a word is asked about"
    return NONE


NAME_TERMS_MAX: Final = 4
