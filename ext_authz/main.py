"""Composition root of an ext_authz worker: ``python -m ext_authz.main``."""

from __future__ import annotations

import asyncio
from pathlib import Path

from ext_authz.check import Checker
from ext_authz.keys.sources import Sources
from ext_authz.policy import FILE, AuthPolicy, load_auth_policy
from ext_authz.settings import AuthzSettings
from gateway.config.document import PolicyError
from gateway.config.environment import effective, load
from gateway.config.watch import Watched
from gateway.contract.clock import SystemClock
from gateway.sidecar import wire
from gateway.sidecar.health import HealthBoard
from gateway.sidecar.server import run, serve
from gateway.telemetry import names
from gateway.telemetry.log import logger, set_level
from gateway.telemetry.metrics import counter

log = logger("ext_authz")


def _watched_policy(file: Path, sources: Sources) -> Watched[AuthPolicy]:
    reloads = counter(names.POLICY_RELOADS, "Policy files reloaded", ["file", "result"])

    def changed(policy: AuthPolicy) -> None:
        reloads.labels(file=FILE, result="ok").inc()
        sources.follow(policy)
        log.info("policy.reloaded", file=FILE)

    def refused(error: PolicyError) -> None:
        reloads.labels(file=FILE, result="refused").inc()
        log.error("policy.refused", file=FILE, problems=str(error))

    return Watched(lambda: load_auth_policy(file), (file,), on_change=changed, on_refusal=refused)


async def main() -> None:
    """Serve until SIGTERM or SIGINT. Raises BadSetting, PolicyError."""
    settings = load(AuthzSettings)
    set_level(settings.log_level)
    log.info("authz.start", **effective(settings))
    clock = SystemClock()
    async with asyncio.TaskGroup() as tasks:
        sources = Sources(tasks, settings.secrets_dir, clock)
        policy = _watched_policy(settings.policy_dir / FILE, sources)
        sources.follow(policy.current)
        watching = tasks.create_task(policy.run())
        checker = Checker(lambda: policy.current, sources, clock)
        # No dependency decides over health: without keys this worker still answers, with a proper 503.
        await serve(settings.listen, {wire.AUTH_CHECK: checker.check}, {}, HealthBoard(), log=log)
        watching.cancel()
        sources.close()


if __name__ == "__main__":
    run(main)
