"""What is read off one answer as it passes: usage, finish reasons, whether anything was produced, when."""

from __future__ import annotations

from typing import Any

from ext_proc.usage import UsageSeen, parts_of
from gateway.openai.answers import choices_of, error_frame, finish_of, index_of


class Reading:
    """Fed with each chunk of a stream, or once with a whole answer, before anything in it is mended."""

    def __init__(self, seen: UsageSeen, *, started_s: float, produces: bool) -> None:
        """``started_s``: monotonic time when the attempt began. ``produces``: the endpoint's answers hold
        completions."""
        self.seen = seen
        self.finishes: dict[int, str] = {}
        """By choice."""
        self.begun = False
        """Something of an answer was read, be it without content."""
        self.content_seen = False
        self._produces = produces
        self._started_s = started_s
        self._first_s: float | None = None
        self._last_s: float | None = None
        self._streamed = False

    def chunk(self, chunk: dict[str, Any], *, at_s: float) -> None:
        """A chunk of a stream."""
        self._streamed = True
        choices = choices_of(chunk)
        parts = parts_of(choices)
        self.seen.chunk(chunk, parts)
        if not parts:
            return
        self.begun = True
        for choice in choices:
            if reason := finish_of(choice):
                self.finishes[index_of(choice)] = reason
        if any(characters for _, characters in parts):
            self.content_seen = True
            self._first_s = at_s if self._first_s is None else self._first_s
            self._last_s = at_s

    def whole(self, answer: dict[str, Any], *, at_s: float) -> None:
        """A whole answer, which came at ``at_s``."""
        choices = choices_of(answer)
        self.seen.whole(answer, parts_of(choices))
        for choice in choices:
            if reason := finish_of(choice):
                self.finishes[index_of(choice)] = reason
        self.content_seen = bool(self.finishes) if self._produces else error_frame(answer) is None
        self.begun = self.content_seen or bool(choices)
        self._first_s = at_s

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
