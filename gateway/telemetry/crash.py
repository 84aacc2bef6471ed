"""What an unexpected failure may say in a log: its type and its stack, never its text.

A text such as ``KeyError: '...'`` repeats what was worked on: a prompt, a token. Python prints it for
uncaught exceptions, asyncio and libraries log it with ``exc_info``; all of them write through here.
"""

from __future__ import annotations

import logging
import sys
import threading
from pathlib import Path
from types import TracebackType
from typing import Final

import orjson

from gateway.contract.clock import Clock, SystemClock

FRAMES_MAX: Final = 32
"""The innermost; a deeper stack is a recursion."""


def stack_of(trace: TracebackType | None) -> list[str]:
    """``file.py:12 function`` for each frame, outermost first; files without their directories."""
    frames: list[str] = []
    while trace is not None:
        code = trace.tb_frame.f_code
        frames.append(f"{Path(code.co_filename).name}:{trace.tb_lineno} {code.co_name}")
        trace = trace.tb_next
    return frames[-FRAMES_MAX:]


class LibraryLine(logging.Formatter):
    """A library's record as one JSON line: who, where, what kind. Its message and arguments are left out."""

    def __init__(self, clock: Clock) -> None:
        """``clock`` stamps the lines."""
        super().__init__()
        self._clock = clock

    def format(self, record: logging.LogRecord) -> str:
        """See the class."""
        line: dict[str, object] = {
            "at_ms": self._clock.unix_ms(),
            "level": record.levelname.lower(),
            "part": record.name,
            "event": "library",
            "at": f"{record.filename}:{record.lineno}",
        }
        if record.exc_info and record.exc_info[0] is not None:
            line |= {"error": record.exc_info[0].__name__, "stack": stack_of(record.exc_info[2])}
        return orjson.dumps(line).decode()


def _uncaught(clock: Clock, kind: type[BaseException], trace: TracebackType | None) -> None:
    line = {"at_ms": clock.unix_ms(), "level": "error", "part": "process", "event": "uncaught"}
    sys.stdout.buffer.write(orjson.dumps({**line, "error": kind.__name__, "stack": stack_of(trace)}) + b"\n")
    sys.stdout.buffer.flush()


def install(clock: Clock | None = None) -> None:
    """From now on this process's failures are told so: libraries' warnings, uncaught exceptions."""
    clock = clock or SystemClock()
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(LibraryLine(clock))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    sys.excepthook = lambda kind, _, trace: _uncaught(clock, kind, trace)
    sys.unraisablehook = lambda event: _uncaught(clock, event.exc_type, event.exc_traceback)
    threading.excepthook = lambda event: _uncaught(clock, event.exc_type, event.exc_traceback)
