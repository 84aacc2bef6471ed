"""Commands on the books of a state directory, also while no gateway runs on it.

The end of the books is anchored in the ledger, and their sums are its counters. Where a command needs the
ledger and no gateway runs, the ledger's Valkey is started for it alone, with the state directory locked.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from random import Random
from typing import Final

from gateway.bookkeeper import verify
from gateway.config.environment import inherited
from gateway.contract.clock import Clock
from mesh.local.engine import RemoteEngine
from mesh.local.layout import Layout, clear_run, prepare
from mesh.local.part import State
from mesh.local.policy import programs
from mesh.local.record import end_leftovers, held_lock, new_record, read_record, running_supervisor
from mesh.local.refusal import Refusal
from mesh.local.region import REGION, Region, parts_of
from mesh.local.supervisor import Supervisor

LEDGER: Final = "valkey-ledger"


def refuse_no_books(layout: Layout) -> None:
    """Raises Refusal."""
    if not any(layout.books.glob("*")):
        raise Refusal(f"no books in {layout.books}", "start the gateway once with './tidegate up'")


def refuse_running(layout: Layout) -> None:
    """Raises Refusal."""
    if running_supervisor(layout) is not None:
        raise Refusal(f"a gateway runs on {layout.state}", "stop it first with './tidegate down'")


def books_options(layout: Layout) -> list[str]:
    """What names the books to a command of gateway.bookkeeper."""
    return ["--books", str(layout.books), "--region", REGION]


def with_ledger(layout: Layout, clock: Clock, command: Callable[[str], int]) -> int:
    """``command`` with the ledger's URL; its exit code. Raises Refusal, OSError."""
    url = f"unix://{layout.socket('ledger')}"
    if running_supervisor(layout) is not None:
        return command(url)
    prepare(layout)
    with held_lock(layout):
        before = read_record(layout)
        if before is not None:
            end_leftovers(before, clock)
        clear_run(layout)
        return asyncio.run(_beside_ledger(layout, clock, lambda: command(url)))


def verify_books(layout: Layout, clock: Clock, *, as_json: bool) -> int:
    """Exit code of gateway.bookkeeper.verify: 0 clean, 1 broken, 2 nothing to check. Raises Refusal."""
    refuse_no_books(layout)
    arguments = [*books_options(layout), *(["--json"] if as_json else [])]
    return with_ledger(layout, clock, lambda url: verify.main([*arguments, "--ledger", url]))


async def _beside_ledger(layout: Layout, clock: Clock, command: Callable[[], int]) -> int:
    """Runs ``command`` in a thread while the ledger's Valkey serves."""
    envoy, valkey = programs(None)
    region = Region(
        layout=layout,
        port=0,
        engine=RemoteEngine(pods=()),
        engine_port=0,
        model="",
        envoy=envoy,
        valkey=valkey,
        tools=layout.state,
    )
    supervisor = Supervisor(
        [part for part in parts_of(region) if part.name == LEDGER],
        layout=layout,
        record=new_record(layout),
        environment=inherited(),
        clock=clock,
        random=Random(),
    )
    stop = asyncio.Event()
    running = asyncio.create_task(supervisor.run(stop))
    try:
        await asyncio.wait(
            {running, asyncio.create_task(supervisor.wait_all())}, return_when="FIRST_COMPLETED"
        )
        if supervisor.views[LEDGER].state is not State.READY:
            await running  # raises why
        return await asyncio.to_thread(command)
    finally:
        stop.set()
        await running
