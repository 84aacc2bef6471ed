"""CheckRequest bytes to what we look at; a Decision to CheckResponse bytes.

An empty CheckResponse is an allow to Envoy, so each decision is written out: status *and* ok_response
or denied_response. "Unavailable" is a denied_response with 503, not an RPC error: the client gets a body,
and no failure_mode_allow could turn it into an allow.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from ext_authz.decision import Allow, Decision, Deny, Unavailable, challenge
from gateway.contract.headers import PRINCIPAL_KEY
from gateway.contract.principal import Principal
from gateway.openai.error_body import error_body, error_headers
from gateway.sidecar import wire

_OK, _UNAVAILABLE, _UNAUTHENTICATED = 0, 14, 16
"""google.rpc.Code."""
ALLOWS_KEPT: Final = 4096
"""Encoded allows by Principal; about 500 bytes each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckFacts:
    """What ext_authz looks at. It does not look at the path: every request needs a credential."""

    authorizations: tuple[str, ...]
    """Every Authorization header's value, in order."""


def read_check(request: bytes) -> CheckFacts:
    """Facts of a CheckRequest. Raises wire.DecodeError."""
    http = wire.CheckRequest.FromString(request).attributes.request.http
    if http.header_map.headers:  # encode_raw_headers: each header on its own
        values = tuple(
            header.raw_value.decode("latin-1") or header.value
            for header in http.header_map.headers
            if header.key.lower() == "authorization"
        )
    else:  # one text for each name; Envoy has joined repeated ones with a comma
        values = tuple(value for name, value in http.headers.items() if name.lower() == "authorization")
    return CheckFacts(authorizations=values)


@lru_cache(maxsize=ALLOWS_KEPT)
def _allowed(principal: Principal) -> bytes:
    metadata = wire.Struct()
    metadata.update({PRINCIPAL_KEY: principal.to_fields()})
    response = wire.CheckResponse(
        status=wire.Status(code=_OK), ok_response=wire.OkHttpResponse(), dynamic_metadata=metadata
    )
    return bytes(response.SerializeToString())


def _denied(rpc_code: int, http_status: int, headers: Mapping[str, str], body: bytes) -> bytes:
    options = [
        wire.HeaderValueOption(
            header=wire.HeaderValue(key=name, value=value), append_action=wire.OVERWRITE_IF_EXISTS_OR_ADD
        )
        for name, value in headers.items()
    ]
    response = wire.CheckResponse(
        status=wire.Status(code=rpc_code),
        denied_response=wire.DeniedHttpResponse(
            status=wire.HttpStatus(code=http_status), headers=options, body=body.decode("utf-8")
        ),
    )
    return bytes(response.SerializeToString())


def write_decision(decision: Decision) -> bytes:
    """The CheckResponse that says ``decision``."""
    match decision:
        case Allow(principal=principal):
            return _allowed(principal)
        case Deny(error=error):
            headers = {**error_headers(error), "www-authenticate": challenge(error.code)}
            return _denied(_UNAUTHENTICATED, error.http_status, headers, error_body(error))
        case Unavailable(error=outage):
            return _denied(_UNAVAILABLE, outage.http_status, error_headers(outage), error_body(outage))
