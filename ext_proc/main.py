"""Composition root of an ext_proc worker: ``python -m ext_proc.main``."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar

from ext_proc.background import Background
from ext_proc.cache import policy as cache_policy
from ext_proc.cache.entry import Sealer
from ext_proc.cache.policy_file import load_cache_policy
from ext_proc.cache.redis_store import RedisStore
from ext_proc.effects import Performer
from ext_proc.measures import Measures
from ext_proc.notes import Notes
from ext_proc.phases.admit import Admit
from ext_proc.phases.tap import Tap
from ext_proc.resolver import Resolver
from ext_proc.rules import AdmitRules
from ext_proc.server import ExtProc
from ext_proc.settings import ProcSettings, load_secrets
from ext_proc.settle_spool import SettleSpool
from ext_proc.stream import Machine
from ext_proc.worker_ledger import WorkerLedger
from gateway.budget import policy as budget_policy
from gateway.budget.ledger import BudgetLedger
from gateway.budget.policy import LeasePolicy
from gateway.config.document import PolicyError
from gateway.config.environment import BadSetting, effective, load
from gateway.config.watch import Watched
from gateway.contract.clock import Clock, SystemClock
from gateway.models import catalogue
from gateway.sidecar import wire
from gateway.sidecar.health import HealthBoard
from gateway.sidecar.server import run, serve
from gateway.telemetry import names
from gateway.telemetry.log import logger, set_level
from gateway.telemetry.metrics import child, counter

T = TypeVar("T")
log = logger("ext_proc")
SETTLE_UP_S: Final = 5.0
"""After the drain of streams: what they left behind may take so long. What the ledger does not take is in the
spool by then."""


def _watched(file: Path, read: Callable[[Path], T]) -> Watched[T]:
    reloads = counter(names.POLICY_RELOADS, "Policy files reloaded", ["file", "result"])

    def changed(_: T) -> None:
        reloads.labels(file=file.name, result="ok").inc()
        log.info("policy.reloaded", file=file.name)

    def refused(error: PolicyError) -> None:
        reloads.labels(file=file.name, result="refused").inc()
        log.error("policy.refused", file=file.name, problems=str(error))

    return Watched(lambda: read(file), (file,), on_change=changed, on_refusal=refused)


def _stores(
    settings: ProcSettings, clock: Clock, seal_key: bytes, leases: Callable[[], LeasePolicy]
) -> tuple[WorkerLedger, RedisStore]:
    """Raises BadSetting."""
    if settings.ledger_replicas < 0:
        raise BadSetting(f"TIDEGATE_LEDGER_REPLICAS: must be 0 or more, got {settings.ledger_replicas}")
    try:
        ledger = WorkerLedger(settings.ledger_url, clock, leases, log, replicas=settings.ledger_replicas)
        return ledger, RedisStore.connect(settings.cache_url, Sealer(seal_key), clock)
    except ValueError as error:
        raise BadSetting(f"TIDEGATE_LEDGER_URL, TIDEGATE_CACHE_URL: {error}") from error


def _spool(settings: ProcSettings, ledger: BudgetLedger, clock: Clock) -> SettleSpool:
    spooled = counter(names.SETTLES_SPOOLED, "Settles and voids that the ledger did not take", ["result"])
    resolver = Resolver(ledger, Measures(clock), log)
    return SettleSpool(
        settings.spool, resolver.carry_out, log, count=lambda result: child(spooled, result).inc()
    )


async def main(
    *,
    wrap_ledger: Callable[[BudgetLedger], BudgetLedger] = lambda ledger: ledger,
    wrap_machine: Callable[[Machine[Any]], Machine[Any]] = lambda machine: machine,
) -> None:
    """Serve until SIGTERM or SIGINT. Raises BadSetting, PolicyError.

    The two seams are for drills, which put crash points and planted bugs around the product:
    ``wrap_ledger`` around all that a worker asks of its ledger, ``wrap_machine`` around each machine.
    """
    settings = load(ProcSettings)
    set_level(settings.log_level)
    log.info("proc.start", **effective(settings))
    clock, secrets = SystemClock(), load_secrets(settings.secrets_dir)
    models = _watched(settings.policy_dir / catalogue.FILE, catalogue.load_catalogue)
    budgets = _watched(settings.policy_dir / budget_policy.FILE, budget_policy.load_budget_policy)
    caching = _watched(settings.policy_dir / cache_policy.FILE, load_cache_policy)
    ledgers, cache = _stores(settings, clock, secrets.entry_key(), lambda: budgets.current.leases)
    ledger = wrap_ledger(ledgers.top)
    background = Background(log)
    notes, spool = Notes(ledger, background, log), _spool(settings, ledger, clock)
    performer = Performer(ledger, cache, clock, background=background, notes=notes, log=log, unsettled=spool)

    def admit() -> Machine[Any]:
        rules = AdmitRules(
            catalogue=models.current, budgets=budgets.current, caching=caching.current, secrets=secrets
        )
        return wrap_machine(Admit(rules))

    def tap() -> Machine[Any]:
        return wrap_machine(Tap(keeps_headers=True))

    filters = ExtProc({"admit": admit, "tap": tap}, performer, background, clock)
    async with asyncio.TaskGroup() as tasks:
        running = [
            tasks.create_task(work.run())
            for work in (models, budgets, caching, ledgers, spool, filters.lateness)
        ]
        writing = tasks.create_task(notes.run())
        # No dependency decides over health: without the ledger this worker still answers, with a proper
        # 503, and the tap must see the streams that are under way.
        await serve(settings.listen, {}, {wire.EXT_PROC_PROCESS: filters.process}, HealthBoard(), log=log)
        cut = await background.drain(SETTLE_UP_S)
        if cut:
            log.warning("proc.cut", tasks=cut)
        await notes.close()
        await asyncio.wait((writing,), timeout=SETTLE_UP_S)
        for task in (writing, *running):
            task.cancel()
    await ledgers.leave()
    await spool.close()
    await ledgers.aclose()
    await cache.aclose()


if __name__ == "__main__":
    run(main)
