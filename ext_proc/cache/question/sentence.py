"""A sentence whose words know where they stand in the question, also when they are put in another order."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Final, NamedTuple

NOWHERE: Final = -1
"""The place of a word that the question does not have."""


class Sentence(NamedTuple):
    """Canonical tokens, or a rewording of them, each with its place among those of the whole question."""

    words: list[str]
    places: Sequence[int]

    def part(self, start: int, stop: int | None = None) -> Sentence:
        """The words from `start` to before `stop`."""
        return Sentence(self.words[start:stop], self.places[start:stop])

    def reworded(self, words: list[str]) -> Sentence:
        """The same in other `words`: one that stands behind the same word as before is the one that stood
        there, another one the first of its kind that is left."""
        if words is self.words:
            return self
        left: dict[str, dict[int, None]] = defaultdict(dict)
        for index, own in enumerate(self.words):
            left[own][index] = None
        places: list[int] = []
        index = NOWHERE
        for word in words:
            index += 1
            if index not in left[word]:
                index = next(iter(left[word]), NOWHERE)
            left[word].pop(index, None)
            places.append(NOWHERE if index == NOWHERE else self.places[index])
        return Sentence(words, places)

    def moved(self, word: int, to: int) -> Sentence:
        """The same with the word at one index moved to another one before it."""
        words, places = list(self.words), list(self.places)
        words.insert(to, words.pop(word))
        places.insert(to, places.pop(word))
        return Sentence(words, places)
