"""Sentences that are asked in a roundabout order, in the order in which they are asked plainly.

Works on canonical tokens, after the canonical text is made: two sentences that only this makes equal are
alike on words, not canonical.
"""

from __future__ import annotations

from typing import Final

from ext_proc.cache.question import frames, tables
from ext_proc.cache.question.tokens import COMMA

NAMED: Final = tables.sections("rewording")


def _named(section: str) -> frozenset[str]:
    return frozenset(word for row in NAMED[section] for word in row.split())


THINGS: Final = _named("explained")
"""Behind "explain the", these make it "what is the"."""
OWNED: Final = _named("owned")
"""A thing behind one of these is a certain one, which "explain" may take apart and "what is" may name."""
ATTRIBUTES: Final = _named("attributes")
"""What a thing has one of, so that "the X of Y" is "the Y X" and "X of Y" alone asks what it is."""
ACTS: Final = dict(row.split() for row in NAMED["acts"])
"""Names of acts and their verbs, alike behind "what is the process for"."""
SELF_SERVICE: Final = _named("self service")
"""Acts that only the one who asks can do: "reset voicemail pin" can only ask how."""
TELLING: Final = frozenset({"explain", "describe", "define", "list", "tell", "give"})
USUALLY: Final = frozenset({"usually", "normally", "typically", "generally"})
MEASURED: Final = frozenset({"long", "much"})
NOUNS_MAX: Final = 4
"""Longer names of a thing are left where they stand."""
STARTS: Final = frozenset({"in", "on", "at", "for", "from", "with", "about", "under"})
LINKS: Final = frozenset(
    ["in", "on", "at", "for", "from", "to", "with", "by", "about", "of", "and", "or", "if", "when", "that",
     "which", "who", "how", "what", "where", "why", "not", COMMA]
)  # fmt: skip


def plainly(sentence: list[str]) -> list[str]:
    """`sentence` in its plain order; itself where it has one."""
    first = sentence[0]
    second = sentence[1] if len(sentence) > 2 else ""
    if not second:
        return sentence
    if "order" in sentence:
        sentence = _to(sentence)
    if first == "to" and COMMA in sentence:
        turned = _purpose_last(sentence)
        return sentence if turned is sentence else plainly(turned)
    if first in STARTS and second in ("which", "what", "whom") and not LINKS & {*sentence[2:]}:
        sentence = [*sentence[1:], first]
    elif first in TELLING:
        sentence = _explained(sentence)
    elif first in ("can", "could", "would", "will") and second == "you" and sentence[2] in TELLING:
        told = _explained(sentence[2:])
        sentence = told if told[0] == "what" else sentence
    elif first == "how" and second in MEASURED and not USUALLY.isdisjoint(sentence[2:7]):
        sentence = [word for word in sentence if word not in USUALLY]
    elif first in ("is", "are"):
        sentence = _required(_safe_first(sentence))
    elif first in ("what", "which"):
        sentence = _needed(sentence)
    elif (
        first == "why" and second == "will" and sentence[2] == "not" and sentence[3:4] not in (["you"], ["i"])
    ):
        sentence = ["why", "does", *sentence[2:]]
    elif first not in frames.ASKING and not longest_frame(sentence):
        sentence = _searched(sentence)
    return sentence


def longest_frame(sentence: list[str]) -> int:
    """How many tokens at the beginning are a form of asking."""
    return frames.frame(sentence, 0)[2]


def _purpose_last(sentence: list[str]) -> list[str]:
    """ "to open an account, what do I need" as "what do I need to open an account"."""
    comma = sentence.index(COMMA)
    rest = sentence[comma + 1 :]
    if rest and rest[0] in frames.ASKING and COMMA not in rest and "if" not in rest:
        return [*rest, *sentence[:comma]]
    return sentence


def _to(sentence: list[str]) -> list[str]:
    """ "in order to" as "to"."""
    for index in range(1, len(sentence) - 2):
        if sentence[index : index + 3] == ["in", "order", "to"]:
            return [*sentence[:index], *sentence[index + 2 :]]
    return sentence


def _required(sentence: list[str]) -> list[str]:
    """ "is a visa required to enter" as "do I need a visa to enter"."""
    for index in range(2, min(2 + NOUNS_MAX, len(sentence))):
        if sentence[index] in PASSIVE and sentence[index + 1 : index + 2] in ([], ["to"], ["for"]):
            thing = sentence[1:index]
            if LINKS.isdisjoint(thing) and frames.SUBJECTS.isdisjoint(thing) and CERTAIN.isdisjoint(thing):
                return ["do", "i", "need", *thing, *sentence[index + 1 :]]
        if sentence[index] in LINKS:
            break
    return sentence


CERTAIN: Final = frozenset(
    ["the", "this", "that", "these", "those", "his", "her", "their", "its", "your", "our", "my", "any", "all"]
)
"""Behind these a thing is a certain one, whose need is not that of the one who asks."""


def _explained(sentence: list[str]) -> list[str]:
    """ "explain compound interest" and "list the side effects of X" as "what is"."""
    rest = sentence[1:]
    if not rest or sentence[0] in ("tell", "give"):
        asked = rest[:2] == ["me", "the"] and any(word in ATTRIBUTES for word in rest[2:4])
        return ["what", "is", *rest[1:]] if asked else sentence
    if rest[0] == "the":
        return ["what", "is", *rest] if not THINGS.isdisjoint(rest[1:3]) else sentence
    if sentence[0] == "list" or not OWNED.isdisjoint(rest) or rest[0] in frames.ASKING or COMMA in rest:
        return sentence
    return ["what", "is", *rest] if rest[0] not in LINKS and len(rest) <= NOUNS_MAX else sentence


def _safe_first(sentence: list[str]) -> list[str]:
    """ "is melatonin safe to take every night" as "is it safe to take melatonin every night"."""
    for index in range(2, min(2 + NOUNS_MAX, len(sentence) - 2)):
        if sentence[index : index + 2] == ["safe", "to"]:
            thing = sentence[1:index]
            if LINKS.isdisjoint(thing) and thing[0] not in frames.SUBJECTS and thing[0] != "there":
                verb, *rest = sentence[index + 2 :]
                if not rest or rest[0] not in LINKS - {"for", "when", "if"}:
                    return ["is", "it", "safe", "to", verb, *thing, *rest]
    return sentence


def _needed(sentence: list[str]) -> list[str]:
    """ "which documents are needed to travel" as "which documents do I need to travel"."""
    for index in range(1, min(2 + NOUNS_MAX, len(sentence) - 1)):
        passive = sentence[index] in ("is", "are") and sentence[index + 1] in PASSIVE
        if passive and sentence[index + 2 : index + 3] in ([], ["to"], ["for"]):
            return [*sentence[:index], "do", "i", "need", *sentence[index + 2 :]]
        if sentence[index] in LINKS:
            break
    return sentence


PASSIVE: Final = frozenset({"needed", "required", "necessary"})


def _searched(sentence: list[str]) -> list[str]:
    """Words typed as into a search box: "appendicitis symptoms" and "reset voicemail pin" as questions."""
    if not OWNED.isdisjoint(sentence) or COMMA in sentence or len(sentence) > 8:
        return sentence
    if sentence[0] in SELF_SERVICE:
        return [*frames.HOW_DO_I, *sentence]
    return sentence
