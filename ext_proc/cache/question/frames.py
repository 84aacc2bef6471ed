"""Frames: what surrounds a question (greetings, thanks, politeness) and the form it is asked in."""

from __future__ import annotations

from itertools import product
from typing import Any, Final

from ext_proc.cache.question import tables
from ext_proc.cache.question.tokens import COMMA
from ext_proc.cache.question.words import base

Trie = dict[str, Any]
"""Nested by word; the value under "" is what the phrase up to here stands for."""
WH: Final = frozenset(["what", "which", "who", "whom", "whose", "when", "where", "why", "how"])
AUXILIARIES: Final = frozenset(
    [
        "is",
        "are",
        "am",
        "was",
        "were",
        "do",
        "does",
        "did",
        "can",
        "could",
        "will",
        "would",
        "shall",
        "should",
        "may",
        "might",
        "must",
        "has",
        "have",
        "had",
    ]
)
ASKING: Final = WH | AUXILIARIES


def _patterns(row: str) -> list[list[str]]:
    """Phrases of a row: words, each with alternatives as "a/b"; an empty alternative may be left out
    ("a/")."""
    choices = [word.split("/") for word in row.split()]
    return [[word for word in choice if word] for choice in product(*choices)]


def _trie(entries: list[tuple[str, Any]]) -> Trie:
    root: Trie = {}
    for row, value in entries:
        for phrase in _patterns(row):
            node = root
            for word in phrase:
                node = node.setdefault(word, {})
            node.setdefault("", value)
    return root


def _phrases(heading: str) -> Trie:
    return _trie([(row, "") for row in tables.rows("fillers", heading)])


def longest(trie: Trie, words: list[str], start: int = 0) -> tuple[Any, int]:
    """Value and length of the longest phrase of `trie` that `words` has at `start`; (None, 0) where none
    is."""
    node = trie
    found: tuple[Any, int] = (None, 0)
    for index in range(start, len(words)):
        following = node.get(words[index])
        if following is None:
            break
        node = following
        if "" in node:
            found = (node[""], index - start + 1)
    return found


LEADING: Final = _phrases("leading")
"""Said before a question; taken away where the question goes on as one."""
INTRODUCTIONS: Final = _phrases("introductions")
"""Said before a question that then may have the order of a statement: "could you tell me when the shop
opens"."""
TRAILING: Final = _trie([(" ".join(reversed(row.split())), "") for row in tables.rows("fillers", "trailing")])
"""Said after a question, read from the end."""
ANYWHERE: Final = tables.words("fillers", "anywhere")
ALONE: Final = _phrases("alone")
"""Whole sentences that say nothing."""
OPENERS: Final = frozenset(row for row in tables.rows("fillers", "leading") if " " not in row)
CONTINUES: Final = ASKING | tables.words("fillers", "continues")
FRAMES: Final = _trie(tables.pairs("frames"))
"""Forms of asking at the beginning of a sentence, each to "type subject"."""
HOW_DO_I: Final = ("how", "do", "i")
PLAIN_HOW: Final = _trie([(row, "") for row in ("how can/could/would i", "how to", "how do i go about")])


def without_fillers(words: list[str]) -> list[str]:
    """The sentence without greetings, thanks, politeness and hesitation; empty where it was nothing else."""
    words = [word for word in words if word not in ANYWHERE]
    changed = True
    while changed:
        if longest(ALONE, words)[1] == len(words):
            return []
        if COMMA in words:
            last = len(words) - 1 - words[::-1].index(COMMA)
            if asks_again(words[:last], words[last + 1 :]):
                words = words[:last]
        start = _leading(words)
        stop = len(words) - _trailing(words[start:])
        while stop > start and words[stop - 1] == COMMA:
            stop -= 1
        changed = stop - start < len(words)
        words = words[start:stop]
        if start and len(words) > 3:
            words = _direct(words)
    return words


SUBJECTS: Final = frozenset(["i", "we", "you", "he", "she", "it", "they", "there"])
ACTORS: Final = frozenset(["i", "we", "you", "they"])
INVERTED: Final = AUXILIARIES - {"do", "does", "did", "have", "has", "had"}
NOUNS_MAX: Final = 4
"""Tokens of a subject behind which its verb is looked for."""


def _direct(words: list[str]) -> list[str]:
    """ "if I can pay" and "where I can pay", behind "could you tell me", as "can I pay" and "where
    can I pay"; as it stands where it has another form."""
    if COMMA in words:
        return words
    first = words[0]
    if first in ("what", "which", "how"):
        for index in range(2, min(4, len(words) - 2)):
            if words[index - 1] in STOPPING:
                break
            if words[index] in SUBJECTS:
                turned = _inverted(words[index:])
                certain = turned and (turned[0] != "do" or words[index] != "you")  # "what helps you sleep"
                return [*words[:index], *turned] if certain else words
    if first not in ("if", "whether"):
        if first not in ("where", "when", "why", "what", "how") or words[1] not in SUBJECTS:
            return words
        turned = _inverted(words[1:])
        return [first, *turned] if turned else words
    return _inverted(words[1:]) or words


def _inverted(words: list[str]) -> list[str]:
    """The statement `words` as the question it answers by yes or no; empty where that is not certain."""
    if len(words) < 2:
        return []
    subject, verb = words[0], words[1]
    if subject not in SUBJECTS:
        for index in range(1, min(NOUNS_MAX + 1, len(words) - 1)):
            if words[index] in INVERTED:
                return [words[index], *words[:index], *words[index + 1 :]]
            if words[index] in AUXILIARIES or words[index] in UNSURE:
                break
        return []
    if verb in INVERTED or (verb in ("have", "has", "had") and "to" not in words[2:3] and subject == "there"):
        return [verb, subject, *words[2:]]
    if subject in ACTORS and verb not in AUXILIARIES - {"have"} and verb not in UNSURE:
        if verb != "need" and (base(verb)[1] or verb.endswith(("ly", "ed"))):
            return []
        return ["do", *words]
    return []


STOPPING: Final = ASKING | tables.words("rewording", "stopping")
"""None of these stands between "what" and the one who acts: "what size I should order"."""
UNSURE: Final = tables.words("rewording", "unsure")
"""Behind these, or with these as the verb, a statement is not turned."""


def _leading(words: list[str]) -> int:
    start = 0
    while start < len(words) and words[start] == COMMA:
        start += 1
    for trie in (LEADING, INTRODUCTIONS):
        _, length = longest(trie, words, start)
        following = start + length
        if length and following < len(words):
            word = words[following]
            if word == COMMA and trie is LEADING:
                return following + 1
            goes_on = ASKING if length == 1 and words[start] in PAUSED else CONTINUES
            if trie is LEADING and (word in goes_on or longest(LEADING, words, following)[1]):
                return following
            if trie is INTRODUCTIONS and (word in ASKING or word in ("if", "whether", COMMA)):
                return following
            if trie is INTRODUCTIONS and longest(FRAMES, words, following)[1]:
                return following
    return start


PAUSED: Final = tables.words("fillers", "paused")
"""Alone these say nothing before a pause or a form of asking only: "right to buy", "help to buy"."""
INTENTIONS: Final = _phrases("intentions")
"""Said of what one wants to do: with it "how do I do that" asks nothing more."""
REPEATED: Final = _phrases("repeated")


def asks_again(before: list[str], words: list[str]) -> bool:
    """Whether `words` only ask how to do what the sentence `before` them wants to do."""
    return bool(words) and longest(REPEATED, words)[1] == len(words) and longest(INTENTIONS, before)[1] > 0


def _trailing(words: list[str]) -> int:
    _, length = longest(TRAILING, words[::-1])
    if length >= len(words) or (length and words[-length - 1] in NAMING):
        return 0
    return length


NAMING: Final = tables.words("fillers", "named")
"""Behind these thanks are the thing itself: "talk to my folks", "the Italian for please"."""


def asked_plainly(words: list[str]) -> list[str]:
    """The sentence with "how can I", "how to" as "how do I"."""
    _, length = longest(PLAIN_HOW, words)
    return [*HOW_DO_I, *words[length:]] if length else words


def frame(words: list[str], start: int) -> tuple[str, str, int]:
    """Type of question, its subject ("" where it names none) and the words taken, at `start`; ("", "", 0)
    for none."""
    value, length = longest(FRAMES, words, start)
    if not length:
        return "", "", 0
    kind, _, subject = value.partition(" ")
    return kind, subject, length
