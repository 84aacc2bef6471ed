"""API keys of a running gateway, made as the command line makes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import grpc
from openai import OpenAI

from gateway.contract import headers
from gateway.contract.ids import KeyId, OrgId, TeamId, Tier, UserId
from gateway.contract.principal import Principal
from gateway.contract.units import UnixMillis
from gateway.keys.key_file import create_api_key
from gateway.sidecar import wire
from tests.harness.gateway import UNTIL_S, Gateway, until
from tests.harness.patience import SdkClient

KNOWN = "known"


def verdicts(gateway: Gateway, secret: str) -> set[str]:
    """What the workers of ext_authz say of the key: KNOWN, or a refusal's code. Each is asked on its own
    socket: through Envoy it is chance who answers, and several answers may be one worker's."""
    return {_verdict(socket, secret) for socket in (gateway.state / "run").glob("ext-authz-*.sock")}


def _verdict(socket: Path, secret: str) -> str:
    request = wire.CheckRequest()
    bearer = f"Bearer {secret}".encode()
    request.attributes.request.http.header_map.headers.add(key="authorization", raw_value=bearer)
    channel: Any = grpc.insecure_channel(f"unix:{socket}", options=[("grpc.enable_http_proxy", 0)])
    with channel:
        ask = channel.unary_unary(wire.AUTH_CHECK)
        raw = ask(request.SerializeToString(), timeout=UNTIL_S, wait_for_ready=True)
    reply = wire.CheckResponse.FromString(raw)
    if reply.WhichOneof("http_response") == "ok_response":
        return KNOWN
    told = {str(one.header.key): str(one.header.value) for one in reply.denied_response.headers}
    return told[headers.REFUSAL]


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
    wanted = KNOWN if expires_ms is None else "api_key_expired"
    until(lambda: verdicts(gateway, secret) == {wanted}, "the new key works on every worker")
    return secret


def sdk(gateway: Gateway, key: str) -> OpenAI:
    """The official client, which does not try again by itself, but where the machine was busy."""
    return OpenAI(base_url=gateway.base_url, api_key=key, max_retries=0, http_client=SdkClient())
