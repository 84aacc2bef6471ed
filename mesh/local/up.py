"""``tidegate up``: prepares the state directory, starts the region, says how to use it, stops it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Final, Protocol

from gateway.config.environment import inherited
from gateway.contract.clock import Clock
from gateway.telemetry.metrics import forget_process
from mesh.local.credentials import Credentials
from mesh.local.engine import Engine, RemoteEngine
from mesh.local.layout import DEFAULT_STATE, clear_run, layout_of, prepare, refuse_full_disk
from mesh.local.message import credentials_of, ready_message
from mesh.local.part import Part, PartView, State
from mesh.local.pods import PodWatch
from mesh.local.policy import PolicyFollower, programs
from mesh.local.ports import free_port, refuse_taken
from mesh.local.record import RunRecord, end_leftovers, held_lock, new_record, read_record
from mesh.local.refusal import Refusal, refusal_from
from mesh.local.region import Region, parts_of
from mesh.local.screen import Screen
from mesh.local.status import Board, Overall, Status
from mesh.local.supervisor import Supervisor

TOOLS: Final = DEFAULT_STATE / "tools"
"""Engines' environments and models: large, and the same for every state directory of a checkout."""
QUICK_ENGINE_S: Final = 2.0
"""An engine that needs longer is announced as loading; Envoy's first look at it takes up to a second."""
DEFAULT_MODEL: Final = "smollm2-135m"
"""The model of mesh/base that ``sglang`` and ``twin`` serve."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UpOptions:
    """What the command line asked for; ``mesh`` is the kustomize directory of the policy."""

    engine: Engine
    engine_text: str
    port: int
    state: Path
    mesh: Path
    concurrency: int
    log_level: str
    envoy: str | None = None
    """Version of another Envoy than the installed one; fetched when missing."""
    detached: bool = False


class Follower(Protocol):
    """What lays the policy out before the processes start, and keeps it fresh beside them."""

    def write(self) -> None:
        """Raises PolicyError, Refusal, OSError."""

    async def run(self, say: Callable[[str], None]) -> None:
        """Until cancelled; ``say`` gets what happened."""


class Up:
    """One run. ``run`` blocks until it is over."""

    def __init__(
        self,
        options: UpOptions,
        screen: Screen,
        clock: Clock,
        *,
        parts: Callable[[Region], Sequence[Part]] = parts_of,
        policy: Callable[[Region, Path], Follower] = PolicyFollower,
    ) -> None:
        """Does nothing yet. ``parts`` and ``policy`` are the region's own except in tests."""
        self._options = options
        self._parts = parts
        self._policy = policy
        self._screen = screen
        self._clock = clock
        self._layout = layout_of(options.state)

    def run(self) -> int:
        """0 after a stop that was asked for. Raises Refusal."""
        # Logs, books and sockets of every part are nobody else's, also in a state directory that was there.
        os.umask(0o077)
        try:
            prepare(self._layout)
            refuse_full_disk(self._layout)
            with held_lock(self._layout):
                return self._run_alone()
        except OSError as error:
            raise refusal_from(error, self._layout.state) from error

    def _run_alone(self) -> int:
        layout = self._layout
        with self._screen:
            before = read_record(layout)
            if before is not None and before.living():
                with self._step("clean-up"):
                    end_leftovers(before, self._clock)
            # After the clean-up: a killed run's Envoy may have held the port until then.
            refuse_taken(self._options.port, use="the gateway")
            refuse_taken(self._options.port + 1, use="the operators' listener")
            clear_run(layout)
            record = new_record(layout)
            board = Board(layout.status, self._first_status(record))
            try:
                with self._step("credentials"):
                    credentials = credentials_of(layout, self._clock)
                region = self._region()
                with self._step("policy"):
                    follower = self._policy(region, self._options.mesh)
                    follower.write()
                asyncio.run(self._serve(region, record, board, credentials, follower))
            except BaseException as error:  # an interrupt too: `status` must not show what is gone
                with contextlib.suppress(OSError):
                    board.enter(Overall.FAILED, notice=str(error))
                raise
            board.enter(Overall.STOPPED)
            self._screen.say("Stopped.")
        return 0

    @contextlib.contextmanager
    def _step(self, name: str) -> Iterator[None]:
        """Shows work that is no process like a part."""
        began = self._clock.monotonic_s()
        self._screen.show(PartView(name=name, state=State.STARTING))
        try:
            yield
        except BaseException:  # an interrupt too: the screen keeps what it showed last
            self._screen.show(PartView(name=name, state=State.FAILED))
            raise
        seconds = round(self._clock.monotonic_s() - began, 1)
        self._screen.show(PartView(name=name, state=State.READY, seconds=seconds))

    def _region(self) -> Region:
        options = self._options
        envoy, valkey = programs(options.envoy)
        return Region(
            layout=self._layout,
            port=options.port,
            engine=options.engine,
            engine_port=0 if isinstance(options.engine, RemoteEngine) else free_port(Random()),
            model=DEFAULT_MODEL,
            envoy=envoy,
            valkey=valkey,
            tools=TOOLS,
            concurrency=options.concurrency,
            log_level=options.log_level,
        )

    def _first_status(self, record: RunRecord) -> Status:
        options = self._options
        return Status(
            state=Overall.STARTING,
            pid=record.supervisor.pid,
            started_ms=self._clock.unix_ms(),
            base_url=f"http://127.0.0.1:{options.port}/v1",
            operators_url=f"http://127.0.0.1:{options.port + 1}",
            engine=options.engine_text,
            model=DEFAULT_MODEL,
        )

    async def _serve(
        self,
        region: Region,
        record: RunRecord,
        board: Board,
        credentials: Credentials,
        follower: Follower,
    ) -> None:
        def changed(view: PartView) -> None:
            board.show(view)
            self._screen.show(view)

        supervisor = Supervisor(
            self._parts(region),
            layout=self._layout,
            record=record,
            environment=inherited(),
            clock=self._clock,
            random=Random(),
            on_change=changed,
            on_death=lambda pid: forget_process(pid, str(self._layout.metrics)),
        )
        stop = asyncio.Event()

        def asked_to_stop() -> None:
            if stop.is_set():  # the second time: at once
                supervisor.hurry()
                return
            stop.set()
            board.enter(Overall.STOPPING)
            self._screen.settle()
            self._screen.say("Stopping; once more to kill at once.")

        pods = PodWatch(self._layout, self._clock, changed)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, asked_to_stop)
        beside = [
            asyncio.create_task(self._announce(supervisor, pods, board, credentials)),
            asyncio.create_task(pods.run()),
            asyncio.create_task(follower.run(self._screen.say)),
        ]
        for task in beside:
            task.add_done_callback(lambda ended: None if ended.cancelled() else stop.set())
        try:
            await supervisor.run(stop)
        finally:
            for task in beside:
                task.cancel()
            outcomes = await asyncio.gather(*beside, return_exceptions=True)
        for outcome in outcomes:
            if isinstance(outcome, Exception):
                raise outcome
        if left := record.living():
            raise Refusal(f"could not end pids {', '.join(str(one.pid) for one in left)}", "end them by hand")

    async def _announce(
        self, supervisor: Supervisor, pods: PodWatch, board: Board, credentials: Credentials
    ) -> None:
        """Follows the start: the gateway answers; then an engine does. Then waits for its end."""
        await supervisor.wait_gateway()

        async def whole() -> None:
            await supervisor.wait_all()
            await pods.healthy_once.wait()

        loading = asyncio.create_task(whole())
        await asyncio.wait({loading}, timeout=QUICK_ENGINE_S)
        message_shown = not loading.done()
        if message_shown:
            board.enter(Overall.LOADING)
            self._say_message(board, credentials)
        await loading
        board.enter(Overall.READY)
        self._screen.settle()
        if message_shown:
            self._screen.say(f"An engine has loaded: {board.status.base_url} answers from it now.")
        else:
            self._say_message(board, credentials)
        await asyncio.Event().wait()

    def _say_message(self, board: Board, credentials: Credentials) -> None:
        # A detached supervisor writes into a log file: keys have no place there; its parent shows them.
        if not self._options.detached:
            self._screen.say(ready_message(board.status, self._layout, credentials, detached=False))
