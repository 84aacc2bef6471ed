"""Wordings to which a similar question's answer is no answer: about the present, and orders. Pure.

English, as the embedder; a question in another language is compared by nothing. Tables with their sources
stand in ``tables``.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

_TABLES: Final = Path(__file__).with_name("tables")
_WORD: Final = re.compile(r"[^\W_]+(?:['-][^\W_]+)*")
_SENTENCE: Final = re.compile(r"[^.!?;\n]+[.!?;\n]?")
_CLAUSE: Final = re.compile(r"[:,()\"]+|\b(?:and|then|but)\b")


class Phrases:
    """A set of phrases of whole words."""

    def __init__(self, phrases: Iterable[str]) -> None:
        """``phrases``: small letters, words apart by one space."""
        self._by_first: dict[str, list[tuple[str, ...]]] = {}
        for phrase in phrases:
            words = tuple(_WORD.findall(phrase))
            self._by_first.setdefault(words[0], []).append(words)
        for alike in self._by_first.values():
            alike.sort(key=len, reverse=True)

    def length_at(self, words: Sequence[str], start: int) -> int:
        """How many words the longest phrase that begins at ``start`` has; 0 for none."""
        for phrase in self._by_first.get(words[start], ()):
            if tuple(words[start : start + len(phrase)]) == phrase:
                return len(phrase)
        return 0


def _table(name: str) -> Mapping[str, Any]:
    return tomllib.loads((_TABLES / name).read_text(encoding="utf-8"))


_FRESHNESS: Final = _table("freshness.toml")
_ACTIONS: Final = _table("actions.toml")
_PRESENT: Final = Phrases(_FRESHNESS["phrases"])
_NAMES: Final = Phrases(_FRESHNESS["names"])
_DEEDS: Final = Phrases(_ACTIONS["deeds"])
_MADE: Final = Phrases(_ACTIONS["made"])
_WHICH: Final = frozenset(_ACTIONS["which"])
_OPENERS: Final = Phrases(_ACTIONS["openers"])
_WISHES: Final = Phrases(_ACTIONS["wishes"])
_ASKING: Final = Phrases(_ACTIONS["asking"])
_NOUNS_AFTER: Final = frozenset(_ACTIONS["nouns_after"])


def _words(text: str) -> list[str]:
    return _WORD.findall(text)


def _plain(text: str) -> str:
    return text.casefold().replace("\u2019", "'")


def asks_for_the_present(text: str) -> bool:
    """Whether the answer may be another one at another time (today, latest, price of)."""
    words = _words(_plain(text))
    at = 0
    while at < len(words):
        name = _NAMES.length_at(words, at)
        if not name and _PRESENT.length_at(words, at):
            return True
        at += name or 1
    return False


def asks_for_action(text: str, *, able: bool = False) -> bool:
    """Whether ``text`` orders something to be done or made (cancel my order, write a poem). ``able``: the
    model has tools, so that the barest order may be carried out."""
    plain = _plain(text)
    words = _words(plain)
    asks = "?" in plain or any(_ASKING.length_at(words, at) for at in range(len(words)))
    return any(_is_order(_words(clause), asks=asks, able=able) for clause in _clauses(plain))


def _clauses(plain: str) -> Iterator[str]:
    """Whose head may be an order. A question is one: "can I, as a guest, order" is none."""
    for sentence in _SENTENCE.findall(plain):
        if sentence.endswith("?"):
            yield sentence
        else:
            yield from _CLAUSE.split(sentence)


def _is_order(words: list[str], *, asks: bool, able: bool) -> bool:
    at = 0
    while at < len(words):
        if _leads(words, at, bare=at == 0 and not able):
            return True
        opener = _OPENERS.length_at(words, at) or (0 if asks else _WISHES.length_at(words, at))
        if not opener:
            return False
        at += opener
    return False


def _leads(words: list[str], at: int, *, bare: bool) -> bool:
    """Whether an order stands at ``at``: not the noun of the same letters (order is, book vs film), and where
    ``bare``, one that says whose or which."""
    if _MADE.length_at(words, at) or (at > 0 and words[at - 1] == "mind" and words[at].endswith("ing")):
        return True
    deed = _DEEDS.length_at(words, at)
    rest = words[at + deed :]
    if not deed or (rest and rest[0] in _NOUNS_AFTER):
        return False
    return not bare or any(word in _WHICH or any(map(str.isdigit, word)) for word in rest)
