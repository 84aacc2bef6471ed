"""``tidegate up --detach``: starts a supervisor of its own session and follows it until it answers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import IO, Final

from gateway.config.environment import inherited
from gateway.contract.clock import Clock
from mesh.local.engine import RemoteEngine
from mesh.local.layout import CHECKOUT, layout_of, prepare
from mesh.local.message import credentials_of, ready_message
from mesh.local.part import PartView
from mesh.local.refusal import Refusal, refusal_from
from mesh.local.screen import Screen
from mesh.local.status import ANSWERING, Overall, Status, read_status
from mesh.local.up import UpOptions

POLL_S: Final = 0.1
REMOTE_WAIT_S: Final = 10.0
STOP_S: Final = 60.0


def _started(arguments: Sequence[str], log: IO[bytes], errors: IO[bytes]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        (sys.executable, "-P", "-m", "mesh", *arguments),
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=errors,
        cwd=CHECKOUT,
        env={**inherited(), "PYTHONPATH": str(CHECKOUT)},
        start_new_session=True,
    )


def _reason(errors: IO[bytes], code: int) -> Refusal:
    errors.seek(0)
    lines = errors.read().decode("utf-8", "replace").strip().splitlines() or [f"tidegate: ended with {code}"]
    return Refusal(lines[-1].removeprefix("tidegate: "), "", detail="\n".join(lines[:-1]))


def up_detached(
    options: UpOptions, arguments: Sequence[str], screen: Screen, clock: Clock, *, wait: bool
) -> int:
    """``arguments`` make ``python -m mesh`` run the supervisor in its foreground. Returns 0 when the
    gateway answers and, with ``wait``, the engine has loaded. Raises Refusal."""
    layout = layout_of(options.state)
    try:
        prepare(layout)
        with (
            layout.log("supervisor").open("ab") as log,
            # In memory: what a full disk has to say must have room.
            os.fdopen(os.memfd_create("tidegate-errors"), "w+b") as errors,
        ):
            child = _started(arguments, log, errors)
            try:
                with screen:
                    status = _followed(child, options, screen, clock, wait=wait)
            except KeyboardInterrupt:
                child.send_signal(signal.SIGTERM)
                child.wait(STOP_S)
                raise
            if status is None:
                raise _reason(errors, child.wait())
    except OSError as error:
        raise refusal_from(error, layout.state) from error
    credentials = credentials_of(layout, clock)
    screen.say(ready_message(status, layout, credentials, detached=True))
    return 0


def _is_worth_waiting_for(status: Status, options: UpOptions, clock: Clock) -> bool:
    """Whether an engine loads that we started; pods elsewhere get a moment only, we cannot start them."""
    if status.state is not Overall.LOADING:
        return False
    remote = isinstance(options.engine, RemoteEngine)
    return not remote or clock.unix_ms() - status.started_ms < REMOTE_WAIT_S * 1000


def _followed(
    child: subprocess.Popen[bytes], options: UpOptions, screen: Screen, clock: Clock, *, wait: bool
) -> Status | None:
    """Shows what the supervisor writes until it answers; None when it ended instead."""
    layout = layout_of(options.state)
    shown: dict[str, PartView] = {}
    while True:
        ended = child.poll() is not None
        status = read_status(layout)
        if status.pid == child.pid:
            for view in status.parts:
                if shown.get(view.name) != view:
                    shown[view.name] = view
                    screen.show(view)
            if status.state in ANSWERING and not (wait and _is_worth_waiting_for(status, options, clock)):
                return status
        if ended:
            return None
        time.sleep(POLL_S)
