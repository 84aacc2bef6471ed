"""Tests of two kinds side by side: real pytests, in a checkout of their own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from mesh.commands.suite import NICE
from tests.harness.gateway import ROOT, until

RUN = """
import signal, sys
from pathlib import Path
from mesh.commands import suite
signal.signal(signal.SIGINT, signal.default_int_handler)  # whoever runs these tests may ignore it
suite.CHECKOUT = Path(sys.argv[1])
sys.exit(suite.run_side_by_side(["unit", "dataplane"]))
"""
PASSES = "def test_it(): pass\n"
FAILS = "def test_it(): assert 'what it is' == 'what it should be'\n"
WAITS = """
import os, time
from pathlib import Path

def test_it():
    Path({pid!r}).write_text(str(os.getpid()))
    time.sleep(60)
"""
Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def start(tmp_path: Path) -> Start:
    """With the text of the one test of each kind."""

    def begin(*, unit: str, dataplane: str) -> subprocess.Popen[str]:
        for tier, text in (("unit", unit), ("dataplane", dataplane)):
            file = tmp_path / "tests" / tier / f"test_{tier}.py"
            file.parent.mkdir(parents=True)
            file.write_text(text)
        return subprocess.Popen(
            [sys.executable, "-P", "-c", RUN, str(tmp_path)],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        )

    return begin


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    told, _ = process.communicate(timeout=60)
    return process.returncode, told


def waiting(tmp_path: Path) -> tuple[dict[str, str], list[Path]]:
    """Two tests that wait, and where each writes its pid."""
    pids = [tmp_path / "unit.pid", tmp_path / "dataplane.pid"]
    return {file.stem: WAITS.format(pid=str(file)) for file in pids}, pids


def begun(pids: list[Path]) -> list[psutil.Process]:
    until(lambda: all(file.exists() and file.read_text() for file in pids), "both tests wait")
    return [psutil.Process(int(file.read_text())) for file in pids]


def test_both_kinds_run_and_what_computes_is_last(start: Start) -> None:
    nice = "import os\ndef test_it(): assert os.nice(0) == {}\n"
    status, told = ended(start(unit=nice.format(NICE), dataplane=nice.format(os.nice(0))))
    assert status == 0, told
    assert told.count("1 passed") == 2
    assert "test_dataplane.py ." in told and "test_unit.py" not in told
    assert told.endswith("dataplane: passed\nunit: passed\n")


def test_a_failure_of_what_computes_is_shown_whole(start: Start) -> None:
    status, told = ended(start(unit=FAILS, dataplane=PASSES))
    assert status == 1
    assert "assert 'what it is' == 'what it should be'" in told
    assert told.endswith("dataplane: passed\nunit: failed, see above\n")


def test_a_failure_of_what_asks_is_the_suite_s(start: Start) -> None:
    status, told = ended(start(unit=PASSES, dataplane=FAILS))
    assert status == 1
    assert told.endswith("dataplane: failed, see above\nunit: passed\n")


def test_ctrl_c_ends_both(start: Start, tmp_path: Path) -> None:
    texts, pids = waiting(tmp_path)
    running = start(**texts)
    processes = begun(pids)
    os.killpg(running.pid, signal.SIGINT)
    status, told = ended(running)
    assert status == 2
    assert "KeyboardInterrupt" in told
    until(lambda: not any(process.is_running() for process in processes), "both are gone")


def test_both_end_with_who_started_them(start: Start, tmp_path: Path) -> None:
    texts, pids = waiting(tmp_path)
    running = start(**texts)
    processes = begun(pids)
    running.kill()
    running.wait()
    until(lambda: not any(process.is_running() for process in processes), "both are gone")
    ended(running)
