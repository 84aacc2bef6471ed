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
    ledger_replicas: int = setting(
        "LEDGER_REPLICAS", "replicas that must have a settle before it is believed", default=0
    )
    books_dir: Path = setting("BOOKS_DIR", "directory of the event segments; one writer")
    access_spool_dir: str = setting(
        "ACCESS_SPOOL_DIR",
        "directory, on another disk, for access entries the books do not take; empty: beside the socket",
        default="",
    )
    region: str = setting("REGION", "name of this region", default="local")
    log_level: str = setting("LOG_LEVEL", "debug, info, warning or error", default="info")

    @property
    def access_spool(self) -> Path:
        """Where access entries are kept meanwhile; made when it is needed."""
        return Path(self.access_spool_dir) if self.access_spool_dir else self.listen.parent / "spool/access"
