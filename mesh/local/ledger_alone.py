"""The ledger of a state directory for one piece of work: the running gateway's, or started for it alone."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from random import Random
from typing import Final, TypeVar

from gateway.config.environment import inherited
from gateway.contract.clock import Clock
from mesh.local.engine import RemoteEngine
from mesh.local.layout import Layout, clear_run, prepare
from mesh.local.part import State
from mesh.local.policy import programs
from mesh.local.record import end_leftovers, held_lock, new_record, read_record, running_supervisor
from mesh.local.region import Region, parts_of
from mesh.local.supervisor import Supervisor

T = TypeVar("T")
LEDGER: Final = "valkey-ledger"


def with_ledger(layout: Layout, clock: Clock, work: Callable[[str], Awaitable[T]]) -> T:
    """What ``work`` makes of the ledger's URL. Without a running gateway the ledger's Valkey is started for
    it alone, with the state directory locked. Raises Refusal, OSError, and what ``work`` raises."""
    url = f"unix://{layout.socket('ledger')}"

    async def beside_gateway() -> T:
        return await work(url)

    if running_supervisor(layout) is not None:
        return asyncio.run(beside_gateway())
    prepare(layout)
    with held_lock(layout):
        before = read_record(layout)
        if before is not None:
            end_leftovers(before, clock)
        clear_run(layout)
        return asyncio.run(_alone(layout, clock, beside_gateway))


async def _alone(layout: Layout, clock: Clock, work: Callable[[], Awaitable[T]]) -> T:
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
        return await work()
    finally:
        stop.set()
        await running
