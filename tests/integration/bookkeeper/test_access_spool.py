"""The books' disk is away and the bookkeeper is killed: every access entry is in the books once they are
back, once, and what it means for its hold was done long before."""

from __future__ import annotations

from typing import Any

from gateway.bookkeeper import verify
from gateway.bookkeeper.access_spool import LOCK, line_of
from gateway.contract.ids import HoldId, RequestId
from gateway.events.event import EventType
from gateway.events.segment import segments_of
from gateway.sidecar import wire
from gateway.sidecar.client import channel
from tests.harness.valkey import StoreProcess
from tests.integration.bookkeeper.process import ORG, Bookkeeper, until, want
from tests.unit.bookkeeper.entries import access, logged, message, record

ENTRIES = 40


def _entry(number: int, **changes: Any) -> Any:
    name = f"r-{number}"
    return logged(
        admitted=record(hold=HoldId(name), request_id=RequestId(name), org=ORG), request_id=name, **changes
    )


async def test_a_kill_while_the_books_are_away_loses_no_access_entry(
    bookkeeper: Bookkeeper, store: StoreProcess
) -> None:
    spool, books = bookkeeper.socket.parent / "spool" / "access", bookkeeper.books

    async def spooled() -> bool:
        return sum(path.read_bytes().count(b"\n") for path in spool.glob("0*")) == ENTRIES

    async def voided() -> bool:
        return (await bookkeeper.standing()).held == 0

    async def emptied() -> bool:
        return [path.name for path in spool.iterdir()] == [LOCK]

    store.write_first()
    bookkeeper.start()
    await bookkeeper.serves()
    before = len(await bookkeeper.has(await _noted(bookkeeper)))
    await bookkeeper.ledger.reserve(want("r-7"))
    await bookkeeper.has(before + 1)
    bookkeeper.files_at_most(segments_of(books)[0][1].stat().st_size + 100)
    store.kill()
    async with channel(bookkeeper.socket) as opened:
        call = opened.stream_unary(wire.STREAM_ACCESS_LOGS)()
        for number in range(ENTRIES):
            await call.write(message(_entry(number, code=503 if number == 7 else 200)))
        await until(spooled, "all entries on the other disk")
    assert bookkeeper.said().count("books.failing") == 1
    bookkeeper.kill()
    store.start()
    assert (await bookkeeper.standing()).held == 100, "the void died with the bookkeeper"

    books.rename(books.with_name("elsewhere"))
    books.touch()
    bookkeeper.start()
    await until(voided, "the hold is released while the books are still away")
    bookkeeper.kill()

    books.unlink()
    books.with_name("elsewhere").rename(books)
    bookkeeper.start()
    await bookkeeper.serves()
    await until(emptied, "the spool is empty")
    found = [event.request_id for event in bookkeeper.events() if event.type is EventType.ACCESS]
    assert found == [f"r-{number}" for number in range(ENTRIES)]
    assert bookkeeper.stop() == 0
    assert await bookkeeper.verified() == verify.CLEAN


async def _noted(bookkeeper: Bookkeeper) -> int:
    """Make the segment longer than the spool of all entries, and than the log; how many events that took."""
    count = 2 * ENTRIES * len(line_of(access(0))) // 4000
    for number in range(count):
        await bookkeeper.ledger.note(ORG, "cache.hit", {"request_id": f"n-{number}", "model": "m" * 4000})
    return count
