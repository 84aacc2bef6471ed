"""Sentences that are asked in a roundabout order, in the order in which they are asked plainly.

Works on canonical tokens, after the canonical text is made: two sentences that only this makes equal are
alike on words, not canonical.
"""

from __future__ import annotations

from typing import Final

from ext_proc.cache.question import frames, tables
from ext_proc.cache.question.tokens import COMMA
from ext_proc.cache.question.words import base

THINGS: Final = tables.words("rewording", "explained")
"""Behind "explain the", these make it "what is the"."""
OWNED: Final = tables.words("rewording", "owned")
"""A thing behind one of these is a certain one, which "explain" may take apart and "what is" may name."""
ATTRIBUTES: Final = tables.words("rewording", "attributes")
"""What a thing has one of, so that "the X of Y" is "the Y X" and "X of Y" alone asks what it is."""
ACTS: Final = dict(row.split() for row in tables.rows("rewording", "acts"))
"""Names of acts and their verbs, alike behind "what is the process for"."""
FIRMS: Final = tables.words("rewording", "firm")
"""Acts of a firm: "how do you process a return" asks how it does, not how I do."""
SEVERAL: Final = tables.words("rewording", "several")
"""Acts that one thing and several are put to in different ways."""
AMOUNTS: Final = tables.words("rewording", "amounts")
"""Of these "how much is" asks how large they are, not what they cost."""
SELF_SERVICE: Final = tables.words("rewording", "self service")
"""Acts that only the one who asks can do: "reset voicemail pin" can only ask how."""
TELLING: Final = tables.words("rewording", "telling")
USUALLY: Final = tables.words("rewording", "usually")
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
    if "when" in sentence[2:-1] or "whilst" in sentence[2:-1]:
        sentence = _meanwhile(sentence)
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
    elif first == "how" and second in ("do", "does", "is", "are"):
        sentence = _differing(sentence)
    elif first == "when" and second in ("is", "are"):
        sentence = _opened(sentence)
    elif first == "how" and second == "far" and sentence[2] in ("is", "are") and "from" in sentence[4:-1]:
        sentence = _distant(sentence)
    elif first == "how" and second in MEASURED and not USUALLY.isdisjoint(sentence[2:7]):
        sentence = [word for word in sentence if word not in USUALLY]
    elif first in ("is", "are"):
        sentence = _required(_safe_first(_allowed(sentence)))
    elif first in ("what", "which"):
        sentence = _needed(sentence)
    elif first == "why" and second in NEGATED and sentence[2] != "not" and "not" in sentence[3:8]:
        sentence = _not_first(sentence)
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
        if sentence[index] in PASSIVE and _of_anybody(sentence[index + 1 :]):
            thing = sentence[1:index]
            if LINKS.isdisjoint(thing) and frames.SUBJECTS.isdisjoint(thing) and CERTAIN.isdisjoint(thing):
                return ["do", "i", "need", *thing, *sentence[index + 1 :]]
        if sentence[index] in LINKS:
            break
    return sentence


def _of_anybody(rest: list[str]) -> bool:
    """Whether what is required is not required of others, as in "for contractors"."""
    return not rest or rest[0] == "to" or (rest[0] == "for" and not rest[-1].endswith("s"))


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
                if not rest or rest[0] not in LINKS - {"for", "when", "if", "in", "with"}:
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


PASSIVE: Final = tables.words("rewording", "needed")


def _searched(sentence: list[str]) -> list[str]:
    """Words typed as into a search box: "appendicitis symptoms" and "reset voicemail pin" as questions."""
    if (
        len(sentence) > 2
        and sentence[1] == COMMA
        and sentence[0] in LANGUAGES
        and sentence[2] in frames.ASKING
    ):
        return [*sentence[2:], "in", sentence[0]]
    if sentence[0] in LANGUAGES and sentence[1:4] == [*frames.HOW_DO_I] and len(sentence) > 4:
        return [*sentence[1:], "in", sentence[0]]
    if sentence[-1] == "how" and OWNED.isdisjoint(set(sentence) - {"a", "an", "the", "my"}):
        return [*frames.HOW_DO_I, *sentence[:-1]]
    if (
        sentence[-3:-1] == ["how", "to"]
        and len(sentence) > 3
        and OWNED.isdisjoint(set(sentence) - {"a", "an"})
    ):
        return [*frames.HOW_DO_I, sentence[-1], *sentence[:-3]]
    if not OWNED.isdisjoint(sentence) or COMMA in sentence or len(sentence) > 8:
        return sentence
    if sentence[0] in LANGUAGES and sentence[1] in CODED and NO_WAY.isdisjoint(sentence):
        return [*frames.HOW_DO_I, *sentence[1:], "in", sentence[0]]
    if sentence[-1] in LANGUAGES and sentence[0] in CODED and sentence[-2] not in LINKS:
        return [*frames.HOW_DO_I, *sentence[:-1], "in", sentence[-1]]
    if sentence[0] in SELF_SERVICE:
        return [*frames.HOW_DO_I, *sentence]
    return sentence


LANGUAGES: Final = tables.words("rewording", "languages")
CODED: Final = tables.words("rewording", "coding")
"""Verbs of the trade: "python reverse string" asks how to reverse a string in Python."""
NO_WAY: Final = tables.words("rewording", "no way")
"""With one of these, words of the trade name a thing or a trouble and ask for no way to do it."""
NEGATED: Final = frozenset(["is", "are", "do", "does", "did", "can", "will", "was"])
"""Behind "why" these may stand apart from their "not"."""
SAYING: Final = tables.words("rewording", "saying")
"""With one of these a "not" further on may deny something else than the verb it stands before."""


def _not_first(sentence: list[str]) -> list[str]:
    """ "why does my printer not work" as "why does not my printer work"."""
    place = sentence.index("not", 3)
    thing, rest = sentence[2:place], sentence[place + 1 :]
    if not rest or "not" in rest or not LINKS.isdisjoint(thing) or not SAYING.isdisjoint(thing):
        return sentence
    verb = rest[0]
    if verb in LINKS or verb in SAYING or verb in ("a", "an", "the"):
        return sentence
    if sentence[1] in ("do", "does", "did", "can", "will") and base(verb) != (verb, False):
        return sentence
    if any(base(word)[1] or word.endswith("ing") for word in thing):
        return sentence
    return [*sentence[:2], "not", *thing, *rest]


def _differing(sentence: list[str]) -> list[str]:
    """ "how do A and B differ" and "how is A different from B" as "what is the difference between"."""
    verb, rest = sentence[1], sentence[2:]
    one: list[str] = []
    other: list[str] = []
    if (
        rest[-1] == ("differ" if verb == "do" else "different")
        and verb in ("do", "are")
        and rest.count("and") == 1
    ):
        place = rest.index("and")
        one, other = rest[:place], rest[place + 1 : -1]
    elif "from" in rest and verb in ("do", "does", "is", "are"):
        place = rest.index("from")
        if rest[place - 1] == ("differ" if verb in ("do", "does") else "different"):
            one, other = rest[: place - 1], rest[place + 1 :]
    if not one or not other or not LINKS.isdisjoint(one) or not LINKS.isdisjoint(other):
        return sentence
    return ["what", "is", "the", "difference", "between", *one, "and", *other]


def _opened(sentence: list[str]) -> list[str]:
    """ "when is the help desk open" as "what are the opening hours of the help desk"."""
    if "open" not in sentence[3:]:
        return sentence
    place = sentence.index("open", 3)
    thing, rest = sentence[2:place], sentence[place + 1 :]
    if (
        not LINKS.isdisjoint(thing)
        or not frames.SUBJECTS.isdisjoint(thing)
        or (rest and rest[0] not in ("on", "in", "for", "to"))
    ):
        return sentence
    return ["what", "is", "the", "opening", "hours", "of", *thing, *rest]


def _allowed(sentence: list[str]) -> list[str]:
    """ "is smoking allowed in the room" as "is it allowed to smoke in the room"."""
    for index in range(2, min(5, len(sentence))):
        if sentence[index] in ("allowed", "permitted"):
            doing, *thing = sentence[1:index]
            act, _ = base(doing)
            if doing.endswith("ing") and act != doing and LINKS.isdisjoint(thing):
                return ["is", "it", "allowed", "to", act, *thing, *sentence[index + 1 :]]
    return sentence


def _meanwhile(sentence: list[str]) -> list[str]:
    """ "when pregnant" and "whilst driving" as "while pregnant" and "while driving"."""
    found = list(sentence)
    for index in range(2, len(found) - 1):
        following = found[index + 1]
        acting = following.endswith("ing") and base(following)[0] != following
        if found[index] in ("when", "whilst") and (acting or following == "pregnant"):
            found[index] = "while"
    return found


def _distant(sentence: list[str]) -> list[str]:
    """ "how far is A from B" as "what is the distance from A to B"."""
    place = sentence.index("from", 4)
    here, there = sentence[3:place], sentence[place + 1 :]
    if here == ["it"] and there.count("to") == 1 and LINKS.isdisjoint(set(there) - {"to"}):
        return ["what", "is", "the", "distance", "from", *there]
    if LINKS.isdisjoint(here) and LINKS.isdisjoint(there) and frames.SUBJECTS.isdisjoint(here):
        return ["what", "is", "the", "distance", "from", *here, "to", *there]
    return sentence
