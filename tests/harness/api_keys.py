"""API keys of a running gateway, made as the command line makes them."""

from __future__ import annotations

import httpx
from openai import OpenAI

from gateway.contract.ids import KeyId, OrgId, TeamId, Tier, UserId
from gateway.contract.principal import Principal
from gateway.contract.units import UnixMillis
from gateway.keys.key_file import create_api_key
from tests.harness.gateway import Gateway, until

ASKED_TIMES = 6
"""Enough requests to meet every worker of ext_authz."""


def key_for(
    gateway: Gateway,
    org: str,
    *,
    key: str | None = None,
    models: tuple[str, ...] = ("*",),
    tier: str = "standard",
    expires_ms: UnixMillis | None = None,
) -> str:
    """A new key; every worker has read it when this returns (an expired one is told as such)."""
    principal = Principal(
        org=OrgId(org),
        team=TeamId("t"),
        user=UserId("u"),
        key=KeyId(key or f"k-{org}"),
        tier=Tier(tier),
        models=models,
    )
    secret = create_api_key(gateway.state / "secrets" / "api_keys.json", principal, expires_ms=expires_ms)
    wanted = "200" if expires_ms is None else "api_key_expired"

    def known() -> bool:
        headers = {"authorization": f"Bearer {secret}"}
        answers = [httpx.get(f"{gateway.base_url}/models", headers=headers) for _ in range(ASKED_TIMES)]
        told = {one.headers.get("x-tidegate-refusal", str(one.status_code)) for one in answers}
        return told == {wanted}

    until(known, "the new key works on every worker")
    return secret


def sdk(gateway: Gateway, key: str) -> OpenAI:
    """The official client, which does not try again by itself."""
    return OpenAI(base_url=gateway.base_url, api_key=key, max_retries=0)
