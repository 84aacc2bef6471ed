"""Envoy's messages to events, replies to Envoy's messages."""

from __future__ import annotations

from typing import Any

import pytest

from ext_proc.codec import read_message, write_reply
from ext_proc.stream import OutOfOrder
from ext_proc.vocabulary import (
    Continue,
    Phase,
    Reply,
    ReplyNow,
    RequestBodyArrived,
    RequestHeadersArrived,
    ResponseBodyArrived,
    ResponseHeadersArrived,
    TakeTime,
)
from gateway.contract.units import Seconds
from gateway.sidecar import wire
from tests.unit.ext_proc.asked import NOW, PRINCIPAL
from tests.unit.ext_proc.tapped import record


def read(**fields: Any) -> Any:
    return read_message(wire.ProcessingRequest(**fields).SerializeToString(), at_ms=NOW, at_s=1.0)


def header_map(*pairs: tuple[str, bytes]) -> Any:
    return wire.HeaderMap(headers=[wire.HeaderValue(key=name, raw_value=value) for name, value in pairs])


def metadata(**namespaces: dict[str, Any]) -> Any:
    found = wire.Metadata()
    for name, fields in namespaces.items():
        found.filter_metadata[name.replace("__", ".")].update(fields)
    return found


def written(reply: Reply) -> Any:
    return wire.ProcessingResponse.FromString(write_reply(reply))


def test_request_headers() -> None:
    event = read(
        request_headers=wire.HttpHeaders(
            headers=header_map((":path", b"/v1"), ("a", b"1"), ("a", b"2"), ("b", b"\xff")),
            end_of_stream=True,
        ),
        metadata_context=metadata(
            envoy__filters__http__ext_authz={"principal": PRINCIPAL, "n": 1, "x": None}
        ),
    )
    assert isinstance(event, RequestHeadersArrived)
    assert (event.header_count, event.header_bytes) == (4, len(":path/v1a1a2bx"))
    assert event.headers == {":path": "/v1", "a": "1,2", "b": "\xff"}
    assert event.principal == {"principal": PRINCIPAL, "n": 1.0, "x": None}
    assert event.end_of_stream
    assert (event.at_ms, event.at_s) == (NOW, 1.0)
    bare = read(request_headers=wire.HttpHeaders())
    assert (bare.principal, bare.end_of_stream) == (None, False)


def test_bodies_and_response_headers() -> None:
    assert read(request_body=wire.HttpBody(body=b"x")) == RequestBodyArrived(body=b"x", at_ms=NOW, at_s=1.0)
    event = read(
        response_headers=wire.HttpHeaders(headers=header_map((":status", b"200"))),
        metadata_context=metadata(tidegate__admit=record().to_fields()),
    )
    assert isinstance(event, ResponseHeadersArrived)
    assert event.record == record().to_fields()
    assert read(response_body=wire.HttpBody(body=b"y", end_of_stream=True)) == ResponseBodyArrived(
        body=b"y", end_of_stream=True, at_s=1.0
    )


def test_what_the_filter_is_not_configured_to_send_is_out_of_order() -> None:
    for fields in ({}, {"request_trailers": wire.HttpTrailers()}, {"response_trailers": wire.HttpTrailers()}):
        with pytest.raises(OutOfOrder):
            read(**fields)
    with pytest.raises(wire.DecodeError):
        read_message(b"\xff\xff", at_ms=NOW, at_s=1.0)


@pytest.mark.parametrize("phase", list(Phase))
def test_a_reply_answers_its_phase(phase: Phase) -> None:
    found = written(Continue(phase=phase))
    assert found.WhichOneof("response") == phase.value
    assert not getattr(found, phase.value).response.HasField("header_mutation")
    assert not getattr(found, phase.value).response.HasField("body_mutation")


def test_a_deciding_reply() -> None:
    reply = Continue(
        phase=Phase.REQUEST_BODY,
        set_headers={"x-tidegate-pool": "sglang"},
        remove_headers=("authorization",),
        body=b"{}",
        clear_route_cache=True,
        metadata={"tidegate.admit": record().to_fields()},
    )
    found = written(reply)
    common = found.request_body.response
    option = common.header_mutation.set_headers[0]
    assert (option.header.key, option.header.raw_value, option.header.value) == (
        "x-tidegate-pool",
        b"sglang",
        "",
    )
    assert option.append_action == wire.OVERWRITE_IF_EXISTS_OR_ADD
    assert list(common.header_mutation.remove_headers) == ["authorization"]
    assert common.body_mutation.body == b"{}"
    assert common.clear_route_cache
    struct = found.dynamic_metadata.fields["tidegate.admit"].struct_value
    assert {name: value.string_value for name, value in struct.fields.items()} == record().to_fields()


def test_a_request_for_time_says_nothing_else() -> None:
    response = written(TakeTime(at_most=Seconds(5.25)))
    assert response.override_message_timeout.ToMilliseconds() == 5250
    assert [field.name for field, _ in response.ListFields()] == ["override_message_timeout"]


def test_an_emptied_body_is_said_to_be_empty() -> None:
    assert written(
        Continue(phase=Phase.RESPONSE_BODY, body=b"")
    ).response_body.response.body_mutation.clear_body


def test_an_immediate_reply() -> None:
    found = written(
        ReplyNow(
            status=429, headers={"retry-after": "1"}, body=b"{}", details="tidegate_x", metadata={"n": {}}
        )
    )
    assert found.immediate_response.status.code == 429
    assert found.immediate_response.headers.set_headers[0].header.raw_value == b"1"
    assert (found.immediate_response.body, found.immediate_response.details) == (b"{}", "tidegate_x")
    assert "n" in found.dynamic_metadata.fields
