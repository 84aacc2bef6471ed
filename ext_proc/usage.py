"""What an engine reported and showed of one answer, put together from its chunks; nothing of it is trusted
that cannot be true.

SGLang's ``continuous_usage_stats``: each content chunk carries the counts of its own choice so far; the
last chunk, without choices, carries the sum over all choices (a prompt once for its n completions).
Counts are cumulative, so a smaller one later takes nothing back: after pre-emption SGLang reports a
final usage with prompt 0 (recordings of 0.5.23). Beside the reports, what was shown is counted: a piece of
content is one token at least, so a report of far fewer is no report.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from gateway.contract.units import TOKENS_MAX, Tokens
from gateway.openai.answers import InvalidUsage, Usage, index_of, read_usage

JUMP_MAX: Final = 64
"""Tokens of one choice between two reports, where the later one lies above max_tokens: an engine that goes
on past its limit does so step by step (SGLang merges a few tokens into a chunk), one that reports nonsense
leaps."""
CHARACTERS_PER_TOKEN: Final = 4
"""Of English text under the vocabularies we know; for an estimate where nothing better is there."""
PIECES_PER_TOKEN_MAX: Final = 2
"""Parsers of reasoning and tool calls may show one token as two pieces."""


class _Choice:
    """What is known of one choice so far."""

    __slots__ = ("cached", "characters", "completion", "pieces", "prompt", "reported")

    def __init__(self) -> None:
        self.prompt = self.completion = self.cached = self.pieces = self.characters = 0
        self.reported = False

    @property
    def produced(self) -> int:
        """Tokens it has produced at least: its report, or a token for each piece where that is missing or
        far too low."""
        if self.completion * PIECES_PER_TOKEN_MAX >= self.pieces:
            return self.completion
        return self.pieces

    @property
    def estimate(self) -> int:
        """The nearest guess where the report is missing or far too low."""
        if self.completion * PIECES_PER_TOKEN_MAX >= self.pieces:
            return self.completion
        return max(self.pieces, -(-self.characters // CHARACTERS_PER_TOKEN))


class UsageSeen:
    """``usage`` is the last known sum, None before any; ``flags`` tell what was wrong."""

    def __init__(
        self, *, one_prompt: bool, most: Tokens = TOKENS_MAX, limit: Tokens = TOKENS_MAX, choices: int = 1
    ) -> None:
        """``one_prompt``: all choices answer the same prompt, which counts once. ``most``: a report of more
        tokens cannot be true; believed, one broken engine would spend a tenant's month. ``limit``: the
        max_tokens that each of ``choices`` was told."""
        self._one_prompt = one_prompt
        self._most = most
        self._limit = limit
        self._choices = choices
        self._by_choice: dict[int, _Choice] = {}
        self._final: Usage | None = None
        self.flags: set[str] = set()
        self.over_limit = False
        """Some choice of a stream has produced more than its limit."""
        self.crossing = False
        """The chunk that did so began below it: a part of it is paid."""

    @property
    def is_final(self) -> bool:
        """Whether the engine gave its closing sum."""
        return self._final is not None

    def chunk(self, chunk: Mapping[str, Any], parts: Sequence[tuple[int, int]]) -> None:
        """A chunk of a stream: the closing sum if it has no choices, else one choice's count so far.
        ``parts``: index of each choice in it, and how many characters of content it shows."""
        usage = self._read(chunk) if chunk.get("usage") is not None else None
        if not parts:
            if usage is not None:
                self._close(usage)
            return
        for index, characters in parts:
            self._advance(index, usage, characters)
            usage = None  # it is the first choice's

    def _advance(self, index: int, usage: Usage | None, characters: int) -> None:
        choice = self._by_choice.get(index)
        if choice is None:
            choice = self._by_choice[index] = _Choice()
        before = choice.produced
        if characters:
            choice.pieces += 1
            choice.characters += characters
        if usage is not None:
            self._report(choice, usage)
        if choice.produced > self._limit:
            self.crossing = before < self._limit and not self.over_limit
            self.over_limit = True

    def _report(self, choice: _Choice, usage: Usage) -> None:
        if usage.completion > self._limit and usage.completion - choice.produced > JUMP_MAX:
            self.flags.add("usage_invalid")
            return
        choice.reported = True
        choice.prompt = max(choice.prompt, usage.prompt)
        choice.completion = max(choice.completion, usage.completion)
        choice.cached = max(choice.cached, usage.cached)

    def whole(self, answer: Mapping[str, Any], parts: Sequence[tuple[int, int]]) -> None:
        """A whole JSON answer; ``parts`` as in ``chunk``."""
        usage = self._read(answer)
        if usage is not None:
            self._close(usage)
        for index, characters in parts:
            self._advance(index, None, characters)
        self.over_limit = False  # nothing of it can be held back

    def _close(self, usage: Usage) -> None:
        so_far = self._so_far()
        over = usage.completion > self._limit * self._choices
        if over and so_far is not None and usage.completion - self.produced > JUMP_MAX * self._choices:
            self.flags.add("usage_invalid")
            return
        if self._final is not None and self._final != usage:
            self.flags.add("usage_repeated")
        self._final = _larger(self._final, usage)

    def _read(self, holder: Mapping[str, Any]) -> Usage | None:
        try:
            usage = read_usage(holder)
        except InvalidUsage:
            usage = None
        else:
            if usage is None or usage.total <= self._most:
                return usage
        self.flags.add("usage_invalid")
        return None

    @property
    def usage(self) -> Usage | None:
        """The closing sum, else the sum of what the choices have reported so far.

        Without the closing sum the prompts of n choices each are added up for a batch (an upper bound:
        which choices share a prompt is not known here).
        """
        so_far = self._so_far()
        if self._final is None:
            return so_far
        final = self._final
        if so_far is not None and (final.prompt == 0 or final.completion < so_far.completion):
            if final.prompt and final.completion:
                self.flags.add("usage_shrank")
            return _larger(so_far, final)
        return final

    def _so_far(self) -> Usage | None:
        parts = [choice for choice in self._by_choice.values() if choice.reported]
        if not parts:
            return None
        join = max if self._one_prompt else sum
        return Usage(
            prompt=Tokens(join(part.prompt for part in parts)),
            completion=Tokens(sum(part.completion for part in parts)),
            cached=Tokens(join(part.cached for part in parts)),
        )

    @property
    def produced(self) -> int:
        """Completion tokens of all choices, by their last reports or what they showed."""
        return sum(choice.produced for choice in self._by_choice.values())

    @property
    def shown(self) -> int:
        """Tokens that were shown at least, by what the choices showed."""
        return sum(-(-choice.pieces // PIECES_PER_TOKEN_MAX) for choice in self._by_choice.values())

    @property
    def estimate(self) -> int:
        """Completion tokens, as near as can be guessed without a report; of no choice above its limit."""
        return sum(min(choice.estimate, self._limit) for choice in self._by_choice.values())

    @property
    def payable(self) -> int:
        """Most completion tokens that can be charged: of no choice more than its limit, as far as is known
        which choice produced them."""
        if self._final is not None or not self._by_choice:
            return self._limit * self._choices
        known = sum(min(choice.produced, self._limit) for choice in self._by_choice.values())
        return min(known, self._limit * self._choices)

    def of_choice(self, index: int) -> Usage:
        """What one choice has cost so far."""
        choice = self._by_choice.get(index) or _Choice()
        return Usage(
            prompt=Tokens(choice.prompt),
            completion=Tokens(min(choice.produced, self._limit)),
            cached=Tokens(choice.cached),
        )


def parts_of(choices: Sequence[Mapping[str, Any]]) -> list[tuple[int, int]]:
    """Index of each choice of a chunk or a whole answer, and the characters of what the model produced in it
    (text, reasoning, tool calls)."""
    return [(index_of(choice), _characters(choice)) for choice in choices]


def _characters(choice: Mapping[str, Any]) -> int:
    text = choice.get("text")
    if not text:
        said = choice.get("delta")
        if not isinstance(said, dict):
            said = choice.get("message")
            if not isinstance(said, dict):
                return 0
        text = said.get("content") or said.get("reasoning_content")
        if not text:
            return len(str(calls)) if (calls := said.get("tool_calls")) else 0
    return len(text) if isinstance(text, str) else 1


def _larger(first: Usage | None, second: Usage) -> Usage:
    if first is None:
        return second
    return Usage(
        prompt=max(first.prompt, second.prompt),
        completion=max(first.completion, second.completion),
        cached=max(first.cached, second.cached),
    )
