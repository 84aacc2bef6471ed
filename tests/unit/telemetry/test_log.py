"""A log that cannot be written costs its lines, and nothing else."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from gateway.telemetry import names
from gateway.telemetry.log import logger
from gateway.telemetry.metrics import counter


def test_a_full_disk_below_the_log_ends_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    late, went_on = counter(names.LOG_LINES_LATE, ""), False
    before = late._value.get()
    with pytest.raises(OSError, match="No space left"), Path("/dev/full").open("wb") as full:
        monkeypatch.setattr(sys, "stdout", SimpleNamespace(buffer=full))
        logger("test").error("disk.full", bytes=1)
        went_on = True  # what is raised is its closing
    assert went_on and late._value.get() == before + 1
