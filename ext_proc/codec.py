"""Envoy's ProcessingRequest to an event, a reply to ProcessingResponse. The only file here that knows
protobuf."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any, Final

from ext_proc.stream import OutOfOrder
from ext_proc.vocabulary import (
    Continue,
    Event,
    Fields,
    Headers,
    Phase,
    Reply,
    ReplyNow,
    RequestBodyArrived,
    RequestHeadersArrived,
    ResponseBodyArrived,
    ResponseHeadersArrived,
    TakeTime,
)
from gateway.contract.headers import NS_ADMIT, NS_PRINCIPAL
from gateway.contract.units import UnixMillis
from gateway.sidecar import wire

UPSTREAM_ADDRESS: Final = "upstream.address"
"""Envoy's attribute: ``address:port`` of the endpoint that an attempt went to."""
_FILTER: Final = "envoy.filters.http.ext_proc"
"""Under this name Envoy sends the attributes, whatever the filter is called."""


def read_message(message: bytes, *, at_ms: UnixMillis, at_s: float) -> Event:
    """The event that ``message`` tells of. Raises wire.DecodeError, and OutOfOrder for a phase that the
    filter is not configured to send."""
    request = wire.ProcessingRequest.FromString(message)
    match request.WhichOneof("request"):
        case "request_headers":
            fields = request.request_headers.headers.headers
            return RequestHeadersArrived(
                headers=_headers(request.request_headers.headers),
                header_count=len(fields),
                header_bytes=sum(len(field.key) + len(field.raw_value) for field in fields),
                principal=_namespace(request, NS_PRINCIPAL),
                end_of_stream=request.request_headers.end_of_stream,
                at_ms=at_ms,
                at_s=at_s,
            )
        case "request_body":
            return RequestBodyArrived(body=request.request_body.body, at_ms=at_ms, at_s=at_s)
        case "response_headers":
            return ResponseHeadersArrived(
                headers=_headers(request.response_headers.headers),
                record=_namespace(request, NS_ADMIT),
                end_of_stream=request.response_headers.end_of_stream,
                at_ms=at_ms,
                at_s=at_s,
                upstream=_attribute(request, UPSTREAM_ADDRESS),
            )
        case "response_body":
            body = request.response_body
            return ResponseBodyArrived(body=body.body, end_of_stream=body.end_of_stream, at_s=at_s)
        case other:
            raise OutOfOrder(f"a message of kind {other}")


def _headers(header_map: Any) -> Headers:
    """Names are lower-case already. Bytes beyond ASCII cannot mean anything to us; latin-1 keeps them."""
    found: dict[str, str] = {}
    for header in header_map.headers:
        value = header.raw_value.decode("latin-1") or header.value
        found[header.key] = f"{found[header.key]},{value}" if header.key in found else value
    return found


def _namespace(request: Any, name: str) -> Fields | None:
    namespaces = request.metadata_context.filter_metadata
    return _plain_fields(namespaces[name]) if name in namespaces else None


def _attribute(request: Any, name: str) -> str:
    """One of response_attributes (mesh/base/engines.yaml); empty where Envoy knows none."""
    attributes = request.attributes
    return str(attributes[_FILTER].fields[name].string_value) if _FILTER in attributes else ""


def _plain_fields(struct: Any) -> dict[str, object]:
    return {name: _plain(value) for name, value in struct.fields.items()}


def _plain(value: Any) -> object:
    text = value.string_value
    if text:  # nearly always; what follows tells the empty text from the other kinds
        return text
    match value.WhichOneof("kind"):
        case "string_value":
            return str(value.string_value)
        case "struct_value":
            return _plain_fields(value.struct_value)
        case "list_value":
            return [_plain(item) for item in value.list_value.values]
        case "number_value":
            return float(value.number_value)
        case "bool_value":
            return bool(value.bool_value)
        case _:
            return None


def write_reply(reply: Reply) -> bytes:
    """The message that says ``reply``."""
    if isinstance(reply, Continue) and reply == Continue(phase=reply.phase):
        return _unchanged(reply.phase)
    return _written(reply)


@cache
def _unchanged(phase: Phase) -> bytes:
    """Most replies are this one."""
    return _written(Continue(phase=phase))


def _written(reply: Reply) -> bytes:
    # Every message is filled where it stands: one given to a constructor would be copied, body and all.
    response = wire.ProcessingResponse()
    if isinstance(reply, TakeTime):
        # Envoy reads nothing else of such a message (ext_proc API, override_message_timeout).
        response.override_message_timeout.FromMilliseconds(int(reply.at_most * 1000))
        return bytes(response.SerializeToString())
    if isinstance(reply, ReplyNow):
        now = response.immediate_response
        now.status.code = reply.status
        now.body = reply.body
        now.details = reply.details
        _set_headers(now.headers, reply.headers)
    else:
        _continue(response, reply)
    for namespace, texts in reply.metadata.items():
        written = response.dynamic_metadata.fields[namespace].struct_value.fields
        for name, text in texts.items():
            written[name].string_value = text
    return bytes(response.SerializeToString())


def _continue(response: Any, reply: Continue) -> None:
    common = getattr(response, reply.phase.value).response
    common.SetInParent()  # also where nothing is changed
    common.clear_route_cache = reply.clear_route_cache
    if reply.set_headers or reply.remove_headers:
        _set_headers(common.header_mutation, reply.set_headers)
        common.header_mutation.remove_headers.extend(reply.remove_headers)
    if reply.body:
        common.body_mutation.body = reply.body
    elif reply.body is not None:
        common.body_mutation.clear_body = True


def _set_headers(mutation: Any, headers: Mapping[str, str]) -> None:
    for name, value in headers.items():
        option = mutation.set_headers.add(append_action=wire.OVERWRITE_IF_EXISTS_OR_ADD)
        option.header.key = name
        option.header.raw_value = value.encode()
