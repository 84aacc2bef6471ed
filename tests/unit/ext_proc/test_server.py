"""The loop: whatever ends a stream, what it owes is paid; nothing undecided ends well."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from ext_proc.cache.store import CacheUnavailable, Keys, Lookup
from ext_proc.notes import QUEUE_MAX
from ext_proc.phases import tap
from ext_proc.server import Inbox, Undecided, UnknownRole
from ext_proc.vocabulary import Note
from gateway.contract.ids import OrgId
from gateway.sidecar import wire
from tests.unit.ext_proc.engine_answers import DONE, FINISH, WHOLE, event, usage, words
from tests.unit.ext_proc.streams import (
    ACME,
    Filters,
    given,
    request_body,
    request_headers,
    response_body,
    response_headers,
)


@pytest.fixture
def filters() -> Filters:
    return Filters()


async def test_admit_and_tap_in_two_streams(filters: Filters) -> None:
    await filters.hold()
    assert (await filters.ledger.counts())[1] > 0
    replies = await filters.say("tap", response_headers(), response_body(WHOLE, end=True))
    assert [reply.WhichOneof("response") for reply in replies] == ["response_headers", "response_body"]
    assert await filters.ledger.counts() == (18, 0)
    await filters.background.drain(1)
    assert (await filters.cache.get(ACME, Keys(exact="a" * 64))).answer is None


async def test_no_decision_no_clean_end(filters: Filters) -> None:
    for messages in ([], [request_headers()]):
        with pytest.raises(Undecided):
            await filters.say("admit", *messages)
    with pytest.raises(UnknownRole):
        await filters.say("other", request_headers())


async def test_a_peer_that_goes_while_the_ledger_works_holds_nothing(filters: Filters) -> None:
    filters.ledger.go.clear()
    task = asyncio.create_task(filters.say("admit", request_headers(), request_body(temperature=1)))
    await filters.ledger.asked.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    filters.ledger.go.set()
    assert await filters.background.drain(1) == 0
    assert filters.ledger.kinds() == ["hold.granted", "hold.voided"]
    assert await filters.ledger.counts() == (0, 0)


@pytest.mark.parametrize("rounds", range(12))
async def test_a_peer_that_goes_as_the_answer_comes_holds_nothing(filters: Filters, rounds: int) -> None:
    filters.ledger.go.clear()
    told = 0

    async def listen() -> None:
        nonlocal told
        messages = given(request_headers(), request_body(temperature=1))
        async for _ in filters.filters.process({"tidegate-filter": "admit"}, messages):
            told += 1

    task = asyncio.create_task(listen())
    await filters.ledger.asked.wait()
    filters.ledger.go.set()
    for _ in range(rounds):
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait((task,))
    assert await filters.background.drain(1) == 0
    assert filters.ledger.kinds() == (["hold.granted"] if told == 2 else ["hold.granted", "hold.voided"])


async def test_a_settle_outlives_its_stream(filters: Filters) -> None:
    await filters.hold()
    filters.ledger.go.clear()
    filters.ledger.asked.clear()
    task = asyncio.create_task(filters.say("tap", response_headers(), response_body(WHOLE, end=True)))
    await filters.ledger.asked.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    filters.ledger.go.set()
    await filters.background.drain(1)
    assert filters.ledger.kinds() == ["hold.granted", "hold.settled"]
    assert await filters.ledger.counts() == (18, 0)


async def test_a_closed_generator_settles_what_was_seen(filters: Filters) -> None:
    await filters.hold()
    messages = given(response_headers(), response_body(words("a", "b")), response_body(FINISH))
    replies = filters.filters.process({"tidegate-filter": "tap"}, messages)
    await anext(replies)
    await replies.aclose()  # type: ignore[attr-defined]  # an async generator, as the transport knows
    await filters.background.drain(1)
    assert await filters.ledger.counts() == (18, 0)


async def test_a_peer_that_ends_without_the_answers_end_is_a_cut(filters: Filters) -> None:
    await filters.hold()
    await filters.say("tap", response_headers(), response_body(words("a")))
    await filters.background.drain(1)
    assert await filters.ledger.counts() == (16, 0)
    assert filters.ledger.outbox[-1]["d.ended"] == "cut"


async def test_a_settle_is_tried_again_and_the_answer_goes_on(
    filters: Filters, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ext_proc.resolver.RETRY_AFTER_S", (0.0, 0.0, 0.0))
    await filters.hold()
    filters.ledger.broken["settle"] = 3
    replies = await filters.say("tap", response_headers(), response_body(WHOLE, end=True))
    assert len(replies) == 2
    await filters.background.drain(1)
    assert await filters.ledger.counts() == (18, 0)


async def test_a_settle_that_never_works_is_given_up_and_counted(
    filters: Filters, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ext_proc.resolver.RETRY_AFTER_S", (0.0,))
    await filters.hold()
    filters.ledger.broken["settle"] = 99
    await filters.say("tap", response_headers(), response_body(WHOLE, end=True))
    assert await filters.background.drain(1) == 0
    assert (await filters.ledger.counts())[1] > 0, "left to the sweep"


async def test_a_silent_ledger_is_a_503_and_releases_what_it_may_have_held(filters: Filters) -> None:
    filters.ledger.broken["reserve"] = 1
    _, reply = await filters.say("admit", request_headers(), request_body(temperature=1))
    assert reply.immediate_response.status.code == 503
    await filters.background.drain(1)
    assert filters.ledger.kinds() == []


async def answered(filters: Filters) -> None:
    """A question, and the engine's answer through the tap until it is stored."""
    _, first = await filters.say("admit", request_headers(), request_body(stream=True))
    fields = first.dynamic_metadata.fields["tidegate.admit"].struct_value
    opening = wire.ProcessingRequest.FromString(response_headers())
    opening.metadata_context.filter_metadata["tidegate.admit"].CopyFrom(fields)
    await filters.say("tap", opening.SerializeToString(), response_body(WHOLE, end=True))
    await filters.background.drain(1)


async def test_a_hit_is_answered_from_what_the_tap_stored(filters: Filters) -> None:
    await answered(filters)
    _, hit = await filters.say("admit", request_headers({"x-request-id": "r-2"}), request_body())
    assert hit.immediate_response.status.code == 200
    assert b"hello" in hit.immediate_response.body
    assert await filters.ledger.counts() == (18, 0)


async def test_a_broken_cache_is_a_miss(filters: Filters, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(_org: OrgId, _keys: Keys) -> Lookup:
        raise CacheUnavailable("x")

    monkeypatch.setattr(filters.cache, "get", broken)
    _, reply = await filters.say("admit", request_headers(), request_body())
    assert reply.WhichOneof("response") == "request_body"


async def test_the_answer_of_a_late_look_up_is_found_by_the_next(
    filters: Filters, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def late(_org: OrgId, _keys: Keys) -> Lookup:
        raise CacheUnavailable("x")

    with monkeypatch.context() as once:
        once.setattr(filters.cache, "get", late)
        await answered(filters)
    _, hit = await filters.say("admit", request_headers({"x-request-id": "r-2"}), request_body())
    assert b"hello" in hit.immediate_response.body


async def test_an_answer_the_cache_does_not_take_harms_nobody(
    filters: Filters, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_: Any, **__: Any) -> bool:
        raise CacheUnavailable("x")

    await filters.hold()
    monkeypatch.setattr(filters.cache, "put", broken)
    assert len(await filters.say("tap", response_headers(), response_body(WHOLE, end=True))) == 2
    assert await filters.background.drain(1) == 0


async def test_headers_go_on_when_the_first_bytes_are_late(
    filters: Filters, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tap, "OPENING_S", 0.01)
    more = asyncio.Event()

    async def slowly() -> AsyncIterator[bytes]:
        yield response_headers()
        yield response_body(b"data: ")  # a piece of an event must not stop the clock
        await more.wait()
        yield response_body(words("a")[6:] + event(None, usage(14, 2)) + DONE, end=True)

    await filters.hold()
    replies = filters.filters.process({"tidegate-filter": "tap"}, slowly())
    async with asyncio.timeout(5):
        kinds = [wire.ProcessingResponse.FromString(await anext(replies)) for _ in range(2)]
        assert [kind.WhichOneof("response") for kind in kinds] == ["response_headers", "response_body"]
        more.set()
        assert [reply async for reply in replies]
    assert await filters.ledger.counts() == (16, 0)


async def test_a_bounded_wait_loses_no_message() -> None:
    more = asyncio.Event()

    async def slowly() -> AsyncIterator[bytes]:
        yield b"1"
        await more.wait()
        yield b"2"

    inbox = Inbox(slowly())
    assert await inbox.next(1.0) == b"1"
    for _ in range(3):
        with pytest.raises(TimeoutError):
            await inbox.next(0.0)
    more.set()
    assert await inbox.next(None) == b"2"
    assert await inbox.next(None) is None
    inbox.close()


async def test_notes_are_written_behind_the_request_and_never_hold_it_up(filters: Filters) -> None:
    note = Note(org=ACME, kind="cache.hit", context={"request_id": "r"})
    for _ in range(QUEUE_MAX + 5):
        filters.notes.add(note)
    filters.ledger.broken["note"] = 2
    writing = asyncio.create_task(filters.notes.run())
    async with asyncio.timeout(10):
        await filters.notes.close()
        await writing
    assert len(filters.ledger.outbox) == QUEUE_MAX - 2


async def test_background_is_bounded_and_tells_of_failures(
    filters: Filters, capsys: pytest.CaptureFixture[str]
) -> None:
    async def fail() -> None:
        raise KeyError("a prompt")

    async def hang() -> None:
        await asyncio.Event().wait()

    assert filters.background.offer("fail", fail)
    assert filters.background.offer("hang", hang)
    assert not filters.background.offer("more", hang, most=1)
    assert await filters.background.drain(0.01) == 1
    assert len(filters.background) == 0
    assert "background.failed" in capsys.readouterr().out


async def test_an_overdraft_is_logged(filters: Filters, capsys: pytest.CaptureFixture[str]) -> None:
    _, reply = await filters.say("admit", request_headers(), request_body(temperature=1, max_tokens=1))
    assert reply.WhichOneof("response") == "request_body"
    await filters.say(
        "tap", response_headers(), response_body(words("a") + event(None, usage(14, 60)) + DONE)
    )
    await filters.background.drain(1)
    assert "hold.overdraft" in capsys.readouterr().out
