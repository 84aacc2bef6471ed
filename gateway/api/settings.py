"""Settings of the API process."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from gateway.config.environment import setting


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiSettings:
    """Read from the environment by gateway.config.environment.load."""

    listen: Path = setting("LISTEN", "Unix socket to serve on")
    policy_dir: Path = setting(
        "POLICY_DIR", "directory with budgets.yaml, models.yaml, cache.yaml and auth.yaml"
    )
    secrets_dir: Path = setting("SECRETS_DIR", "directory with pseudonym.key")
    books_dir: Path = setting("BOOKS_DIR", "directory of the bookkeeper's books, to report usage from")
    ledger_url: str = setting("LEDGER_URL", "ledger Valkey: unix:///path or redis://host:port/0")
    region: str = setting("REGION", "name of this region", default="local")
    log_level: str = setting("LOG_LEVEL", "debug, info, warning or error", default="info")
