"""First step of admit: from the request's headers, what kind of request this is. Exact spelling only:
whatever is not a metered endpoint goes to gateway/api, which knows the other paths or answers 404; no
spelling reaches a pod unmetered."""

from __future__ import annotations

import re
from typing import Final

from ext_proc.vocabulary import Fields, Headers
from gateway.contract import headers as names
from gateway.contract.errors import (
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
_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_./:-]{0,159}\Z")
"""What may stand as a hold's id in the ledger."""


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
    """The metered endpoint, None for gateway/api. Raises MethodNotAllowed, UnsupportedMediaType and, for
    a request without a body, InvalidRequest."""
    path = headers.get(":path", "").partition("?")[0]
    endpoint = endpoint_of(path)
    if endpoint is None:
        return None
    method = headers.get(":method", "")
    if method != ALLOWED_METHOD:
        raise MethodNotAllowed(f"{path} takes {ALLOWED_METHOD} only.")
    if end_of_stream:
        raise InvalidRequest("The body is empty; send a JSON object.", code="invalid_json")
    _check_media_type(headers)
    return endpoint


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
