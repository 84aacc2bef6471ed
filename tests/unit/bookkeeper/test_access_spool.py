"""What one file of the spool holds, whatever was done to it; and how much all of them hold."""

from __future__ import annotations

import dataclasses
import errno
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from gateway.bookkeeper.access_spool import (
    FILE_BYTES_MAX,
    AccessSpool,
    SpoolLocked,
    event_in,
    line_of,
)
from gateway.contract.ids import RegionName
from gateway.events.codec import NotAnEvent
from gateway.events.event import Event
from tests.unit.bookkeeper.entries import access
from tests.unit.events.written import event

LOCAL = RegionName("local")
LINE = len(line_of(access(0)))


class Bench:
    """Spools of one directory, one after the other."""

    def __init__(self, directory: Path) -> None:
        self.directory, self.counted = directory, Counter[str]()
        self.spool = self.opened()

    def opened(self, **more: int) -> AccessSpool:
        def count(result: str, entries: int) -> None:
            self.counted[result] += entries

        spool = AccessSpool(self.directory, LOCAL, count=count, **more)
        spool.open()
        return spool

    def again(self, **more: int) -> None:
        """Another process takes over."""
        self.spool.close()
        self.spool = self.opened(**more)

    def add(self, events: Sequence[Event]) -> None:
        while events:
            events = events[self.spool.add(events) :]

    def drained(self) -> list[str]:
        """Request ids of all that it holds, in order, file by file."""
        found: list[str] = []
        while self.spool.waiting:
            left = self.spool.oldest()
            assert left is not None
            found += [one.request_id for one in left.events]
            self.spool.delivered(left)
        return found

    def files(self) -> list[Path]:
        return sorted(self.directory.glob("0*"))


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path / "deep" / "spool")
    yield made
    made.spool.close()


def ids(*numbers: int) -> list[str]:
    return [f"r-{number}" for number in numbers]


def test_nothing_is_made_before_it_is_needed(bench: Bench) -> None:
    assert not bench.spool.waiting and not bench.directory.exists()
    assert bench.spool.oldest() is None


def test_what_is_added_comes_back_in_order_also_to_the_next_process(bench: Bench) -> None:
    bench.again(file_events=4)
    bench.add([access(n) for n in range(3)])
    bench.add([access(n) for n in range(3, 9)])
    bench.again(file_events=4)
    assert len(bench.spool.found()) == 3 and not bench.spool.found()
    bench.add([access(9)])
    assert bench.drained() == ids(*range(10))
    assert bench.files() == [] and bench.counted == {"kept": 10, "delivered": 10, "unreadable": 0}
    assert bench.directory.stat().st_mode & 0o777 == 0o700


def test_a_file_that_is_being_read_does_not_grow(bench: Bench) -> None:
    bench.add([access(0)])
    left = bench.spool.oldest()
    assert left is not None
    bench.add([access(1)])
    assert bench.spool.read(left.path) == left
    bench.spool.delivered(left)
    assert bench.drained() == ids(1)


def test_a_tail_that_is_torn_at_any_byte_costs_that_entry_alone(bench: Bench) -> None:
    bench.add([access(0), access(1)])
    (path,) = bench.files()
    whole = path.read_bytes()
    for length in {*range(0, 2 * LINE, 41), *range(LINE - 2, LINE + 3), 2 * LINE - 1}:
        path.write_bytes(whole[:length])
        left = bench.spool.read(path)
        assert len(left.events) == length // LINE
        assert (left.torn, left.foreign) == (length % LINE > 0, 0)


def test_any_flipped_byte_is_noticed_and_its_file_put_aside(bench: Bench) -> None:
    line = line_of(access(0))[:-1]
    for at in range(len(line)):
        with pytest.raises(NotAnEvent):
            event_in(line[:at] + bytes([line[at] ^ 1]) + line[at + 1 :], LOCAL)
    bench.add([access(0), access(1), access(2)])
    (path,) = bench.files()
    data = bytearray(path.read_bytes())
    data[LINE + LINE // 2] ^= 1
    path.write_bytes(data)
    assert bench.drained() == ids(0, 2)
    assert [found.suffix for found in bench.files()] == [".unreadable"]
    assert bench.files()[0].read_bytes() == data and bench.counted["unreadable"] == 1
    bench.again()
    bench.add([access(3)])
    assert bench.drained() == ids(3) and len(bench.files()) == 1, "it is not written over"


def test_what_is_not_this_regions_access_entry_does_not_reach_the_books(bench: Bench) -> None:
    elsewhere = dataclasses.replace(access(0), region=RegionName("eu-1"))
    bench.add([event(1), elsewhere, access(2)])
    assert bench.drained() == ids(2)
    assert bench.counted["unreadable"] == 2


def test_foreign_files_are_left_alone(bench: Bench, tmp_path: Path) -> None:
    bench.directory.mkdir(parents=True)
    others = [bench.directory / name for name in ("a.spool", "1.access", f"{7:016d}.access.new")]
    for other in others:
        other.write_text("0badc0de {}\n")
    (bench.directory / f"{3:016d}.access").mkdir()
    (bench.directory / f"{4:016d}.access").symlink_to(others[0])
    long = bench.directory / f"{5:016d}.access"
    long.write_bytes(line_of(access(0)) * (FILE_BYTES_MAX // LINE + 1))
    before = {path: path.read_bytes() for path in others}
    bench.again()
    bench.add([access(1)])
    assert bench.drained() == ids(1), "a file longer than we write is none of ours"
    assert {path: path.read_bytes() for path in others} == before
    assert long.with_suffix(".unreadable").stat().st_size > FILE_BYTES_MAX
    assert (bench.directory / f"{4:016d}.access").is_symlink()


def test_a_file_that_somebody_took_away_stops_no_other(bench: Bench) -> None:
    bench.again(file_events=1)
    bench.add([access(0), access(1)])
    bench.files()[0].unlink()
    assert bench.drained() == ids(1)


def test_the_bound_holds_over_all_files_and_processes(bench: Bench) -> None:
    for _ in range(3):
        bench.again(file_events=2, bytes_max=5 * LINE)
        with pytest.raises(OSError, match="the spool holds"):
            bench.add([access(n) for n in range(9)])
        assert sum(path.stat().st_size for path in bench.files()) == 5 * LINE
    assert bench.drained() == ids(0, 1, 2, 3, 4)
    bench.add([access(5)])
    assert bench.drained() == ids(5), "room again"


def test_two_processes_do_not_share_a_directory(bench: Bench) -> None:
    bench.add([access(0)])
    for use in (AccessSpool.open, lambda spool: spool.add([access(1)])):
        with pytest.raises(SpoolLocked):
            use(AccessSpool(bench.directory, LOCAL))
    assert bench.drained() == ids(0)


def test_an_event_without_a_line_is_passed_over(bench: Bench) -> None:
    bench.add([dataclasses.replace(access(0), reason="\ud800"), access(1)])
    assert bench.drained() == ids(1)
    assert bench.counted == {"kept": 1, "unreadable": 1, "delivered": 1}


@pytest.mark.parametrize("call", ["write", "fsync"])
@pytest.mark.parametrize("before", [0, 1])
def test_a_disk_that_fails_leaves_what_it_had_and_no_half_line(
    bench: Bench, call: str, before: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.add([access(n) for n in range(before)])
    whole = os.write
    written = 0

    def fails(handle: int, data: bytes = b"") -> int:
        nonlocal written
        if call == "write" and not written:
            written = whole(handle, data[:5])
            return written
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, call, fails)
    with pytest.raises(OSError, match="Input/output"):
        bench.spool.add([access(8), access(9)])
    monkeypatch.undo()
    assert sum(path.stat().st_size for path in bench.files()) == before * LINE
    bench.add([access(8)])
    assert bench.drained() == ids(*range(before), 8)


def test_what_could_not_be_removed_does_not_come_again(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.again(file_events=1)
    bench.add([access(0), access(1)])
    left = bench.spool.oldest()
    assert left is not None

    def read_only(path: str) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(os, "unlink", read_only)
    for use in (lambda: bench.spool.delivered(left), bench.spool.oldest):
        with pytest.raises(OSError, match="Read-only"):
            use()
    monkeypatch.undo()
    assert bench.drained() == ids(1)
