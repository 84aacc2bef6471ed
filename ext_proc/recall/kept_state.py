"""State of the recall process that outlives it: one small file, replaced whole. A lost or damaged file costs
what was learnt, and never the start."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

from gateway.config.durable_file import replace_durably
from gateway.telemetry.log import EventLog

S = TypeVar("S")
BYTES_MAX: Final = 16 * 1024 * 1024
"""Far more than either state has; a larger file is none of ours."""


def load_state(file: Path | None, read: Callable[[bytes], S], empty: Callable[[], S], log: EventLog) -> S:
    """What ``read`` makes of ``file``, or ``empty()``; a file that ``read`` refuses (ValueError) is put aside
    under the suffix ``.unreadable``."""
    if file is None:
        return empty()
    try:
        if file.stat().st_size > BYTES_MAX:
            raise ValueError("too large")
        return read(file.read_bytes())
    except FileNotFoundError:
        return empty()
    except OSError as error:
        log.error("recall.state_unreadable", file=file.name, kind=type(error).__name__)
    except ValueError as error:
        log.error("recall.state_unreadable", file=file.name, kind=type(error).__name__)
        with contextlib.suppress(OSError):  # then the next save replaces it
            file.replace(file.with_name(f"{file.name}.unreadable"))
    return empty()


def save_state(file: Path | None, data: bytes, log: EventLog) -> bool:
    """False, and logged, when the disk does not take it: tried again with the next save."""
    if file is None:
        return True
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        replace_durably(file, data)
    except OSError as error:
        log.error("recall.state_not_saved", file=file.name, kind=type(error).__name__)
        return False
    return True
