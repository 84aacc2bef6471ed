"""Settings of an ext_proc worker."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ext_proc.rules import Secrets
from gateway.config.environment import BadSetting, setting

SECRET_BYTES = 32
"""Of pseudonym.key and cache_salt.key, written as hex digits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcSettings:
    """Read from the environment by gateway.config.environment.load."""

    listen: Path = setting("LISTEN", "Unix socket to serve on")
    policy_dir: Path = setting(
        "POLICY_DIR", "directory with budgets.yaml, models.yaml, cache.yaml and auth.yaml"
    )
    secrets_dir: Path = setting("SECRETS_DIR", "directory with pseudonym.key and cache_salt.key")
    ledger_url: str = setting("LEDGER_URL", "ledger Valkey: unix:///path or redis://host:port/0")
    cache_url: str = setting("CACHE_URL", "cache Valkey: unix:///path or redis://host:port/0")
    ledger_replicas: int = setting(
        "LEDGER_REPLICAS", "replicas that must have a settle before it is believed", default=0
    )
    spool_dir: str = setting(
        "SPOOL_DIR",
        "directory for settles the ledger did not take; empty: beside the socket",
        default="",
    )
    recall_socket: str = setting(
        "RECALL_SOCKET", "Unix socket of the recall process; empty: no semantic step", default=""
    )
    region: str = setting("REGION", "name of this region", default="local")
    log_level: str = setting("LOG_LEVEL", "debug, info, warning or error", default="info")

    @property
    def spool(self) -> Path:
        """Where settles are kept; made when it is needed."""
        return Path(self.spool_dir) if self.spool_dir else self.listen.parent / "spool"


def load_secrets(directory: Path) -> Secrets:
    """Both keys. Raises BadSetting for a file that is missing, short or not hex."""
    return Secrets(pseudonym=_key(directory / "pseudonym.key"), cache_salt=_key(directory / "cache_salt.key"))


def _key(file: Path) -> bytes:
    try:
        key = bytes.fromhex(file.read_text(encoding="ascii").strip())
    except (OSError, ValueError) as error:
        raise BadSetting(f"TIDEGATE_SECRETS_DIR: {file.name}: {type(error).__name__}") from error
    if len(key) != SECRET_BYTES:
        raise BadSetting(f"TIDEGATE_SECRETS_DIR: {file.name}: must hold {SECRET_BYTES} bytes as hex digits")
    return key
