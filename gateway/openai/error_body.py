"""GatewayError to OpenAI's error body."""

from __future__ import annotations

import orjson

from gateway.contract.errors import GatewayError


def error_body(error: GatewayError) -> bytes:
    """``{"error": {"message", "type", "param", "code"}}`` as UTF-8 JSON (OpenAI, "Error codes")."""
    return orjson.dumps(
        {"error": {"message": error.message, "type": error.type, "param": error.param, "code": error.code}}
    )


def error_headers(error: GatewayError) -> dict[str, str]:
    """Content type, the machine-readable reason and Retry-After (whole seconds, at least 1)."""
    headers = {"content-type": "application/json", "x-tidegate-refusal": error.code}
    if error.retry_after_s is not None:
        headers["retry-after"] = str(max(1, error.retry_after_s))
    return headers
