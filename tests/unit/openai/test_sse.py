"""The SSE parser: lossless, indifferent to cuts, bounded."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.openai.sse import EVENT_BYTES_MAX, KEEP_ALIVE, SseEvent, SseParser

STREAM = (
    ": keep-alive\n\n"
    'data: {"text":"größe 漢字 🎈"}\n\n'
    "event: message\r\nid: 7\r\ndata: one\r\ndata:two\r\n\r\n"
    "data: cr\r\rdata\n\n"
    "\n\r\n"
    "retry: 10\n\n"
    "data: [DONE]\n\n"
    "data: unfinished"
).encode()


def events_of(stream: bytes, cuts: list[int]) -> list[SseEvent]:
    parser = SseParser()
    events = []
    places = [0, *sorted(cuts), len(stream)]
    for start, end in itertools.pairwise(places):
        events += parser.feed(stream[start:end])
    return events + parser.flush()


def test_fields() -> None:
    events = events_of(STREAM, [])
    assert [event.data for event in events if event.data is not None] == [
        '{"text":"größe 漢字 🎈"}'.encode(),
        b"one\ntwo",
        b"cr",
        b"",
        b"[DONE]",
    ]
    assert b"".join(event.raw for event in events) == STREAM
    assert [event.whole for event in events] == [True] * (len(events) - 1) + [False]


def test_cut_at_every_byte() -> None:
    whole = events_of(STREAM, [])
    for cut in range(len(STREAM) + 1):
        assert events_of(STREAM, [cut]) == whole
    assert events_of(STREAM, list(range(len(STREAM)))) == whole


PIECES = st.sampled_from(
    [
        b"\r",
        b"\n",
        b"\r\n",
        b"data",
        b":",
        b" ",
        b"data: x",
        b"data: z\n\n",
        b"\xef\xbb\xbf",
        b"\xf0\x9f",
        b"y",
    ]
)


@given(st.lists(PIECES, max_size=30).map(b"".join), st.data())
@example(b"data: x\r\n\r\n\n\r", None)
@example(b"\r\r\n\r\n", None)
def test_any_cut_gives_the_same_events(stream: bytes, data: st.DataObject | None) -> None:
    whole = events_of(stream, [])
    assert b"".join(event.raw for event in whole) == stream
    assert events_of(stream, list(range(len(stream)))) == whole
    if data is not None:
        cuts = data.draw(st.lists(st.integers(0, len(stream)), max_size=8))
        assert events_of(stream, cuts) == whole


@given(st.lists(st.binary(max_size=40), max_size=10))
def test_junk_never_raises_and_is_not_lost(chunks: list[bytes]) -> None:
    parser = SseParser()
    raw = b"".join(event.raw for chunk in chunks for event in parser.feed(chunk))
    pending = parser.pending
    rest = parser.flush()
    assert b"".join(event.raw for event in rest) == pending
    assert raw + pending == b"".join(chunks)
    assert parser.pending == b""


def test_an_event_waits_for_its_end() -> None:
    parser = SseParser()
    assert parser.feed(b"data: a\n") == []
    assert parser.pending == b"data: a\n"
    assert [event.data for event in parser.feed(b"\ndata: b\r\n\r")] == [b"a"]
    assert [event.data for event in parser.feed(b"\n")] == [b"b"]


@pytest.mark.parametrize("step", [1000, 65_536, 10 * EVENT_BYTES_MAX])
def test_oversized_events_pass_through_unread(step: int) -> None:
    huge = b"data: " + b"x" * (EVENT_BYTES_MAX + 5000) + b"\r\n\r\n"
    stream = b"data: before\n\n" + huge + b"data: after\n\n"
    parser = SseParser()
    events: list[SseEvent] = []
    for start in range(0, len(stream), step):
        events += parser.feed(stream[start : start + step])
        assert len(parser.pending) <= EVENT_BYTES_MAX + step
    events += parser.flush()
    assert b"".join(event.raw for event in events) == stream
    assert [event.data for event in events if not event.oversized] == [b"before", b"after"]
    assert b"".join(event.raw for event in events if event.oversized) == huge


def test_an_endless_event_is_flagged_to_the_end() -> None:
    parser = SseParser()
    events = parser.feed(b"x" * (2 * EVENT_BYTES_MAX)) + parser.flush()
    assert all(event.oversized for event in events)
    assert parser.feed(b"data: next\n\n")[0].data == b"next"


@pytest.mark.parametrize(
    ("raw", "comment"),
    [
        (b": ping\n\n", KEEP_ALIVE),
        (b": /a/path\r\n:\xff\r\nretry: 5\r\n\r\n", KEEP_ALIVE),
        (b"event: x\n\n", b""),
        (b"\n", b""),
    ],
)
def test_only_comments_are_left_of_an_event_without_data(raw: bytes, comment: bytes) -> None:
    event = SseParser().feed(raw)[0]
    assert event.data is None
    assert event.comment == comment


def test_the_last_event_needs_no_blank_line() -> None:
    parser = SseParser()
    assert parser.feed(b"data: [DONE]") == []
    assert [event.data for event in parser.flush()] == [b"[DONE]"]
    parser.feed(b"data: [DON")
    assert [event.data for event in parser.flush()] == [None]
