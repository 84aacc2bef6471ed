"""An event has one form, and only that form is read."""

from __future__ import annotations

import dataclasses

import orjson
import pytest

from gateway.events.codec import NotAnEvent, decode, encode
from gateway.events.event import TYPES, Event, EventType
from tests.unit.events.written import event


@pytest.mark.parametrize("kind", list(EventType))
def test_round_trip(kind: EventType) -> None:
    full = event(7, kind=kind)
    assert decode(encode(full)) == full
    bare = Event(id="a/1-0", type=kind, at_ms=0, region="local", org="a", request_id="")
    assert decode(encode(bare)) == bare


def test_the_canonical_form_is_pinned() -> None:
    """Hashes of old books depend on it: a change here is a new schema version."""
    plain = dataclasses.replace(event(1), context={"b": "ö", "a": "1"}, accounts=("org|minute|0",))
    assert encode(plain).decode() == (
        '{"accounts":["org|minute|0"],"amounts":{"held":"1000","released":"999","used":"1"},'
        '"at_ms":1800000000001,"attempt":"1","context":{"a":"1","b":"ö"},"hold":"h-1",'
        '"id":"acme/1800000000001-0","org":"acme","policy_version":"3","region":"local",'
        '"request_id":"request-1","type":"hold.settled","v":2,"verdict":"posted"}'
    )


@pytest.mark.parametrize("kind", sorted(TYPES[1]))
def test_version_1_is_still_read_and_keeps_its_form(kind: EventType) -> None:
    old = dataclasses.replace(event(7, kind=kind), version=1)
    assert b'"v":1,' in encode(old)
    assert decode(encode(old)) == old


def test_version_1_has_not_the_newer_types() -> None:
    with pytest.raises(NotAnEvent, match="type"):
        encode(dataclasses.replace(event(1, kind=EventType.LEASE_GRANTED), version=1))


@pytest.mark.parametrize("amount", ["1.0", "1e3", "007", "", "-0", "+1", " 1", "1" * 20])
def test_amounts_are_whole_numbers_in_one_form(amount: str) -> None:
    with pytest.raises(NotAnEvent, match="amounts"):
        encode(dataclasses.replace(event(1), amounts={"used": amount}))


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"v": 3}, "v:"),
        ({"v": 0}, "v:"),
        ({"v": 1, "type": "lease.granted"}, "type: not in version 1"),
        ({"v": True}, "v:"),
        ({"type": "hold.stolen"}, "type"),
        ({"type": None}, "type"),
        ({"at_ms": 1.0}, "at_ms"),
        ({"at_ms": True}, "at_ms"),
        ({"org": 5}, "org"),
        ({"accounts": "org"}, "accounts"),
        ({"accounts": [1]}, "accounts"),
        ({"amounts": {"used": 1}}, "amounts"),
        ({"amounts": {"used": "1.5"}}, "amounts"),
        ({"context": ["a"]}, "context"),
        ({"surprise": "x"}, "surprise"),
        ({"hold": ""}, "canonical"),
        ({"context": {}}, "canonical"),
    ],
)
def test_what_is_no_event_is_refused(changes: dict[str, object], what: str) -> None:
    fields = {**orjson.loads(encode(event(1))), **changes}
    with pytest.raises(NotAnEvent, match=what):
        decode(orjson.dumps(fields, option=orjson.OPT_SORT_KEYS))


@pytest.mark.parametrize("data", [b"", b"[]", b"null", b"{", b"\xff"])
def test_what_is_no_object_is_refused(data: bytes) -> None:
    with pytest.raises(NotAnEvent):
        decode(data)


def test_another_spelling_of_the_same_event_is_refused() -> None:
    data = encode(event(1))
    for spelling in (data + b" ", data.replace(b",", b", ", 1), data.replace("ö".encode(), b"\\u00f6")):
        with pytest.raises(NotAnEvent, match="canonical"):
            decode(spelling)
    with pytest.raises(NotAnEvent, match="canonical"):  # a doubled key, of which parsers keep the last
        decode(data.replace(b"{", b'{"id":"other",', 1))


def test_text_without_utf8_is_refused() -> None:
    with pytest.raises(NotAnEvent):
        encode(dataclasses.replace(event(1), reason="\ud800"))
