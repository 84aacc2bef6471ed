"""Composition root of an ext_proc worker: ``python -m ext_proc.main``."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

from ext_proc.background import Background
from ext_proc.cache.entry import Sealer
from ext_proc.cache.redis_store import RedisStore
from ext_proc.effects import Performer
from ext_proc.notes import Notes
from ext_proc.phases.admit import Admit
from ext_proc.phases.tap import Tap
from ext_proc.rules import AdmitRules
from ext_proc.server import ExtProc
from ext_proc.settings import ProcSettings, load_secrets
from gateway.budget import policy as budget_policy
from gateway.budget.redis_ledger import RedisLedger
from gateway.config.document import PolicyError
from gateway.config.environment import BadSetting, effective, load
from gateway.config.watch import Watched
from gateway.contract.clock import SystemClock
from gateway.models import catalogue
from gateway.sidecar import wire
from gateway.sidecar.health import HealthBoard
from gateway.sidecar.server import run, serve
from gateway.telemetry import names
from gateway.telemetry.log import logger, set_level
from gateway.telemetry.metrics import counter

T = TypeVar("T")
log = logger("ext_proc")
SETTLE_UP_S: Final = 5.0
"""After the drain of streams: what they left behind may take so long (effects.RETRY_AFTER_S is longer;
a hold that is not settled by then expires in full)."""


def _watched(file: Path, read: Callable[[Path], T]) -> Watched[T]:
    reloads = counter(names.POLICY_RELOADS, "Policy files reloaded", ["file", "result"])

    def changed(_: T) -> None:
        reloads.labels(file=file.name, result="ok").inc()
        log.info("policy.reloaded", file=file.name)

    def refused(error: PolicyError) -> None:
        reloads.labels(file=file.name, result="refused").inc()
        log.error("policy.refused", file=file.name, problems=str(error))

    return Watched(lambda: read(file), (file,), on_change=changed, on_refusal=refused)


def _stores(settings: ProcSettings, seal_key: bytes) -> tuple[RedisLedger, RedisStore]:
    """Raises BadSetting."""
    try:
        return RedisLedger.connect(settings.ledger_url), RedisStore.connect(
            settings.cache_url, Sealer(seal_key)
        )
    except ValueError as error:
        raise BadSetting(f"TIDEGATE_LEDGER_URL, TIDEGATE_CACHE_URL: {error}") from error


async def main() -> None:
    """Serve until SIGTERM or SIGINT. Raises BadSetting, PolicyError."""
    settings = load(ProcSettings)
    set_level(settings.log_level)
    log.info("proc.start", **effective(settings))
    clock, secrets = SystemClock(), load_secrets(settings.secrets_dir)
    models = _watched(settings.policy_dir / catalogue.FILE, catalogue.load_catalogue)
    budgets = _watched(settings.policy_dir / budget_policy.FILE, budget_policy.load_budget_policy)
    ledger, cache = _stores(settings, secrets.entry_key())
    background = Background(log)
    notes = Notes(ledger, background, log)
    performer = Performer(ledger, cache, clock, background=background, notes=notes, log=log)

    def admit() -> Admit:
        return Admit(AdmitRules(catalogue=models.current, budgets=budgets.current, secrets=secrets))

    filters = ExtProc({"admit": admit, "tap": lambda: Tap(keeps_headers=True)}, performer, background, clock)
    async with asyncio.TaskGroup() as tasks:
        watching = [tasks.create_task(models.run()), tasks.create_task(budgets.run())]
        writing = tasks.create_task(notes.run())
        # No dependency decides over health: without the ledger this worker still answers, with a proper
        # 503, and the tap must see the streams that are under way.
        await serve(settings.listen, {}, {wire.EXT_PROC_PROCESS: filters.process}, HealthBoard(), log=log)
        for task in watching:
            task.cancel()
        cut = await background.drain(SETTLE_UP_S)
        if cut:
            log.warning("proc.cut", tasks=cut)
        await notes.close()
        await asyncio.wait((writing,), timeout=SETTLE_UP_S)
        writing.cancel()
    await ledger.aclose()
    await cache.aclose()


if __name__ == "__main__":
    run(main)
