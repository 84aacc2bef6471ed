"""Settings of an ext_authz worker."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from gateway.config.environment import setting


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthzSettings:
    """Read from the environment by gateway.config.environment.load."""

    listen: Path = setting("LISTEN", "Unix socket to serve on")
    policy_dir: Path = setting(
        "POLICY_DIR", "directory with budgets.yaml, models.yaml, cache.yaml and auth.yaml"
    )
    secrets_dir: Path = setting("SECRETS_DIR", "directory with jwks.json and api_keys.json")
    region: str = setting("REGION", "name of this region", default="local")
    log_level: str = setting("LOG_LEVEL", "debug, info, warning or error", default="info")
