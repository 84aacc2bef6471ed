"""Keeps parts running: order, readiness, restart with back-off, stop in reverse order.

One task for each part. What a part needs must have been ready once; after that each part lives for
itself, because the data path is built to meet missing neighbours (design decision D10).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from random import Random
from typing import Final

from gateway.contract.clock import Clock
from mesh.local.layout import EXEC_BOUND, Layout
from mesh.local.logfile import rotate, tail
from mesh.local.part import Part, PartView, State, checked_order
from mesh.local.probes import is_ready
from mesh.local.proc import MARKER, identity_of, is_alive, send
from mesh.local.record import RunRecord
from mesh.local.refusal import Refusal, refusal_from

BACKOFF_S: Final = 0.25
BACKOFF_S_MAX: Final = 10.0
"""A part that keeps dying is tried six times a minute: visible, and cheap."""
STEADY_S: Final = 30.0
"""After this long in service the next failure counts as the first."""
TRIES_BEFORE_READY: Final = 3
"""A part that was never ready and failed this often will not be: the start is given up."""
PROBE_PAUSE_S: Final = (0.02, 1.0)
"""From the first to the longest pause between two probes; it grows with the time already waited, so that
a part that loads for minutes is asked once a second."""
PROBE_SHARE: Final = 0.1
"""Pause over time waited: readiness is seen at most a tenth late."""
KILLED_S: Final = 2.0
"""How long a killed process may take to go, as one that the kernel is writing out does."""
ROTATE_PAUSE_S: Final = 5.0
PROGRESS: Final = "progress: "
"""A line of a part's log that starts so is shown beside its name while it starts."""
REFUSED: Final = "refused: "
"""A part whose last line starts so has said what is wrong and how to mend it: trying again is no use."""


def backoff_s(failures: int, random: Random) -> float:
    """Pause before the start after the ``failures``-th failure in a row: doubling, capped, half of it
    random so that parts that died together do not return together."""
    longest = min(BACKOFF_S_MAX, BACKOFF_S * 2.0 ** min(failures - 1, 16))
    return longest * (0.5 + random.random() / 2)


class Supervisor:
    """Use: ``run(stop)`` in one task; ``wait_gateway()`` and ``wait_all()`` in others.

    ``on_change(view)`` is called on the event loop at each change of a part.
    """

    def __init__(
        self,
        parts: Sequence[Part],
        *,
        layout: Layout,
        record: RunRecord,
        environment: Mapping[str, str],
        clock: Clock,
        random: Random,
        on_change: Callable[[PartView], None] = lambda _: None,
        on_death: Callable[[int], None] = lambda _: None,
    ) -> None:
        """``environment`` is what every part inherits. Raises ValueError for parts in a circle."""
        self._order = checked_order(parts)
        self._parts = {part.name: part for part in parts}
        self._layout = layout
        self._record = record
        self._environment = {**environment, MARKER: record.marker}
        self._clock = clock
        self._random = random
        self._on_change = on_change
        self._on_death = on_death
        self.views = {part.name: PartView(name=part.name, state=State.WAITING) for part in parts}
        self._ready_once = {part.name: asyncio.Event() for part in parts}
        self._processes: dict[str, asyncio.subprocess.Process] = {}
        self._in_hurry = asyncio.Event()
        self._keepers: dict[str, asyncio.Task[None]] = {}

    def _show(self, name: str, state: State, **changes: object) -> None:
        view = replace(self.views[name], state=state, since_ms=self._clock.unix_ms(), **changes)  # type: ignore[arg-type]  # replace checks the names at run time
        self.views[name] = view
        self._on_change(view)

    async def wait_gateway(self) -> None:
        """Until every part that the gateway needs to answer has been ready."""
        for name, part in self._parts.items():
            if part.gate:
                await self._ready_once[name].wait()

    async def wait_all(self) -> None:
        """Until every part has been ready."""
        for event in self._ready_once.values():
            await event.wait()

    async def run(self, stop: asyncio.Event) -> None:
        """Starts everything and keeps it running until ``stop``; then, or when a part cannot be started,
        stops everything. Raises Refusal when a part cannot be started, also OSError as Refusal."""
        for view in self.views.values():
            self._on_change(view)
        rotation = asyncio.create_task(self._rotate_logs())
        for name, part in self._parts.items():
            self._keepers[name] = asyncio.create_task(self._keep(part), name=f"keep {name}")
        stopped = asyncio.create_task(stop.wait())
        try:
            done, _ = await asyncio.wait(
                {stopped, rotation, *self._keepers.values()}, return_when=asyncio.FIRST_COMPLETED
            )
            for task in done - {stopped}:
                task.result()
        finally:
            stopped.cancel()
            rotation.cancel()
            await self._stop_all()

    async def _rotate_logs(self) -> None:
        while True:
            await asyncio.sleep(ROTATE_PAUSE_S)
            for name in self._parts:
                rotate(self._layout.log(name))

    async def _keep(self, part: Part) -> None:
        """A part's whole life. Returns never; raises Refusal when the part cannot be started."""
        for needed in part.after:
            await self._ready_once[needed].wait()
        failures = 0
        while True:
            began = self._clock.monotonic_s()
            self._show(part.name, State.STARTING, detail="")
            try:
                reason = await self._live_once(part, began)
            except Refusal as refusal:
                if not self._ready_once[part.name].is_set():
                    raise
                reason = str(refusal)
            ended = self._clock.monotonic_s()
            failures = 1 if self._was_steady(part, began, ended) else failures + 1
            self._give_up_if_hopeless(part, failures, reason)
            pause = backoff_s(failures, self._random)
            self._show(
                part.name,
                State.RESTARTING,
                pid=None,
                restarts=self.views[part.name].restarts + 1,
                detail=f"{reason}; again in {pause:.1f} s",
            )
            await asyncio.sleep(pause)

    def _was_steady(self, part: Part, began: float, ended: float) -> bool:
        return self._ready_once[part.name].is_set() and ended - began >= STEADY_S

    def _give_up_if_hopeless(self, part: Part, failures: int, reason: str) -> None:
        """Raises Refusal for a part that was never ready and has failed too often or said why."""
        if self._ready_once[part.name].is_set():
            return
        log = self._layout.log(part.name)
        last = tail(log, 8)
        said = last[-1].removeprefix(REFUSED) if last and last[-1].startswith(REFUSED) else ""
        if not said and failures < TRIES_BEFORE_READY:
            return
        self._show(part.name, State.FAILED, pid=None, detail=said or reason)
        if said:
            raise Refusal(f"{part.name}: {said}", "")
        raise Refusal(
            f"{part.name} does not start ({reason})",
            f"see {log}",
            detail="\n".join(f"  {part.name} | {line}" for line in last),
        )

    async def _live_once(self, part: Part, began: float) -> str:
        """One process from start to end; the answer is why it ended."""
        process = await self._start(part)
        try:
            exited = asyncio.create_task(process.wait())
            try:
                if not await self._becomes_ready(part, exited, began):
                    if exited.done():
                        return _exit_text(exited.result())
                    return f"not ready within {part.ready_s:.0f} s"
                self._ready_once[part.name].set()
                self._show(
                    part.name, State.READY, seconds=round(self._clock.monotonic_s() - began, 1), detail=""
                )
                return _exit_text(await exited)
            finally:
                exited.cancel()
        finally:
            # Cancelled (we stop): _stop_all ends the process in its turn, so it stays listed.
            if asyncio.current_task().cancelling() == 0:  # type: ignore[union-attr]  # inside a task
                await self._end(part, grace_s=0.0)

    async def _start(self, part: Part) -> asyncio.subprocess.Process:
        argv = (sys.executable, "-I", "-S", str(EXEC_BOUND), str(os.getpid()), *part.command)
        log = self._layout.log(part.name)
        try:
            with log.open("ab", buffering=0) as output:
                process = await asyncio.create_subprocess_exec(
                    *argv,
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    env={**self._environment, **part.env},
                    cwd=self._layout.state,
                    start_new_session=True,
                )
            self._processes[part.name] = process
            self._note_start(part, process.pid)
        except OSError as error:
            raise refusal_from(error, log) from error
        self._show(part.name, State.STARTING, pid=process.pid)
        return process

    def _note_start(self, part: Part, pid: int) -> None:
        """Raises OSError before the part was ready once. In service a full disk must not stop it: the
        next start finds the process by its marker as well."""
        identity = identity_of(pid)
        if identity is None:
            return
        try:
            self._record.started(part.name, identity, tuple(part.command))
        except OSError:
            if not self._ready_once[part.name].is_set():
                raise

    async def _becomes_ready(self, part: Part, exited: asyncio.Task[int], began: float) -> bool:
        shortest, longest = PROBE_PAUSE_S
        while (waited := self._clock.monotonic_s() - began) < part.ready_s:
            if await is_ready(part.probe):
                return not exited.done()
            await asyncio.wait({exited}, timeout=min(longest, max(shortest, waited * PROBE_SHARE)))
            if exited.done():
                return False
            self._show_progress(part)
        return False

    def _show_progress(self, part: Part) -> None:
        last = tail(self._layout.log(part.name), 1, bytes_max=4096)
        if last and last[0].startswith(PROGRESS):
            detail = last[0].removeprefix(PROGRESS)
            if detail != self.views[part.name].detail:
                self._show(part.name, State.STARTING, detail=detail)

    async def _end(self, part: Part, *, grace_s: float) -> None:
        """Ends a part's process and what is left of its session. Idempotent."""
        process = self._processes.pop(part.name, None)
        if process is None:
            return
        # While the leader lives its session is certainly ours; once it is gone, only the marker tells.
        members = self._record.session_of(process.pid, leader_alive=process.returncode is None)
        if process.returncode is None and grace_s > 0:
            process.terminate()
            await self._gone_or_hurried(process, grace_s)
        members |= self._record.session_of(process.pid, leader_alive=process.returncode is None)
        for identity in members:
            send(identity, signal.SIGKILL)
        await process.wait()
        until = self._clock.monotonic_s() + KILLED_S
        while any(map(is_alive, members)) and self._clock.monotonic_s() < until:  # noqa: ASYNC110  # grandchildren tell nobody
            await asyncio.sleep(0.01)
        self._on_death(process.pid)
        # A full disk may refuse this: the record then names a dead process, which the next start sees.
        with contextlib.suppress(OSError):
            self._record.ended(part.name)

    async def _gone_or_hurried(self, process: asyncio.subprocess.Process, grace_s: float) -> None:
        waits = {asyncio.create_task(process.wait()), asyncio.create_task(self._in_hurry.wait())}
        await asyncio.wait(waits, timeout=grace_s, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()

    async def _stop_all(self) -> None:
        for keeper in self._keepers.values():
            keeper.cancel()
        await asyncio.gather(*self._keepers.values(), return_exceptions=True)
        for level in reversed(self._order):
            await asyncio.gather(*(self._stop_part(self._parts[name]) for name in level))

    async def _stop_part(self, part: Part) -> None:
        if self.views[part.name].state is not State.FAILED:
            self._show(part.name, State.STOPPING)
        await self._end(part, grace_s=part.stop_s)
        if self.views[part.name].state is not State.FAILED:
            self._show(part.name, State.STOPPED, pid=None, detail="")

    def hurry(self) -> None:
        """The impatient stop: whatever is given grace from now on, or has it, is killed."""
        self._in_hurry.set()


def _exit_text(code: int) -> str:
    if code >= 0:
        return f"ended with exit {code}"
    try:
        return f"killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"killed by signal {-code}"
