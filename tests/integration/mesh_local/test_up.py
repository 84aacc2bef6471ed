"""``up`` as a process: signals, a second start after kill -9, one state for one gateway, taken ports."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mesh.local.layout import CHECKOUT, Layout, layout_of
from mesh.local.logfile import tail
from mesh.local.proc import Identity, identity_of, is_alive
from mesh.local.record import read_record
from mesh.local.status import Overall, read_status
from tests.harness.gateway import free_ports, until
from tests.integration.mesh_local.toy_up import STOP_S

Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return layout_of(tmp_path / "state")


@pytest.fixture
def start(layout: Layout) -> Iterator[Start]:
    started: list[subprocess.Popen[str]] = []

    def begin(*words: str, port: int | None = None) -> subprocess.Popen[str]:
        script = Path(__file__).with_name("toy_up.py")
        process = subprocess.Popen(
            [sys.executable, str(script), str(layout.state), str(port or free_ports()), *words],
            env={**os.environ, "PYTHONPATH": str(CHECKOUT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        started.append(process)
        return process

    yield begin
    for process in started:
        if process.poll() is None:
            process.terminate()
        process.communicate(timeout=30)


def until_ready(layout: Layout, process: subprocess.Popen[str]) -> None:
    def ready() -> bool:
        assert process.poll() is None, process.communicate()
        return read_status(layout).state is Overall.READY

    until(ready, "ready")


def parts_of_run(layout: Layout) -> list[Identity]:
    record = read_record(layout)
    assert record is not None
    return [identity for identity, _ in record.parts.values()]


def end_after(process: subprocess.Popen[str], *signs: signal.Signals) -> tuple[int, str, str]:
    for sign in signs:
        process.send_signal(sign)
    output, errors = process.communicate(timeout=30)
    return process.returncode, output, errors


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_stops_everything_that_was_started_and_nothing_else(
    sign: signal.Signals, layout: Layout, start: Start
) -> None:
    # A bystander with our marker's name but another run's value, as another gateway's part has it.
    sleeper = [sys.executable, "-I", "-S", "-c", "import time; time.sleep(60)"]
    bystander = subprocess.Popen(sleeper, env={"_TG_STATE": f"{layout.state}:another run"})
    try:
        process = start("child")
        until_ready(layout, process)
        child = int(next(line for line in tail(layout.log("two"), 9) if line.startswith("child")).split()[1])
        running = [*parts_of_run(layout), identity_of(child)]
        assert len([one for one in running if one and is_alive(one)]) == 5
        code, output, errors = end_after(process, sign)
        assert (code, errors) == (0, "")
        assert output.rstrip().endswith("Stopped.")
        assert [one for one in running if one and is_alive(one)] == []
        assert bystander.poll() is None
        assert read_status(layout).state is Overall.STOPPED
    finally:
        bystander.kill()
        bystander.wait()


def test_the_start_is_told_in_lines_with_seconds_and_how_to_use_it(layout: Layout, start: Start) -> None:
    process = start()
    until_ready(layout, process)
    _, output, _ = end_after(process, signal.SIGINT)
    for part in ("credentials", "policy", "ledger", "one", "two"):
        assert f"s  {part}  ready in " in output
    for wanted in ("/v1", "API key  tg-", "JWT      ey", "curl http", "from openai import OpenAI", "Ctrl-C"):
        assert wanted in output
    assert str(layout.logs) in output


def test_a_second_start_after_kill_9_works_and_ends_what_was_left(layout: Layout, start: Start) -> None:
    port = free_ports()
    process = start("stubborn", "child", "wiped-child", f"hold={port}", port=port)
    until_ready(layout, process)
    left = parts_of_run(layout)
    process.kill()
    process.wait()
    assert [one for one in left if is_alive(one)], "the stubborn toy outlives its supervisor's SIGTERM"
    again = start(port=port)
    until_ready(layout, again)
    assert [one for one in left if is_alive(one)] == []
    code, output, _ = end_after(again, signal.SIGINT)
    assert code == 0
    assert "clean-up  ready" in output


def test_parts_end_with_their_supervisor(layout: Layout, start: Start) -> None:
    process = start()
    until_ready(layout, process)
    left = parts_of_run(layout)
    process.kill()
    process.wait()
    until(lambda: not [one for one in left if is_alive(one)], "the kernel's SIGTERM ends them")


def test_two_gateways_on_one_state_are_refused_with_the_pid(layout: Layout, start: Start) -> None:
    first = start()
    until_ready(layout, first)
    second = start()
    _, errors = second.communicate(timeout=30)
    assert second.returncode == 1
    assert f"already runs on {layout.state} (pid {first.pid}): stop it with" in errors
    assert read_status(layout).state is Overall.READY


@pytest.mark.parametrize("offset", [0, 1])
def test_a_taken_port_is_named_with_its_mend(offset: int, layout: Layout, start: Start) -> None:
    port = free_ports()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", port + offset))
        taken.listen()
        process = start(port=port)
        _, errors = process.communicate(timeout=30)
    assert process.returncode == 1
    assert f"port {port + offset} (" in errors
    assert f"(pid {os.getpid()})" in errors
    assert "choose another with --port P" in errors
    assert not layout.status.exists()


def test_a_part_that_cannot_start_fails_the_start_and_stops_the_rest(layout: Layout, start: Start) -> None:
    process = start("die")
    output, errors = process.communicate(timeout=30)
    assert process.returncode == 1
    assert "two | toy: the reason why" in errors
    assert f"tidegate: two does not start (ended with exit 3): see {layout.log('two')}" in errors
    assert "two  failed" in output
    status: dict[str, Any] = json.loads(layout.status.read_text())
    assert status["state"] == "failed"
    assert "two does not start" in status["notice"]
    record = read_record(layout)
    assert record is not None
    assert record.living() == []


def test_a_second_ctrl_c_does_not_wait_for_the_stubborn(layout: Layout, start: Start) -> None:
    process = start("stubborn")
    until_ready(layout, process)
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    until(lambda: read_status(layout).state is Overall.STOPPING, "stopping")
    code, _, _ = end_after(process, signal.SIGINT)
    assert code == 0
    assert time.monotonic() - began < STOP_S / 2, "its grace is not waited for"
