"""First step of admit: from the request's headers, what kind of request this is. Exact spelling only:
whatever is not a metered endpoint goes to gateway/api, which knows the other paths or answers 404; no
spelling reaches a pod unmetered."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Final

from ext_proc.vocabulary import Continue, Fields, Headers
from gateway.contract import headers as names
from gateway.contract.errors import (
    HeadersTooLarge,
    IdentityUnavailable,
    InvalidRequest,
    MethodNotAllowed,
    Unavailable,
    UnsupportedMediaType,
)
from gateway.contract.ids import RequestId
from gateway.contract.principal import NotAPrincipal, Principal
from gateway.openai.terms import Endpoint, endpoint_of

ALLOWED_METHOD: Final = "POST"
DESCRIBING_METHOD: Final = "OPTIONS"
"""Answered by gateway/api for every URL (RFC 9110 section 9.3.7)."""
HEADERS_MAX: Final = 56
HEADERS_BYTES_MAX: Final = 14 * 1024
"""Of a request as it comes here. Envoy allows 64 and 16 KiB (mesh/base/hardening.yaml) and fails what our own
bring beyond that: they are at most 8, the principal's the longest."""
_TOLD_MAX: Final = 48
"""What clients are told: proxies and Envoy itself add theirs on the way here."""
ENGINE_MAY_SEE: Final = frozenset(
    {
        *("host", "content-type", "content-length", "transfer-encoding"),
        *("x-request-id", "traceparent", "tracestate", "x-forwarded-proto"),
    }
)
"""Headers of a client's request that go on to an engine. Whatever else clients send, from credentials to
what their SDKs tell of themselves, is of no use there; an Origin would even be answered."""
_ENVOYS_OWN: Final = "x-envoy-"
_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_./:-]{0,159}\Z")
"""What may stand as a hold's id in the ledger."""


def refuse_crowded(*, count: int, size_bytes: int) -> None:
    """Raises HeadersTooLarge where ours would not fit beside the client's."""
    if count > HEADERS_MAX or size_bytes > HEADERS_BYTES_MAX:
        raise HeadersTooLarge(
            f"The request has too many or too large headers; send at most {_TOLD_MAX} of "
            f"{HEADERS_BYTES_MAX // 1024} KiB in all."
        )


def request_id_of(headers: Headers) -> RequestId:
    """Envoy's x-request-id. Raises Unavailable: without one a hold would have no name."""
    value = headers.get(names.REQUEST_ID, "")
    if not _REQUEST_ID.match(value):
        raise Unavailable("The gateway could not name this request.", code="admission_unavailable")
    return RequestId(value)


def principal_from(fields: Fields | None) -> Principal:
    """Who calls, as ext_authz wrote it. Raises IdentityUnavailable: nothing is ever allowed to nobody."""
    try:
        value = (fields or {}).get(names.PRINCIPAL_KEY)
        if not isinstance(value, dict):
            raise NotAPrincipal("no principal in the metadata")
        return Principal.from_fields(value)
    except NotAPrincipal as error:
        raise IdentityUnavailable(
            "The gateway could not tell who is calling; try again.", retry_after_s=1
        ) from error


def endpoint_asked(headers: Headers, *, end_of_stream: bool) -> Endpoint | None:
    """The metered endpoint, None for gateway/api; the query string does not count, as for OpenAI.

    Raises MethodNotAllowed, UnsupportedMediaType and, for a request without a body, InvalidRequest.
    """
    path = headers.get(":path", "").partition("?")[0]
    endpoint = endpoint_of(path)
    method = headers.get(":method", "")
    if endpoint is None or method == DESCRIBING_METHOD:
        return None
    if method != ALLOWED_METHOD:
        raise MethodNotAllowed(f"{path} takes {ALLOWED_METHOD} only.")
    if end_of_stream:
        raise InvalidRequest("The body is empty; send a JSON object.", code="invalid_json")
    _check_media_type(headers)
    return endpoint


def hidden_from_engines(headers: Headers) -> tuple[str, ...]:
    """The names of ``headers`` that stay behind. Envoy's own (x-envoy-) are its to set."""
    return tuple(
        name for name in headers if name not in ENGINE_MAY_SEE and not name.startswith((":", _ENVOYS_OWN))
    )


def toward_engine(reply: Continue, endpoint: Endpoint, hidden: tuple[str, ...]) -> Continue:
    """``reply`` with the endpoint's bare path and without the ``hidden`` headers that it does not set."""
    return replace(
        reply,
        set_headers={":path": endpoint.path, **reply.set_headers},
        remove_headers=tuple(sorted({*reply.remove_headers, *hidden}.difference(reply.set_headers))),
    )


def _check_media_type(headers: Headers) -> None:
    kind, _, parameters = headers.get("content-type", "").partition(";")
    if kind.strip().lower() != "application/json":
        raise UnsupportedMediaType("Send the body as JSON, with the header Content-Type: application/json.")
    for parameter in parameters.split(";"):
        name, _, value = parameter.strip().partition("=")
        if name.lower() == "charset" and value.strip('"').lower() not in ("utf-8", "utf8"):
            raise UnsupportedMediaType("JSON is UTF-8; send no other charset.")
    coding = headers.get("content-encoding", "identity").strip().lower()
    if coding not in ("", "identity"):
        # Never inflated: a bomb of a few kilobytes would become gigabytes here.
        raise UnsupportedMediaType("Send the body without a Content-Encoding.")
