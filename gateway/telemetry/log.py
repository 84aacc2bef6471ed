"""Log events: one JSON object a line on standard output, ``event`` plus fields.

Fields are ids, codes and numbers. Prompts, answers, tokens and keys are never passed here; as a
second wall a field whose name is in ``NEVER`` is replaced, and long texts are cut.
"""

from __future__ import annotations

import sys
from typing import Final

import orjson

from gateway.contract.clock import Clock, SystemClock
from gateway.telemetry import crash, names
from gateway.telemetry.metrics import counter

NEVER: Final = frozenset(
    {"authorization", "token", "api_key", "secret", "prompt", "messages", "content", "body"}
)
TEXT_CHARS_MAX: Final = 2000
"""A log line is read by people; a longer text is a dump."""
_LEVELS: Final = {"debug": 10, "info": 20, "warning": 30, "error": 40}


class EventLog:
    """Writes events of one part. ``warning`` and ``error`` take the exception as ``error=``."""

    def __init__(self, part: str, *, clock: Clock | None = None) -> None:
        """``part`` is the process or module that speaks."""
        self._part = part
        self._clock = clock or SystemClock()

    def _write(self, level: str, event: str, fields: dict[str, object]) -> None:
        if _LEVELS[level] < _threshold[0]:
            return
        line: dict[str, object] = {
            "at_ms": self._clock.unix_ms(),
            "level": level,
            "part": self._part,
            "event": event,
        }
        for name, value in fields.items():
            if name in NEVER:
                line[name] = "(hidden)"
            elif isinstance(value, BaseException):
                line[name] = f"{type(value).__name__}: {value}"[:TEXT_CHARS_MAX]
            elif isinstance(value, str | int | float | bool | None):
                line[name] = value[:TEXT_CHARS_MAX] if isinstance(value, str) else value
            else:
                line[name] = str(value)[:TEXT_CHARS_MAX]
        try:
            sys.stdout.buffer.write(orjson.dumps(line) + b"\n")
            sys.stdout.buffer.flush()
        except OSError:  # a full disk must not end what still works without a log; some of it may come late
            counter(names.LOG_LINES_LATE, "Log lines that could not be written when they were said").inc()

    def debug(self, event: str, **fields: object) -> None:
        """For a developer at work."""
        self._write("debug", event, fields)

    def info(self, event: str, **fields: object) -> None:
        """Something that happens in normal service and that an operator wants to see."""
        self._write("info", event, fields)

    def warning(self, event: str, **fields: object) -> None:
        """Service goes on, with less than it should have."""
        self._write("warning", event, fields)

    def error(self, event: str, **fields: object) -> None:
        """Something is broken; each such line deserves a look."""
        self._write("error", event, fields)


_threshold: Final = [_LEVELS["info"]]


def logger(part: str) -> EventLog:
    """The event log of ``part``."""
    return EventLog(part)


def set_level(level: str) -> None:
    """``debug``, ``info``, ``warning`` or ``error``, for this process, whose failures are told without
    their texts from now on (``crash``). Raises ValueError."""
    if level not in _LEVELS:
        raise ValueError(f"log level must be one of {', '.join(_LEVELS)}, got {level!r}")
    _threshold[0] = _LEVELS[level]
    crash.install()
