"""Composition root of the recall process: ``python -m ext_proc.recall.main``."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from ext_proc.cache import policy as cache_policy
from ext_proc.cache.entry import Sealer
from ext_proc.cache.policy import CachePolicy, Profile
from ext_proc.cache.policy_file import load_cache_policy
from ext_proc.cache.redis_store import RedisStore
from ext_proc.recall.opening import check, opened
from ext_proc.recall.service import Service
from ext_proc.recall.settings import CheckSettings, RecallSettings
from ext_proc.recall.standby import Standby
from ext_proc.recall.words import Recall
from ext_proc.rules import Secrets
from ext_proc.settings import load_secrets
from gateway.config.document import PolicyError
from gateway.config.environment import BadSetting, effective, load
from gateway.config.watch import Watched
from gateway.contract.clock import Clock, SystemClock
from gateway.sidecar.health import HealthBoard
from gateway.sidecar.server import run, serve
from gateway.telemetry import names
from gateway.telemetry.log import logger, set_level
from gateway.telemetry.metrics import counter

log = logger("recall")


def wants_similar(policy: CachePolicy) -> bool:
    """Whether any rule has a use for this process."""
    return any(rule.profile is not Profile.OFF for _, rule in policy.rules)


def _watched(settings: RecallSettings, standby: Standby) -> Watched[CachePolicy]:
    file = settings.policy_dir / cache_policy.FILE
    reloads = counter(names.POLICY_RELOADS, "Policy files reloaded", ["file", "result"])

    def changed(policy: CachePolicy) -> None:
        reloads.labels(file=file.name, result="ok").inc()
        if wants_similar(policy):
            standby.want()

    def refused(error: PolicyError) -> None:
        reloads.labels(file=file.name, result="refused").inc()
        log.error("policy.refused", file=file.name, problems=str(error))

    return Watched(lambda: load_cache_policy(file), (file,), on_change=changed, on_refusal=refused)


def _check_settings(settings: RecallSettings) -> CheckSettings | None:
    """None where nothing is checked. Raises BadSetting where half of what checks need is given."""
    needed = {
        "GATEWAY_URL": settings.gateway_url,
        "OPERATOR_KEY_FILE": settings.operator_key_file,
        "CHECKS_DIR": settings.checks_dir,
        "LEDGER_URL": settings.ledger_url,
    }
    missing = [name for name, value in needed.items() if not value]
    if len(missing) == len(needed):
        return None
    if missing:
        raise BadSetting(f"TIDEGATE_{missing[0]}: is required where hits are checked")
    return CheckSettings(
        gateway_url=settings.gateway_url,
        key_file=Path(settings.operator_key_file),
        state_dir=Path(settings.checks_dir),
        judge_model=settings.judge_model,
    )


@asynccontextmanager
async def _recall(
    settings: RecallSettings, secrets: Secrets, store: RedisStore, clock: Clock
) -> AsyncIterator[Recall]:
    checked = _check_settings(settings)
    if checked is None:
        async with opened(settings, secrets, store, None, clock, log) as recall:
            yield recall
        return
    from ext_proc.recall.checks import open_checks
    from ext_proc.recall.telling import open_telling

    async with (
        open_telling(settings.ledger_url, clock, log) as tell,
        open_checks(checked, store, clock, log, tell) as checks,
        opened(settings, secrets, store, checks, clock, log) as recall,
    ):
        yield recall


async def main() -> None:
    """Serve until SIGTERM or SIGINT, then write what waits. Raises BadSetting, PolicyError."""
    settings = load(RecallSettings)
    set_level(settings.log_level)
    check(settings)
    log.info("recall.start", **effective(settings))
    clock, secrets = SystemClock(), load_secrets(settings.secrets_dir)
    try:
        store = RedisStore.connect(settings.cache_url, Sealer(secrets.entry_key()), clock)
    except ValueError as error:
        raise BadSetting(f"TIDEGATE_CACHE_URL: {error}") from error
    if _check_settings(settings) is None:
        log.warning("recall.unchecked", mend="TIDEGATE_GATEWAY_URL")
    standby = Standby(lambda: _recall(settings, secrets, store, clock), log)
    policy = _watched(settings, standby)
    if wants_similar(policy.current):
        standby.want()
    async with asyncio.TaskGroup() as tasks:
        running = [tasks.create_task(work.run()) for work in (policy, store, standby)]
        # Whether it is ready decides nothing over health: the gateway answers without it.
        await serve(settings.listen, Service(standby, clock).handlers(), {}, HealthBoard(), log=log)
        for task in running:
            task.cancel()
    await store.aclose()


if __name__ == "__main__":
    run(main)
