"""Composition root of the API process: ``python -m gateway.api.main``."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from pathlib import Path

import uvicorn

from gateway.api.application import Application
from gateway.api.settings import ApiSettings
from gateway.api.state import ApiState
from gateway.budget.policy import BudgetPolicy, load_budget_policy
from gateway.budget.redis_ledger import RedisLedger
from gateway.config.document import PolicyError
from gateway.config.environment import BadSetting, effective, load, variable
from gateway.config.watch import Watched
from gateway.contract.clock import SystemClock
from gateway.keys.pseudonym import FILE as PSEUDONYM_FILE
from gateway.keys.pseudonym import key_from
from gateway.models.catalogue import Catalogue, load_catalogue
from gateway.telemetry import names
from gateway.telemetry.log import logger, set_level
from gateway.telemetry.metrics import counter

log = logger("api")


def _watched_policies(policy_dir: Path) -> tuple[Watched[Catalogue], Watched[BudgetPolicy]]:
    reloads = counter(names.POLICY_RELOADS, "Policy files reloaded", ["file", "result"])

    def refused(file: str, error: PolicyError) -> None:
        reloads.labels(file=file, result="refused").inc()
        log.error("policy.refused", file=file, problems=str(error))

    models_file, budgets_file = policy_dir / "models.yaml", policy_dir / "budgets.yaml"
    return (
        Watched(
            lambda: load_catalogue(models_file),
            (models_file,),
            on_refusal=lambda error: refused("models.yaml", error),
        ),
        Watched(
            lambda: load_budget_policy(budgets_file),
            (budgets_file,),
            on_refusal=lambda error: refused("budgets.yaml", error),
        ),
    )


def _pseudonym_key(secrets_dir: Path) -> bytes:
    """Raises BadSetting."""
    try:
        return key_from((secrets_dir / PSEUDONYM_FILE).read_bytes())
    except OSError as error:
        raise BadSetting(f"TIDEGATE_SECRETS_DIR: {PSEUDONYM_FILE}: {type(error).__name__}") from error


async def serve(settings: ApiSettings) -> None:
    """Serve until SIGTERM or SIGINT. Raises PolicyError when a policy file is bad at start."""
    catalogue, budgets = _watched_policies(settings.policy_dir)
    ledger = RedisLedger.connect(settings.ledger_url)
    app = Application(
        ApiState(
            catalogue=catalogue,
            budgets=budgets,
            ledger=ledger,
            metrics_dir=variable("PROMETHEUS_MULTIPROC_DIR"),
            books_dir=settings.books_dir,
            pseudonym_key=_pseudonym_key(settings.secrets_dir),
            clock=SystemClock(),
        )
    )
    server = uvicorn.Server(
        uvicorn.Config(
            app,
            uds=str(settings.listen),
            log_level="warning",
            access_log=False,
            server_header=False,
            date_header=False,
        )
    )
    log.info("api.start", **effective(settings))
    watchers = [asyncio.create_task(catalogue.run()), asyncio.create_task(budgets.run())]
    try:
        await server.serve()
    finally:
        for watcher in watchers:
            watcher.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await watcher


def main() -> int:
    """Exit code 0 after a clean stop, 2 for a bad setting or policy."""
    try:
        settings = load(ApiSettings)
        set_level(settings.log_level)
        asyncio.run(serve(settings))
    except (BadSetting, PolicyError, ValueError) as error:
        log.error("api.refused_to_start", error=error)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
