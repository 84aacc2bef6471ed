"""Calls to engines: told once, in time, to nobody else, and every failure only counted."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from prometheus_client import REGISTRY

from gateway.bookkeeper import aborting as module
from gateway.bookkeeper.aborting import LATE_S, QUEUE_MAX, Aborting
from gateway.bookkeeper.access import Abort
from gateway.contract.clock import ManualClock
from gateway.events.event import Event, EventType
from tests.harness.listening import listening

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"


class Engine:
    """Keeps what it is sent; answers ``answer``, or nothing at all if that is empty."""

    def __init__(self, answer: bytes) -> None:
        self.answer, self.asked, self.port = answer, list[bytes](), 0
        self.heard = asyncio.Event()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(
            int(line.split(b":")[1])
            for line in head.split(b"\r\n")
            if line.lower().startswith(b"content-length")
        )
        self.asked.append(head.split(b"\r\n")[0] + b" " + await reader.readexactly(length))
        self.heard.set()
        if self.answer:
            writer.write(self.answer)
        else:
            await reader.read()  # until the caller gives up
        writer.close()
        await writer.wait_closed()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"


@asynccontextmanager
async def engine(answer: bytes = OK) -> AsyncIterator[Engine]:
    made = Engine(answer)
    async with listening(made.serve) as made.port:
        yield made


def counted(metric: str, **labels: str) -> Callable[[], float]:
    """How much ``metric`` has grown since now."""
    before = REGISTRY.get_sample_value(metric, labels) or 0.0
    return lambda: (REGISTRY.get_sample_value(metric, labels) or 0.0) - before


async def told(aborting: Aborting) -> None:
    """Run until the queue is empty."""
    stop = asyncio.Event()
    running = asyncio.create_task(aborting.run(stop))
    await asyncio.wait_for(aborting._queue.join(), 10)
    stop.set()
    await asyncio.wait_for(running, 10)


async def test_an_engine_is_told_the_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:9")
    ok = counted("tidegate_engine_aborts_total", result="told")
    async with engine() as one, engine() as other:
        aborting = Aborting(ManualClock())
        aborting.offer(Abort(engine=one.address, rids=("r-1",)))
        aborting.offer(Abort(engine=other.address, rids=("r-2_0", "r-2_1")))
        await told(aborting)
        assert one.asked == [b'POST /abort_request HTTP/1.1 {"rid":"r-1"}']
        assert other.asked == [
            b'POST /abort_request HTTP/1.1 {"rid":"r-2_0"}',
            b'POST /abort_request HTTP/1.1 {"rid":"r-2_1"}',
        ]
    assert ok() == 3


def settled(number: str, **detail: str) -> Event:
    told = {"ended": "limit", "choices": "1", **detail}
    return Event(
        id=f"acme/{number}",
        type=EventType.HOLD_SETTLED,
        at_ms=1,
        region="local",
        org="acme",
        request_id=f"r-{number}",
        context={"endpoint": "chat.completions", **{f"detail.{name}": text for name, text in told.items()}},
    )


async def test_an_engine_past_its_limit_is_told_once() -> None:
    async with engine() as asked:
        aborting = Aborting(ManualClock())
        events = [settled("1", upstream=asked.address), settled("2", upstream=asked.address, ended="cut")]
        aborting.notice(events)
        aborting.notice([*events, settled("3", upstream=asked.address)])
        await told(aborting)
        assert asked.asked == [f'POST /abort_request HTTP/1.1 {{"rid":"r-{n}"}}'.encode() for n in (1, 3)]


async def test_a_refusal_is_counted_and_a_redirect_not_followed() -> None:
    refused = counted("tidegate_engine_aborts_total", result="refused")
    open_ = counted("tidegate_fail_open_total", hop="abort")
    async with engine() as innocent:
        redirect = f"HTTP/1.1 307 X\r\nlocation: http://{innocent.address}/\r\ncontent-length: 0\r\n\r\n"
        for answer in (redirect.encode(), b"HTTP/1.1 401 X\r\ncontent-length: 0\r\n\r\n"):
            async with engine(answer) as asked:
                aborting = Aborting(ManualClock())
                aborting.offer(Abort(engine=asked.address, rids=("a", "b")))
                await told(aborting)
                assert len(asked.asked) == 1, "not asked again, nor for its other ids"
        assert innocent.asked == []
    assert (refused(), open_()) == (2, 2)


@pytest.mark.parametrize("answer", [b"", b"no http\r\n\r\n", b"HTTP/1.1 200 OK\r\ncontent-le"])
async def test_an_engine_that_does_not_answer_holds_nobody_up(
    monkeypatch: pytest.MonkeyPatch, answer: bytes
) -> None:
    monkeypatch.setattr(module, "DEADLINE_S", 0.2)
    unreachable = counted("tidegate_engine_aborts_total", result="unreachable")
    async with engine(answer) as silent, engine() as other:
        aborting = Aborting(ManualClock())
        aborting.offer(Abort(engine=silent.address, rids=("a", "b")))
        aborting.offer(Abort(engine=other.address, rids=("c",)))
        await told(aborting)
        assert (len(silent.asked), len(other.asked)) == (1, 1)
    assert unreachable() == 1


async def test_an_engine_that_is_gone_is_counted() -> None:
    unreachable = counted("tidegate_engine_aborts_total", result="unreachable")
    async with engine() as gone:
        address = gone.address
    aborting = Aborting(ManualClock())
    aborting.offer(Abort(engine=address, rids=("a",)))
    await told(aborting)
    assert unreachable() == 1


async def test_what_waited_too_long_is_not_told() -> None:
    late = counted("tidegate_engine_aborts_total", result="late")
    clock = ManualClock()
    async with engine() as one:
        aborting = Aborting(clock)
        aborting.offer(Abort(engine=one.address, rids=("old",)))
        clock.advance_ms(int(LATE_S * 1000) + 1)
        aborting.offer(Abort(engine=one.address, rids=("new",)))
        await told(aborting)
        assert one.asked == [b'POST /abort_request HTTP/1.1 {"rid":"new"}']
    assert late() == 1


async def test_the_queue_is_bounded() -> None:
    dropped = counted("tidegate_effects_dropped_total", effect="abort")
    aborting = Aborting(ManualClock())
    offered = [aborting.offer(Abort(engine="127.0.0.1:9", rids=("a",))) for _ in range(QUEUE_MAX + 3)]
    assert offered.count(False) == 3 and dropped() == 3


async def test_a_stop_does_not_wait_for_a_silent_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "DEADLINE_S", 0.2)
    monkeypatch.setattr(module, "WORKERS", 1)
    async with engine(b"") as silent:
        aborting, stop = Aborting(ManualClock()), asyncio.Event()
        for _ in range(50):
            aborting.offer(Abort(engine=silent.address, rids=("a",)))
        running = asyncio.create_task(aborting.run(stop))
        await asyncio.wait_for(silent.heard.wait(), 10)
        stop.set()
        await asyncio.wait_for(running, 10)
        assert len(silent.asked) < 50
