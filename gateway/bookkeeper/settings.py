"""Settings of the bookkeeper."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from gateway.config.environment import setting


@dataclass(frozen=True, slots=True, kw_only=True)
class BookkeeperSettings:
    """Read from the environment by gateway.config.environment.load."""

    listen: Path = setting("LISTEN", "Unix socket to serve on")
    ledger_url: str = setting("LEDGER_URL", "ledger Valkey: unix:///path or redis://host:port/0")
    books_dir: Path = setting("BOOKS_DIR", "directory of the event segments; one writer")
    region: str = setting("REGION", "name of this region", default="local")
    log_level: str = setting("LOG_LEVEL", "debug, info, warning or error", default="info")
    policy_dir: Path = setting(
        "POLICY_DIR", "directory with budgets.yaml, models.yaml and auth.yaml", default=Path()
    )
    """Not read: the bookkeeper judges by what stands in the ledger. Known because one environment serves
    all processes of a region."""
    secrets_dir: Path = setting("SECRETS_DIR", "directory of the keys", default=Path())
    """Not read either: books must not depend on a key."""
