"""Whether an engine's fresh answer says what the served one said. Pure, no model; milliseconds at most.

At a temperature above 0 two right answers differ in their words, and often in examples, length and order. So
only what a right answer cannot vary is held against the served one: another tool call, yes for no, other
figures, a negation or an opposite in the same opening sentence, other words in a short answer, hardly a word
in common in a long one. Only what can hardly be said by chance counts for it: equal, or a large common part
without any of these. Everything between is UNSURE, and counts as nothing unless a judge is asked.

What this cannot see: a long answer that is wrong in one later sentence, a wrong name in the middle of a long
answer (one in the opening makes it UNSURE), two ways to say the opposite that share no words. Those are for
a judge.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

import orjson

from ext_proc.cache.question import Guard, compare, read_question
from ext_proc.recall.answer_words import FUNCTION_WORDS, NEGATIONS, NO, YES
from gateway.openai.answers import choices_of, read_json

READ_CHARS_MAX: Final = 4000
"""Of each answer: what comes later seldom decides what was said, and the work stays in milliseconds."""
CALLS_MAX: Final = 64
"""Tool calls of one answer that are compared; with more it is UNSURE."""
SHORT_WORDS: Final = 12
"""Content words of an answer that is nothing but the answer: other words are another answer."""
OVERLAP_SAME: Final = 0.6
"""Share of content words in common (Dice) above which two answers say the same. Two samples of one model to
one prompt have 0.4 to 0.8."""
OVERLAP_NONE: Final = 0.1
"""Below which they speak of different things: the words of the question alone make more."""
OPENING_ALIKE: Final = 0.5
"""Share of words in common that makes two opening sentences the same statement, so that another figure or a
negation in it is a contradiction."""
FREE_TEXT_WORDS: Final = 4
"""A tool's argument of so many words is prose, which may vary."""

_TOKEN: Final = re.compile(
    r"\d+(?:[.,:/-]\d+)*"  # a figure, a time, a date
    r"|[\u3040-\u30ff\u3400-\u9fff\u0e00-\u0e7f]"  # scripts without spaces: letter by letter
    r"|[^\W\d_]+(?:['’][^\W\d_]+)?"
)
_SENTENCE_END: Final = re.compile(r"[.!?。!?](?=\s|$)|\n")
_THOUSANDS: Final = re.compile(r"\d{1,3}(?:,\d{3})+")


_ADDRESS: Final = re.compile(
    r"\b(?:you|your|yours|we|our|us|i|my|me|can|could|may|might|will|would|should)\b", re.IGNORECASE
)
"""Whom an answer addresses and how politely: the guards would report this before what follows."""
_OPENING_CHARS_MAX: Final = 300
"""Of a sentence: the guards read it in well under a millisecond."""
_NEVER_BOTH: Final = frozenset({Guard.ANTONYM, Guard.PREFIX})
"""One sentence has a word, the other its opposite. Of a name, a code or a figure one may merely say more."""
_OF_STATEMENTS: Final = _NEVER_BOTH | {
    Guard.CODE,
    Guard.NUMBER,
    Guard.UNIT,
    Guard.ID,
    Guard.DATE,
    Guard.VERSION,
    Guard.NEGATION,
    Guard.ENTITY,
    Guard.ACRONYM,
    Guard.QUANTIFIER,
}


class Verdict(StrEnum):
    """Whether two answers say the same."""

    AGREE = "agree"
    DISAGREE = "disagree"
    UNSURE = "unsure"


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """``reason``: equal, tool_calls, json, polarity, number, negation, antonym,
    prefix, words, overlap, topic, or, for UNSURE,
    truncated, tool_arguments, short, mixed, too_many."""

    verdict: Verdict
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One completion. ``calls``: names and arguments of tool calls, as the engine wrote them. ``whole``: it
    ended by itself."""

    text: str
    calls: tuple[tuple[str, str], ...] = ()
    whole: bool = True


def read_answer(body: bytes) -> Answer | None:
    """The only choice of a chat or text completion; None for anything else."""
    document = read_json(body)
    choices = choices_of(document) if document is not None else []
    if len(choices) != 1:
        return None
    choice = choices[0]
    message = choice.get("message")
    whole = choice.get("finish_reason") in ("stop", "tool_calls", "function_call")
    if not isinstance(message, dict):
        text = choice.get("text")
        return Answer(text=text, whole=whole) if isinstance(text, str) else None
    content, calls = message.get("content"), message.get("tool_calls")
    if message.get("refusal"):
        whole = False  # nothing was answered, which says nothing of what another answer is worth
    read = tuple(_call(call) for call in calls) if isinstance(calls, list) else ()
    return Answer(text=content if isinstance(content, str) else "", calls=read, whole=whole)


def _call(call: Any) -> tuple[str, str]:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict):
        return "", ""
    return str(function.get("name", "")), str(function.get("arguments", ""))


def agreement(served: Answer, fresh: Answer) -> Agreement:
    """Whether ``fresh`` says what ``served`` said; the same in either order."""
    if not (served.whole and fresh.whole):
        return Agreement(verdict=Verdict.UNSURE, reason="truncated")
    if served.calls or fresh.calls:
        return _calls_agree(served.calls, fresh.calls)
    written, again = _normal(served.text), _normal(fresh.text)
    first, second = written.casefold(), again.casefold()
    if first == second:
        return Agreement(verdict=Verdict.AGREE, reason="equal")
    found = _structured(first, second) or _spoken(first, second)
    if found is not None:
        return found
    guard = _guarded(_opening(written), _opening(again))
    if guard in _NEVER_BOTH:
        return Agreement(verdict=Verdict.DISAGREE, reason=guard.value)
    return _overlapping(first, second, doubted=guard is not None)


def _calls_agree(served: tuple[tuple[str, str], ...], fresh: tuple[tuple[str, str], ...]) -> Agreement:
    if max(len(served), len(fresh)) > CALLS_MAX:
        return Agreement(verdict=Verdict.UNSURE, reason="too_many")
    if Counter(name for name, _ in served) != Counter(name for name, _ in fresh):
        return Agreement(verdict=Verdict.DISAGREE, reason="tool_calls")
    first = sorted((name, _parsed(arguments)) for name, arguments in served)
    second = sorted((name, _parsed(arguments)) for name, arguments in fresh)
    if first == second:
        return Agreement(verdict=Verdict.AGREE, reason="tool_calls")
    bare = [
        [(name, _parsed(arguments, prose=False)) for name, arguments in calls] for calls in (served, fresh)
    ]
    if sorted(bare[0]) == sorted(bare[1]):
        return Agreement(verdict=Verdict.UNSURE, reason="tool_arguments")
    return Agreement(verdict=Verdict.DISAGREE, reason="tool_calls")


def _parsed(arguments: str, *, prose: bool = True) -> str:
    """Canonical JSON, or the text itself where it is none; ``prose``: with the words of long texts."""
    try:
        value = orjson.loads(arguments)
        return orjson.dumps(value if prose else _without_prose(value), option=orjson.OPT_SORT_KEYS).decode()
    except (ValueError, TypeError, RecursionError):  # no JSON, or nested deeper than can be written
        return arguments.strip()


def _without_prose(value: Any) -> Any:
    if isinstance(value, str):
        return "" if len(value.split()) >= FREE_TEXT_WORDS else value
    if isinstance(value, list):
        return [_without_prose(item) for item in value]
    if isinstance(value, dict):
        return {key: _without_prose(item) for key, item in value.items()}
    return value


def _normal(text: str) -> str:
    lines = unicodedata.normalize("NFKC", text[:READ_CHARS_MAX]).splitlines()
    return "\n".join(" ".join(line.split()) for line in lines).strip()


def _structured(first: str, second: str) -> Agreement | None:
    """Both are JSON objects or arrays: equal values. Others are read as text."""
    if not (first[:1] in ("{", "[") and second[:1] in ("{", "[")):
        return None
    if _parsed(first) == _parsed(second):
        return Agreement(verdict=Verdict.AGREE, reason="json")
    return None


@dataclass(frozen=True, slots=True)
class _Said:
    """``words``: content words without figures. ``opening``: of the first sentence."""

    words: Counter[str]
    figures: frozenset[str]
    negated: bool
    polarity: bool | None = None


def _said(text: str) -> _Said:
    tokens = [token.replace("’", "'") for token in _TOKEN.findall(text)]
    figures = frozenset(_figure(token) for token in tokens if token[0].isdigit())
    words = [token for token in tokens if not token[0].isdigit()]
    negations = sum(token in NEGATIONS or token.endswith("n't") for token in words)
    head = words[0] if words else ""
    polarity = True if head in YES else False if head in NO else None
    content = Counter(
        word for word in words if word not in FUNCTION_WORDS and word not in YES and word not in NEGATIONS
    )
    return _Said(content, figures, negations % 2 == 1, polarity)


def _figure(token: str) -> str:
    plain = token.replace(",", "") if _THOUSANDS.fullmatch(token) else token
    try:
        return repr(float(plain))
    except ValueError:
        return plain


def _spoken(first: str, second: str) -> Agreement | None:
    """What the opening and a short answer say; None where that does not settle it."""
    whole, openings = (_said(first), _said(second)), (_said(_opening(first)), _said(_opening(second)))
    polarities = {opening.polarity for opening in openings}
    if polarities == {True, False}:
        return Agreement(verdict=Verdict.DISAGREE, reason="polarity")
    if all(said.words.total() + len(said.figures) <= SHORT_WORDS for said in whole):
        return _short(*whole)
    if _dice(openings[0].words, openings[1].words) >= OPENING_ALIKE:
        figures = [opening.figures for opening in openings]
        if all(figures) and not figures[0] & figures[1]:
            return Agreement(verdict=Verdict.DISAGREE, reason="number")
        if openings[0].negated != openings[1].negated:
            return Agreement(verdict=Verdict.DISAGREE, reason="negation")
    return None


def _opening(text: str) -> str:
    end = _SENTENCE_END.search(text)
    return (text[: end.start()] if end is not None else text)[:_OPENING_CHARS_MAX]


def _guarded(first: str, second: str) -> Guard | None:
    """What the questions' guards say of two opening sentences that make the same statement: a difference in
    what a statement is about. Their other guards are about how something is asked."""
    if _dice(_said(first.casefold()).words, _said(second.casefold()).words) < OPENING_ALIKE:
        return None
    guard = compare(*(read_question(_ADDRESS.sub("", opening)) for opening in (first, second))).guard
    return guard if guard in _OF_STATEMENTS else None


def _short(first: _Said, second: _Said) -> Agreement:
    if (
        first.figures
        and second.figures
        and not (first.figures <= second.figures or second.figures <= first.figures)
    ):
        return Agreement(verdict=Verdict.DISAGREE, reason="number")
    common, alike = first.words & second.words, _dice(first.words, second.words)
    if (
        first.negated != second.negated
        and first.polarity is second.polarity is None
        and alike >= OPENING_ALIKE
    ):
        return Agreement(verdict=Verdict.DISAGREE, reason="negation")
    same_figures = first.figures == second.figures
    if same_figures and common.total() == min(first.words.total(), second.words.total()):
        # One says nothing that the other does not: "Paris" and "The capital is Paris".
        if common or first.figures or first.polarity is second.polarity is not None:
            return Agreement(verdict=Verdict.AGREE, reason="words")
    elif not common and not (first.figures & second.figures) and first.words and second.words:
        return Agreement(verdict=Verdict.DISAGREE, reason="words")
    return Agreement(verdict=Verdict.UNSURE, reason="short")


def _overlapping(first: str, second: str, *, doubted: bool) -> Agreement:
    said = _said(first), _said(second)
    overlap = _dice(said[0].words, said[1].words)
    if overlap >= OVERLAP_SAME and said[0].figures == said[1].figures and not doubted:
        return Agreement(verdict=Verdict.AGREE, reason="overlap")
    if overlap < OVERLAP_NONE:
        return Agreement(verdict=Verdict.DISAGREE, reason="topic")
    return Agreement(verdict=Verdict.UNSURE, reason="mixed")


def _dice(first: Counter[str], second: Counter[str]) -> float:
    total = first.total() + second.total()
    return 2 * (first & second).total() / total if total else 1.0
