"""``status``, ``logs``, ``env`` and ``down``: looking at a gateway that runs, and ending it."""

from __future__ import annotations

import shlex
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.table import Table

from gateway.contract.clock import Clock
from mesh.local.layout import Layout
from mesh.local.logfile import follow, tail
from mesh.local.message import credentials_of
from mesh.local.proc import is_alive, send
from mesh.local.record import end_leftovers, read_record, running_supervisor
from mesh.local.refusal import Refusal
from mesh.local.status import ANSWERING, Overall, Status, read_status

DOWN_S: Final = 45.0
"""Longest stop of all levels together; beyond it the supervisor is killed, and the rest by its marker."""
LOG_LINES: Final = 100
_POLL_S: Final = 0.1


def _nothing_runs(layout: Layout) -> Refusal:
    return Refusal(f"no gateway runs on {layout.state}", "start one with './tidegate up'")


def _table(status: Status, clock: Clock) -> Table:
    table = Table("part", "state", "pid", "restarts", "since", "", box=None, pad_edge=False)
    for part in status.parts:
        since = f"{max(0, clock.unix_ms() - part.since_ms) / 1000:.0f} s" if part.since_ms else ""
        pid = "" if part.pid is None else str(part.pid)
        table.add_row(part.name, part.state.value, pid, str(part.restarts or ""), since, part.detail)
    return table


def show_status(layout: Layout, console: Console, clock: Clock, *, as_json: bool) -> int:
    """0 while a supervisor runs, 1 otherwise (``--json`` says "stopped" then). Raises Refusal."""
    status = read_status(layout)
    if as_json:
        sys.stdout.write(status.to_json().decode())
        return 0 if status.state is not Overall.STOPPED else 1
    if status.state is Overall.STOPPED:
        raise _nothing_runs(layout)
    notice = f": {status.notice}" if status.notice else ""
    console.print(
        f"{status.state.value}{notice}   {status.base_url}   engine {status.engine}   pid {status.pid}",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )
    console.print(_table(status, clock))
    return 0


def answering(layout: Layout) -> Status:
    """Of a gateway that answers. Raises Refusal where none does."""
    status = read_status(layout)
    if status.state in ANSWERING:
        return status
    if status.state is Overall.STOPPED:
        raise _nothing_runs(layout)
    raise Refusal(f"the gateway is {status.state.value}", "wait until './tidegate status' says ready")


def show_env(layout: Layout, clock: Clock) -> int:
    """Shell lines that point an OpenAI client at the running gateway. Raises Refusal."""
    status = answering(layout)
    values = {
        "OPENAI_BASE_URL": status.base_url,
        "OPENAI_API_KEY": credentials_of(layout, clock).api_key,
        "OPENAI_MODEL": status.model,
    }
    sys.stdout.writelines(f"export {name}={shlex.quote(value)}\n" for name, value in values.items())
    return 0


def show_logs(layout: Layout, part: str | None, *, following: bool, lines: int = LOG_LINES) -> int:
    """The last lines of one log or of all, then, when ``following``, new ones for ever. Raises Refusal."""
    logs = sorted(layout.logs.glob("*.log"))
    known = [log.stem for log in logs]
    if not logs:
        raise Refusal(f"no logs in {layout.logs}", "start a gateway with './tidegate up'")
    if part is not None:
        if part not in known:
            raise Refusal(f"no part {part!r}", f"known are {', '.join(known)}")
        logs = [layout.log(part)]
    width = max(len(name) for name in known)
    shown = lines if part is not None else max(1, lines // 5)

    def prefix(log: Path) -> str:
        return "" if part is not None else f"{log.stem:{width}} | "

    for log in logs:
        sys.stdout.writelines(f"{prefix(log)}{line}\n" for line in tail(log, shown))
    sys.stdout.flush()
    if following:
        for log, line in follow(logs):
            print(f"{prefix(log)}{line}", flush=True)
    return 0


def bring_down(layout: Layout, clock: Clock, say: Callable[[str], None]) -> int:
    """Ends the gateway on this state directory and whatever a killed one left; 0 when nothing of it
    runs any more. Raises Refusal."""
    supervisor = running_supervisor(layout)
    record = read_record(layout)
    if supervisor is not None:
        say(f"Stopping the gateway on {layout.state} (pid {supervisor.pid})")
        send(supervisor, signal.SIGTERM)
        until = clock.monotonic_s() + DOWN_S
        while is_alive(supervisor) and clock.monotonic_s() < until:
            time.sleep(_POLL_S)
        if is_alive(supervisor):
            say("It does not end; killing it")
            send(supervisor, signal.SIGKILL)
    left = end_leftovers(record, clock) if record is not None else 0
    if left:
        say(f"Ended {left} processes that an earlier run had left")
    say("Stopped." if supervisor is not None else f"No gateway runs on {layout.state}.")
    return 0
