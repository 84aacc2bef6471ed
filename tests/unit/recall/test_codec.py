"""Words survive the way through the socket; anything else is refused by name, never by value."""

from __future__ import annotations

from dataclasses import replace

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ext_proc.cache.policy import Profile
from ext_proc.cache.question import Level
from ext_proc.cache.store import Lineage
from ext_proc.recall import codec
from ext_proc.recall.words import (
    SERVED_BYTES_MAX,
    TEXT_BYTES_MAX,
    Ask,
    Candidate,
    Forget,
    RecallUnavailable,
    Remember,
    Reply,
    Served,
)
from gateway.contract.ids import ModelName, OrgId
from gateway.contract.units import UnixMillis

ORG, KEY = OrgId("acme"), "0a" * 32
ASK = Ask(
    org=ORG,
    model=ModelName("chat"),
    partition=KEY,
    asked=KEY,
    text="Wie spät? 🕐\n",
    profile=Profile.VERIFIED,
    keep_s=60,
    rule="r",
    slo=0.005,
    judge_per_minute=3,
)
REMEMBER = Remember(
    org=ORG,
    partition=KEY,
    entry=KEY,
    expires_at=UnixMillis(5),
    lineage=Lineage(request_id="r", model="m", tags=("a", "b"), admitted_at=UnixMillis(4)),
)
FORGET = Forget(org=ORG, entry=KEY)
SERVED = Served(
    org=ORG, model=ModelName("chat"), bucket="b", asked=KEY, entry=KEY, request=b"{\xff", answer=b"\x00"
)
REPLY = Reply(
    candidates=(Candidate(entry=KEY, similarity=0.91, level=Level.WORDS, bucket="b"),),
    reason="found",
    steps=("0.910 words found",),
)


def test_words_come_back() -> None:
    assert codec.ask_of(codec.ask_to_bytes(ASK)) == ASK
    assert codec.remember_of(codec.remember_to_bytes(REMEMBER)) == REMEMBER
    assert codec.forget_of(codec.forget_to_bytes(FORGET)) == FORGET
    assert codec.served_of(codec.served_to_bytes(SERVED)) == SERVED
    assert codec.reply_of(codec.reply_to_bytes(REPLY)) == REPLY
    with pytest.raises(RecallUnavailable, match="late"):
        codec.reply_of(codec.reply_to_bytes(RecallUnavailable("late")))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("v", 2),
        ("org", "Acme"),
        ("org", "a:b"),
        ("asked", "xyz"),
        ("partition", KEY.upper()),
        ("text", "t" * (TEXT_BYTES_MAX + 1)),
        ("text", None),
        ("profile", "loose"),
        ("keep_s", -1),
        ("keep_s", True),
        ("slo", 2),
        ("model", "m" * 300),
    ],
)
def test_what_is_no_ask_is_refused(field: str, value: object) -> None:
    data = orjson.dumps({**orjson.loads(codec.ask_to_bytes(ASK)), field: value})
    with pytest.raises(codec.BadMessage) as refused:
        codec.ask_of(data)
    assert str(value) not in str(refused.value) or len(str(value)) < 5


def test_what_is_too_large_or_no_text_is_not_sent() -> None:
    with pytest.raises(codec.BadMessage, match="large"):
        codec.served_to_bytes(replace(SERVED, answer=b"x" * (SERVED_BYTES_MAX + 1)))
    with pytest.raises(codec.BadMessage, match="Unicode"):
        codec.ask_to_bytes(replace(ASK, text="\ud800"))
    largest = replace(SERVED, request=b"x" * SERVED_BYTES_MAX, answer=b"x" * SERVED_BYTES_MAX)
    assert codec.served_of(codec.served_to_bytes(largest)) == largest
    with pytest.raises(codec.BadMessage, match="large"):
        codec.forget_of(b" " * (codec.BYTES_MAX + 1))


@given(
    st.binary(max_size=200)
    | st.recursive(st.none() | st.integers() | st.text(), st.lists).map(repr).map(str.encode)
)
@settings(max_examples=60)
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    for read in (codec.ask_of, codec.remember_of, codec.forget_of, codec.served_of, codec.reply_of):
        with pytest.raises(codec.BadMessage):
            read(data)


@given(st.data())
@settings(max_examples=60)
def test_any_field_of_another_kind_is_read_or_refused(data: st.DataObject) -> None:
    sent = data.draw(
        st.sampled_from(
            [
                (codec.ask_of, codec.ask_to_bytes(ASK)),
                (codec.remember_of, codec.remember_to_bytes(REMEMBER)),
                (codec.reply_of, codec.reply_to_bytes(REPLY)),
                (codec.served_of, codec.served_to_bytes(SERVED)),
            ]
        )
    )
    fields = orjson.loads(sent[1])
    name = data.draw(st.sampled_from(sorted(fields)))
    odd: st.SearchStrategy[object] = (
        st.none()
        | st.booleans()
        | st.integers(-5, 2**53)
        | st.floats()
        | st.text()
        | st.just({})
        | st.just([1])
    )
    fields[name] = data.draw(odd)
    try:
        sent[0](orjson.dumps(fields))
    except codec.BadMessage as refused:
        assert len(str(refused)) < 30
