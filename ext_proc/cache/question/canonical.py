"""The canonical text: the question without what certainly changes nothing.

Two questions of equal canonical text are answered alike without a look at anything else, so only this is
removed:
capitals where they say nothing, marks, contractions, greetings, thanks, politeness, hesitation, spellings
of one word,
numbers in words, and two spoken forms of "how do I". Everything else is compared later, on words.
"""

from __future__ import annotations

import re
from typing import Final

from ext_proc.cache.question import frames, numbers, tables, words
from ext_proc.cache.question.rewording import LANGUAGES
from ext_proc.cache.question.tokens import COMMA, SENTENCE_END

CASED_ACRONYMS: Final = tables.words("case", "acronyms")
"""Lower-case words that are another word in capitals: "us" and "US"."""
CASED_NAMES: Final = tables.words("case", "names")
"""Lower-case words that are a name when capitalised: "polish" and "Polish"."""
CASED_OPENERS: Final = tables.words("case", "openers")
"""Those of them that begin questions as ordinary words: "May I ..."."""
CERTAIN: Final = {row.split()[0]: frozenset(row.split()[1:]) for row in tables.rows("case", "certain")}
"""Words that mean one thing in capitals and without behind certain others: "my PIN"."""
CAMEL_NAMES: Final = tables.words("case", "camel")
"""Products written with capitals inside that people also write without."""
CONTRACTIONS: Final = {left: right.split() for left, right in tables.pairs("contractions")}
SPELLINGS: Final = dict(tables.pairs("spellings"))
"""Misspellings that are no word themselves, and variants of one word, to one spelling."""
APOSTROPHE_IS: Final = frozenset(
    [
        "what",
        "who",
        "where",
        "when",
        "why",
        "how",
        "that",
        "there",
        "here",
        "it",
        "he",
        "she",
        "this",
        "which",
        "let",
        "everything",
        "something",
    ]
)


def tokens_of_split(written: list[str]) -> list[str]:
    """Canonical tokens of tokens as they were written; sentences are kept apart by SENTENCE_END."""
    found: list[str] = []
    for sentence in sentences(written):
        kept = frames.without_fillers(_plain(sentence))
        if kept and not (found and SENTENCE_END not in found and frames.asks_again(found, kept)):
            if found:
                found.append(SENTENCE_END)
            found.extend(frames.asked_plainly(kept))
    return found


QUOTED: Final = re.compile(r"(?<![\w\"'])([\"'])([^\"']+)\1(?!\w)")
"""Text between two quotes of one kind, apostrophes left out."""


def quotes_changed(text: str) -> bool:
    """Whether a word in quotes is one that would not be compared as it stands: 'is "grey" British'."""
    quoted = [word for match in QUOTED.finditer(text) for word in match[2].lower().split()]
    return any(word in SPELLINGS or word in SAID or words.base(word)[0] != word for word in quoted)


SAID: Final = tables.words("fillers", "said") | frames.ANYWHERE
"""Taken away around a question; in quotes they are what is asked about."""


def sentences(found: list[str]) -> list[list[str]]:
    """Tokens of each sentence, empty ones left out."""
    parted: list[list[str]] = [[]]
    for token in found:
        if token == SENTENCE_END:
            parted.append([])
        else:
            parted[-1].append(token)
    return [sentence for sentence in parted if sentence]


def _plain(sentence: list[str]) -> list[str]:
    """Tokens in their plain case, contractions opened, misspellings and numbers in words mended."""
    plain: list[str] = []
    opens = True
    lower = frozenset(token.lower() for token in sentence)
    for place, token in enumerate(sentence):
        word = token if _kept_case(token, opens, lower) else cased(token, opens)
        if token == "A" and place and not sentence[place - 1][0].isupper():
            word = token  # "vitamin A", "an A record"; in a title the words before have capitals too
        if plain and word.isupper() and plain[-1] in CERTAIN.get(word.lower(), ()):
            word = word.lower()
        opens = opens and (token == COMMA or word in frames.OPENERS)
        if word in CONTRACTIONS:
            plain.extend(CONTRACTIONS[word])
        elif word.endswith("'s") and word[:-2] in APOSTROPHE_IS:
            plain.extend((word[:-2], "us" if word == "let's" else "is"))
        elif word.endswith("n't") and len(word) > 4:
            plain.extend((word[:-3], "not"))
        elif "'" in word and word.rpartition("'")[2] in ENDINGS:
            stem, _, ending = word.rpartition("'")
            plain.extend((stem, ENDINGS[ending]))
        else:
            plain.append(SPELLINGS.get(word, word))
    return numbers.spoken(_prefixed(plain))


ENDINGS: Final = {"re": "are", "ve": "have", "ll": "will", "d": "would", "m": "am"}


FILLING: Final = tables.words("case", "filling")
"""Said in between in lower case; in capitals they are names."""
BITS: Final = frozenset(["Mb", "Gb", "Kb", "Tb"])
"""A byte has another letter."""
TYPES: Final = tables.words("case", "types")
"""In a programming language these are one thing in lower case and another one with a capital."""
CASED_LETTERS: Final = tables.words("case", "letters")
"""Beside these a single letter, or one that is repeated ("MM"), has its case for a reason."""
REPEATED: Final = re.compile(r"([A-Z])\1{0,3}\Z")


def _kept_case(token: str, opens: bool, sentence: frozenset[str]) -> bool:
    """Whether the capitals of `token` say something beside the other words of `sentence`, in lower case."""
    if token in BITS or (token.isupper() and token.lower() in FILLING):
        return True
    if opens or not token[0].isupper():
        return False
    if len(token) == 2 and token.istitle() and token.lower() not in words.ENGLISH:
        return token.isalpha()
    if token.istitle() and token.lower() in TYPES:
        return not LANGUAGES.isdisjoint(sentence)
    return token != "I" and REPEATED.match(token) is not None and not CASED_LETTERS.isdisjoint(sentence)


def cased(token: str, opens: bool) -> str:
    """`token` in lower case, except where its capitals tell words apart. `opens`: it begins its sentence."""
    if token.isalpha():
        if token.islower():
            return token
    elif token.islower() or not token[0].isalpha():
        return token
    else:
        return token.lower() if _is_word(token) else token
    lower = token.lower()
    if lower in CASED_NAMES:
        if opens and lower in CASED_OPENERS and token.istitle():
            return lower
        return token
    if lower in CASED_ACRONYMS:
        return lower if token.istitle() else token
    if token.istitle() or token.isupper() or lower in CAMEL_NAMES:
        return lower
    return token


def _is_word(token: str) -> bool:
    """Whether a token with marks or digits is a word all the same ("Child's", "B12"), not code."""
    return token.replace("'", "").replace("-", "").isalnum()


def _prefixed(words: list[str]) -> list[str]:
    """ "non refundable" and "self employed" as one word each."""
    if "non" not in words and "self" not in words:
        return words
    joined: list[str] = []
    for word in words:
        if joined and joined[-1] in ("non", "self") and word.isalpha():
            joined[-1] += word
        else:
            joined.append(word)
    return joined
