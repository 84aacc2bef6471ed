"""The usage an engine reported for one answer, put together from its chunks.

SGLang's ``continuous_usage_stats``: each content chunk carries the counts of its own choice so far; the
last chunk, without choices, carries the sum over all choices (a prompt once for its n completions).
Counts are cumulative, so a smaller one later takes nothing back: after pre-emption SGLang reports a
final usage with prompt 0 (recordings of 0.5.23).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gateway.contract.units import TOKENS_MAX, Tokens
from gateway.openai.answers import InvalidUsage, Usage, choices_of, index_of, read_usage


class UsageSeen:
    """``usage`` is the last known sum, None before any; ``flags`` tell what was wrong."""

    def __init__(self, *, one_prompt: bool, most: Tokens = TOKENS_MAX) -> None:
        """``one_prompt``: all choices answer the same prompt, which counts once. ``most``: a report of more
        tokens cannot be true; believed, one broken engine would spend a tenant's month."""
        self._one_prompt = one_prompt
        self._most = most
        self._by_choice: dict[int, Usage] = {}
        self._final: Usage | None = None
        self.flags: set[str] = set()

    @property
    def is_final(self) -> bool:
        """Whether the engine gave its closing sum."""
        return self._final is not None

    def chunk(self, chunk: Mapping[str, Any]) -> None:
        """A chunk of a stream: the closing sum if it has no choices, else one choice's count so far."""
        usage = self._read(chunk)
        if usage is None:
            return
        choices = choices_of(chunk)
        if not choices:
            self._close(usage)
            return
        index = index_of(choices[0])
        self._by_choice[index] = _larger(self._by_choice.get(index), usage)

    def final(self, answer: Mapping[str, Any]) -> None:
        """A whole JSON answer."""
        usage = self._read(answer)
        if usage is not None:
            self._close(usage)

    def _close(self, usage: Usage) -> None:
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
        if not self._by_choice:
            return None
        parts = self._by_choice.values()
        join = max if self._one_prompt else sum
        return Usage(
            prompt=Tokens(join(part.prompt for part in parts)),
            completion=Tokens(sum(part.completion for part in parts)),
            cached=Tokens(join(part.cached for part in parts)),
        )


def _larger(first: Usage | None, second: Usage) -> Usage:
    if first is None:
        return second
    return Usage(
        prompt=max(first.prompt, second.prompt),
        completion=max(first.completion, second.completion),
        cached=max(first.cached, second.cached),
    )
