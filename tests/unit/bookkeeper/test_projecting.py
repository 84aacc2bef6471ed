"""The projection follows the books, heals itself, and never takes anything down with it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

from gateway.bookkeeper.projecting import Projecting
from gateway.bookkeeper.projection import DIRECTORY, Projection, usage_rows
from gateway.contract.units import TOKENS_MAX
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
