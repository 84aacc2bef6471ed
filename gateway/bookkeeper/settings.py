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
