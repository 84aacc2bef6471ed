"""The bookkeeper's loops without gRPC, on segments of a dozen events and without a pause: every kill falls
somewhere between a read and a seal. Run as a module by test_kills.py."""

from __future__ import annotations

import asyncio

from gateway.bookkeeper.access_queue import AccessQueue
from gateway.bookkeeper.access_spool import AccessSpool
from gateway.bookkeeper.heartbeat import Heartbeat
from gateway.bookkeeper.inbox import Inbox
from gateway.bookkeeper.keeping import Keeping
from gateway.bookkeeper.settings import BookkeeperSettings
from gateway.budget.redis_ledger import RedisLedger
from gateway.budget.redis_outbox import RedisOutbox
from gateway.config.environment import load
from gateway.contract.clock import SystemClock
from gateway.contract.ids import RegionName
from gateway.events.segment import Limits
from gateway.telemetry.log import logger


async def main() -> None:
    settings, clock, log = load(BookkeeperSettings), SystemClock(), logger("bookkeeper")
    ledger, outbox = RedisLedger.connect(settings.ledger_url), RedisOutbox.connect(settings.ledger_url)
    region = RegionName(settings.region)
    heartbeat = Heartbeat(ledger, outbox, clock, log, beat_s=0.05)
    keeping = Keeping(
        ledger,
        outbox,
        lambda: heartbeat.orgs,
        AccessQueue(Inbox(), AccessSpool(settings.access_spool, region), clock, log),
        directory=settings.books_dir,
        region=region,
        clock=clock,
        log=log,
        limits=Limits(events=12),
        idle_s=0.0,
    )
    stop = asyncio.Event()
    await asyncio.gather(heartbeat.run(keeping.founded, stop), keeping.run(stop))


if __name__ == "__main__":
    asyncio.run(main())
