"""Composition root of the bookkeeper: ``python -m gateway.bookkeeper.main``."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from gateway.bookkeeper.aborting import Aborting
from gateway.bookkeeper.access import resolution_in
from gateway.bookkeeper.access_queue import AccessQueue
from gateway.bookkeeper.access_spool import AccessSpool
from gateway.bookkeeper.heartbeat import Heartbeat
from gateway.bookkeeper.inbox import Inbox
from gateway.bookkeeper.keeping import Keeping, Outbox
from gateway.bookkeeper.projecting import Projecting
from gateway.bookkeeper.projection import Projection
from gateway.bookkeeper.reception import Reception
from gateway.bookkeeper.resolving import Resolving
from gateway.bookkeeper.settings import BookkeeperSettings
from gateway.bookkeeper.witness import Witness
from gateway.budget.redis_ledger import RedisLedger
from gateway.budget.redis_outbox import RedisOutbox
from gateway.config.environment import BadSetting, effective, load
from gateway.contract.clock import Clock, SystemClock
from gateway.contract.ids import RegionName, is_identifier
from gateway.events.event import Event
from gateway.sidecar import wire
from gateway.sidecar.health import HealthBoard
from gateway.sidecar.server import run, serve
from gateway.telemetry import names
from gateway.telemetry.log import logger, set_level
from gateway.telemetry.metrics import child, counter

DRAIN_S: Final = 0.5
"""Envoy's access log streams never end by themselves; this is twice its flush interval."""

log = logger("bookkeeper")


def _stores(settings: BookkeeperSettings, witness: Witness) -> tuple[RedisLedger, RedisOutbox]:
    if not is_identifier(settings.region):
        raise BadSetting(f"TIDEGATE_REGION: must match [a-z0-9][a-z0-9_-]{{0,62}}, got {settings.region!r}")
    if settings.ledger_replicas < 0:
        raise BadSetting(f"TIDEGATE_LEDGER_REPLICAS: must be 0 or more, got {settings.ledger_replicas}")
    try:
        ledger = RedisLedger.connect(settings.ledger_url, clock=witness, replicas=settings.ledger_replicas)
        return ledger, RedisOutbox.connect(settings.ledger_url)
    except ValueError as error:
        raise BadSetting(f"TIDEGATE_LEDGER_URL: {error}") from None


def _access(settings: BookkeeperSettings, inbox: Inbox, resolving: Resolving, clock: Clock) -> AccessQueue:
    spooled = counter(names.ACCESS_SPOOLED, "Access entries that the books did not take", ["result"])
    spool = AccessSpool(
        settings.access_spool,
        RegionName(settings.region),
        count=lambda result, entries: child(spooled, result).inc(entries),
    )

    def found(event: Event) -> None:
        resolution = resolution_in(event)
        if resolution is not None:
            resolving.offer(resolution)

    return AccessQueue(inbox, spool, clock, log, found=found)


async def main(*, wrap_outbox: Callable[[Outbox], Outbox] = lambda outbox: outbox) -> None:
    """Serve until SIGTERM or SIGINT, then write down what has come. ``wrap_outbox`` is for drills, which put
    their crash points around what is read and confirmed. Raises BadSetting."""
    settings = load(BookkeeperSettings)
    set_level(settings.log_level)
    log.info("bookkeeper.start", **effective(settings))
    clock, region, stop, inbox = SystemClock(), RegionName(settings.region), asyncio.Event(), Inbox()
    witness = Witness(clock)
    ledger, outbox = _stores(settings, witness)
    heartbeat = Heartbeat(ledger, outbox, witness, log)
    aborting = Aborting(clock)
    resolving = Resolving(ledger, log)
    access = _access(settings, inbox, resolving, clock)
    keeping = Keeping(
        ledger,
        wrap_outbox(outbox),
        lambda: heartbeat.orgs,
        access,
        directory=settings.books_dir,
        region=region,
        clock=clock,
        log=log,
        notice=aborting.notice,
    )
    projecting = Projecting(Projection(settings.books_dir, region), log)
    reception = Reception(inbox, resolving, aborting, region, clock)
    health = HealthBoard()
    # Closed books or a silent ledger want an operator. Envoy still sends its access log (one endpoint:
    # panic mode), and the queues keep it for when they are back.
    health.register("books", keeping.answers)
    health.register("ledger", heartbeat.answers)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(heartbeat.run(keeping.founded, stop))
        tasks.create_task(resolving.run(stop))
        tasks.create_task(aborting.run(stop))
        tasks.create_task(projecting.run(stop))
        tasks.create_task(access.run(stop))
        kept = tasks.create_task(keeping.run(stop))
        try:
            await serve(
                settings.listen,
                {},
                {wire.STREAM_ACCESS_LOGS: reception.stream},
                health,
                drain_s=DRAIN_S,
                log=log,
            )
        finally:
            stop.set()
        await kept
    await access.close()
    await ledger.aclose()
    await outbox.aclose()


if __name__ == "__main__":
    run(main)
