"""What is read off one answer as it passes: usage, finish reasons, whether anything was produced, when."""

from __future__ import annotations

from typing import Any

from ext_proc.usage import UsageSeen
from gateway.openai.answers import choices_of, finish_of, has_content, index_of


class Reading:
    """Fed with each chunk of a stream, or once with a whole answer, before anything in it is mended."""

    def __init__(self, seen: UsageSeen, *, started_s: float, produces: bool) -> None:
        """``started_s``: monotonic time when the attempt began. ``produces``: the endpoint's answers hold
        completions."""
        self.seen = seen
        self.finishes: dict[int, str] = {}
        """By choice."""
        self.content_seen = False
        self._produces = produces
        self._started_s = started_s
        self._first_s: float | None = None
        self._last_s: float | None = None
        self._streamed = False

    def chunk(self, chunk: dict[str, Any], *, at_s: float) -> None:
        """A chunk of a stream."""
        self._streamed = True
        self.seen.chunk(chunk)
        self._finishes_of(chunk)
        if has_content(chunk):
            self.content_seen = True
            self._first_s = at_s if self._first_s is None else self._first_s
            self._last_s = at_s

    def whole(self, answer: dict[str, Any], *, at_s: float) -> None:
        """A whole answer, which came at ``at_s``."""
        self.seen.final(answer)
        self._finishes_of(answer)
        self.content_seen = bool(self.finishes) or not self._produces
        self._first_s = at_s

    def _finishes_of(self, answer: dict[str, Any]) -> None:
        for choice in choices_of(answer):
            if reason := finish_of(choice):
                self.finishes[index_of(choice)] = reason

    @property
    def finish_reason(self) -> str:
        """The finish reason of the choices, joined by commas where they differ; empty if none was seen."""
        return ",".join(sorted(set(self.finishes.values())))

    @property
    def first_token_s(self) -> float | None:
        """Seconds from the attempt's start to the first content; None without content. JSON: to its end."""
        return None if self._first_s is None else self._first_s - self._started_s

    @property
    def seconds_per_output_token(self) -> float | None:
        """Mean over the tokens after the first (OTel's time_per_output_token); None for JSON or one token."""
        usage = self.seen.usage
        if not self._streamed or usage is None or usage.completion < 2:
            return None
        if self._first_s is None or self._last_s is None:
            return None
        return (self._last_s - self._first_s) / (usage.completion - 1)
