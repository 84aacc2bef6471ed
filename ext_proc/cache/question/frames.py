"""Frames: what surrounds a question (greetings, thanks, politeness) and the form it is asked in."""

from __future__ import annotations

from itertools import product
from typing import Any, Final

from ext_proc.cache.question import tables
from ext_proc.cache.question.tokens import COMMA

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


FILLERS: Final = tables.sections("fillers")
LEADING: Final = _trie([(row, "") for row in FILLERS["leading"]])
"""Said before a question; taken away where the question goes on as one."""
INTRODUCTIONS: Final = _trie([(row, "") for row in FILLERS["introductions"]])
"""Said before a question that then may have the order of a statement: "could you tell me when the shop
opens"."""
TRAILING: Final = _trie([(" ".join(reversed(row.split())), "") for row in FILLERS["trailing"]])
"""Said after a question, read from the end."""
ANYWHERE: Final = frozenset(word for row in FILLERS["anywhere"] for word in row.split())
ALONE: Final = _trie([(row, "") for row in FILLERS["alone"]])
"""Whole sentences that say nothing."""
OPENERS: Final = frozenset(row.split()[0] for row in FILLERS["leading"] if len(row.split()) == 1)
CONTINUES: Final = ASKING | frozenset(
    [
        "i",
        "my",
        "we",
        "our",
        "you",
        "your",
        "the",
        "a",
        "an",
        "in",
        "on",
        "at",
        "if",
        "to",
        "for",
        "there",
        "please",
        "is",
        "it",
        "cancel",
    ]
)
FRAMES: Final = _trie([(left, right) for left, right in tables.pairs("frames")])
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
        start = _leading(words)
        stop = len(words) - _trailing(words[start:])
        while stop > start and words[stop - 1] == COMMA:
            stop -= 1
        changed = stop - start < len(words)
        words = words[start:stop]
        if start and len(words) > 3 and words[0] in ("if", "whether"):
            words = _direct(words)
    return words


SUBJECTS: Final = frozenset(["i", "we", "you", "he", "she", "it", "they", "there"])


def _direct(words: list[str]) -> list[str]:
    """ "if I can pay", behind "could you tell me", as "can I pay"; as it stands where it has another form."""
    subject, verb = words[1], words[2]
    if subject not in SUBJECTS or COMMA in words:
        return words
    if verb in AUXILIARIES and not (verb in ("have", "has", "had") and words[3] == "to"):
        return [verb, subject, *words[3:]]
    if subject in ("i", "we", "you") and (verb in ("need", "have") and words[3] == "to"):
        return ["do", subject, *words[2:]]
    return words


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
            if trie is LEADING and (word in CONTINUES or longest(LEADING, words, following)[1]):
                return following
            if trie is INTRODUCTIONS and (word in ASKING or word in ("if", "whether", COMMA)):
                return following
            if trie is INTRODUCTIONS and longest(FRAMES, words, following)[1]:
                return following
    return start


def _trailing(words: list[str]) -> int:
    _, length = longest(TRAILING, words[::-1])
    return length if length < len(words) else 0


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
