"""The projection follows the books, heals itself, and never takes anything down with it."""

from __future__ import annotations

import asyncio
import fcntl
from collections.abc import Callable
from pathlib import Path

import pytest

from gateway.bookkeeper.archive import archive
from gateway.bookkeeper.object_store import ObjectStore
from gateway.bookkeeper.projecting import Projecting
from gateway.bookkeeper.projection import DIRECTORY, LOCK, Projection, ProjectionBusy, usage_rows
from gateway.contract.clock import ManualClock
from gateway.contract.units import TOKENS_MAX, UnixMillis
from gateway.events.books import open_books
from gateway.events.event import Event, EventType
from gateway.events.segment import segments_of
from gateway.telemetry.log import logger
from tests.unit.bookkeeper.logged import LOCAL, written


def requests(books: Path) -> int:
    rows = usage_rows(books, org=None, by=[], since_ms=0, until_ms=TOKENS_MAX, where={})
    return sum(row.sums.requests for row in rows)


async def test_a_damaged_table_is_made_anew_and_damaged_books_leave_it_alone(tmp_path: Path) -> None:
    await written(tmp_path)
    stop, projecting = asyncio.Event(), Projecting(Projection(tmp_path, LOCAL), logger("test"))
    await projecting.turn(stop)
    before = requests(tmp_path)
    assert before > 0
    for path in (tmp_path / DIRECTORY).rglob("*"):
        if path.is_file():
            path.write_bytes(b"no table")
    anew = Projecting(Projection(tmp_path, LOCAL), logger("test"))
    await anew.turn(stop)
    await anew.turn(stop)
    assert requests(tmp_path) == before
    last = segments_of(tmp_path)[-1][1]
    with last.open("ab") as file:
        file.write(b"{}\n")
    await projecting.turn(stop)
    await Projecting(Projection(tmp_path, LOCAL), logger("test")).turn(stop)
    assert requests(tmp_path) == before


def grow(books: Path, name: str) -> None:
    writer = open_books(books, LOCAL, None, clock=ManualClock())
    writer.append(
        [Event(id=name, type=EventType.HOLD_SETTLED, at_ms=1, region="local", org="acme", request_id="r")]
    )
    writer.close()


async def test_bookkeepers_that_overlap_project_each_record_once(tmp_path: Path) -> None:
    await written(tmp_path)
    ending, next_one = Projection(tmp_path, LOCAL), Projection(tmp_path, LOCAL)
    ending.advance()
    next_one.advance()
    before = requests(tmp_path)
    for count, name in enumerate(("acme/901-0", "acme/902-0"), start=1):
        grow(tmp_path, name)
        ending.advance()
        next_one.advance()
        assert requests(tmp_path) == before + count
    next_one.rebuild()
    ending.advance()
    assert requests(tmp_path) == before + 2
    with (tmp_path / LOCK).open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(ProjectionBusy):
            ending.advance()


async def test_a_disk_that_was_full_costs_no_row_of_removed_segments(tmp_path: Path) -> None:
    class FullOnce(Projection):
        full = False

        def _write(self, rows: list[dict[str, object]]) -> int:
            if self.full:
                self.full = False
                raise RuntimeError("lance error: LanceError(IO): No space left on device (os error 28)")
            return super()._write(rows)

    books, stop = tmp_path / "books", asyncio.Event()
    await written(books)
    projection = FullOnce(books, LOCAL)
    projecting = Projecting(projection, logger("test"))
    await projecting.turn(stop)
    before = requests(books)
    store = ObjectStore((tmp_path / "kept").as_uri())
    assert archive(books, LOCAL, store, now=UnixMillis(2_000_000_000_000), keep_days=1).removed > 0
    grow(books, "acme/901-0")
    projection.full = True
    for _ in range(3):
        await projecting.turn(stop)
    assert not projection.full and requests(books) == before + 1


async def test_it_runs_until_it_is_told_to_stop(tmp_path: Path) -> None:
    await written(tmp_path)
    stop, loop = asyncio.Event(), asyncio.get_running_loop()

    class OneTurn(Projection):
        def advance(self, stopped: Callable[[], bool] = lambda: False) -> int:
            rows = super().advance(stopped)
            loop.call_soon_threadsafe(stop.set)
            return rows

    await Projecting(OneTurn(tmp_path, LOCAL), logger("test"), every_s=0.001).run(stop)
    assert requests(tmp_path) > 0
