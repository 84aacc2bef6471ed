"""The writer: sealing, recovery, repeated events, failing disks."""

from __future__ import annotations

import errno
import os
import random
import stat
from pathlib import Path

import pytest

from gateway.contract.clock import ManualClock
from gateway.events import books as writer
from gateway.events import recovery
from gateway.events.books import Books, BooksLocked, open_books
from gateway.events.chain import Anchor, Record, read_line
from gateway.events.event import EventType
from gateway.events.recovery import BooksDamaged
from gateway.events.segment import LOCK, Limits, holds_records
from tests.unit.events.written import REGION, checked, event, files, opened, rewrite, write


def records(directory: Path) -> list[list[Record]]:
    """Of each segment."""
    parts = [path.read_bytes().splitlines(keepends=True) for path in files(directory)]
    return [[read_line(line) for line in part] for part in parts]


def ids(directory: Path) -> list[str]:
    """Of the events, without those of the books themselves."""
    events = [record.event for part in records(directory) for record in part]
    return [event.id for event in events if event.type not in recovery.OWN_TYPES]


def anchor_of(books: Books) -> Anchor:
    return Anchor(count=books.count, head=books.head)


def test_opening_writes_nothing(tmp_path: Path) -> None:
    books = opened(tmp_path / "deep" / "books")
    assert books.append([]) == [] and not books.seal_if_due()
    books.close()
    assert files(tmp_path / "deep" / "books") == [] and not holds_records(tmp_path / "deep" / "books")


def test_a_segment_says_where_it_stands(tmp_path: Path) -> None:
    write(tmp_path)
    parts = records(tmp_path)
    assert [part[0].event.type for part in parts] == [EventType.BOOKS_OPENED] * 3
    assert [part[-1].event.type for part in parts] == [EventType.BOOKS_SEALED] * 3
    last = parts[1][-1]
    assert last.event.context == {"segment": "2", "count": str(last.seq - 1), "head": last.prev}
    assert [stat.S_IMODE(path.stat().st_mode) for path in files(tmp_path)] == [0o440] * 3
    assert holds_records(tmp_path)


@pytest.mark.parametrize("limits", [Limits(events=3), Limits(octets=2000), Limits(age_ms=1)])
def test_each_limit_seals(tmp_path: Path, limits: Limits) -> None:
    clock = ManualClock()
    books = open_books(tmp_path, REGION, None, clock=clock, limits=limits)
    books.append([event(n) for n in range(4)])
    assert not books.seal_if_due() or limits.age_ms > 1
    clock.advance_ms(-5)  # a clock that went back counts as age as well
    books.seal_if_due()
    books.append([event(9)])
    books.close()
    assert len(files(tmp_path)) == 2


def test_an_idle_segment_is_not_sealed(tmp_path: Path) -> None:
    clock = ManualClock()
    books = open_books(tmp_path, REGION, None, clock=clock)
    clock.advance_ms(10**9)
    assert not books.seal_if_due()
    books.seal()
    assert files(tmp_path) == []
    books.close()


def test_books_go_on_where_they_stopped(tmp_path: Path) -> None:
    for number in range(7):
        books = opened(tmp_path, limits=Limits(events=4))
        books.append([event(number)])
        books.seal_if_due()
        anchor = anchor_of(books)
        books.close()
    assert ids(tmp_path) == [event(n).id for n in range(7)]
    assert checked(tmp_path, anchor).clean


def test_one_writer(tmp_path: Path) -> None:
    first = opened(tmp_path)
    with pytest.raises(BooksLocked):
        opened(tmp_path)
    first.close()
    first.close()
    opened(tmp_path).close()
    assert stat.S_IMODE((tmp_path / LOCK).stat().st_mode) == 0o600


def test_repeated_events_are_written_once(tmp_path: Path) -> None:
    books = opened(tmp_path, limits=Limits(events=5))
    assert len(books.append([event(1), event(2), event(1)])) == 2
    assert books.append([event(2)]) == []
    books.append([event(3), event(4)])
    books.seal_if_due()
    books.append([event(5)])
    books.close()
    again = opened(tmp_path)
    assert [item.id for item in again.append([event(n) for n in range(1, 7)])] == [event(6).id]
    again.close()
    assert ids(tmp_path) == [event(n).id for n in range(1, 7)]


def test_a_flood_of_access_entries_does_not_forget_the_ledgers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "IDS_KEPT", 10)
    books = opened(tmp_path, limits=Limits(events=20))
    books.append([event(1)])
    for n in range(100, 200):
        books.append([event(n, kind=EventType.ACCESS)])
        books.seal_if_due()
    assert books.has(event(1))
    assert not books.has(event(100, kind=EventType.ACCESS)) and books.has(event(195, kind=EventType.ACCESS))
    books.close()
    again = opened(tmp_path)
    assert again.has(event(1)), "the start reads back until it has enough of the ledger's ids"
    again.close()


@pytest.mark.parametrize("seed", range(40))
def test_a_torn_write_is_cut_off(tmp_path: Path, seed: int) -> None:
    """The file ends at a random byte of the last batch, as after a kill in the middle of a write."""
    chance = random.Random(seed)
    books = opened(tmp_path)
    books.append([event(n) for n in range(5)])
    synced, anchor = files(tmp_path)[0].stat().st_size, anchor_of(books)
    books.append([event(n) for n in range(5, 10)])
    books.close()
    path = files(tmp_path)[0]
    whole = path.read_bytes()
    cut = chance.randrange(synced, len(whole))
    path.write_bytes(whole[:cut] + b"\0" * chance.choice((0, 0, 4096)))
    again = opened(tmp_path, anchor=anchor)
    again.append([event(n) for n in range(10)])
    anchor = anchor_of(again)
    again.close()
    assert path.read_bytes() == whole, "the outbox still had them, in the same order"
    assert checked(tmp_path, anchor).clean


def test_a_kill_while_a_segment_changes(tmp_path: Path) -> None:
    """Between seal and chmod, and between the next file's birth and its first line."""
    write(tmp_path, batches=2)
    sealed = files(tmp_path)[0]
    sealed.chmod(0o640)
    (tmp_path / "00000002.jsonl").touch()
    opened(tmp_path).close()
    (tmp_path / "00000002.jsonl").unlink()
    books = opened(tmp_path)
    assert stat.S_IMODE(sealed.stat().st_mode) == 0o440
    books.append([event(99)])
    anchor = anchor_of(books)
    books.close()
    assert len(files(tmp_path)) == 2 and checked(tmp_path, anchor).clean


def test_damage_is_not_built_on(tmp_path: Path) -> None:
    anchor = write(tmp_path, batches=5)
    path = files(tmp_path)[-1]
    whole = path.read_bytes()
    lines = whole.splitlines(keepends=True)
    for damage in (
        b"".join([lines[0], lines[1].replace(b"request-", b"Request-"), *lines[2:]]),
        b"".join([lines[0], *lines[2:]]),
        b"".join(lines[1:]),
        b"".join([lines[0], lines[1][:-1], *lines[2:]]),
    ):
        rewrite(path, damage)
        with pytest.raises(BooksDamaged, match=path.name):
            opened(tmp_path, anchor=anchor)
        assert path.read_bytes() == damage, "evidence stays as it is"
    rewrite(path, whole)
    opened(tmp_path, anchor=anchor).close()


def test_books_without_their_tail_are_not_continued(tmp_path: Path) -> None:
    anchor = write(tmp_path, batches=5)
    path = files(tmp_path)[-1]
    lines = path.read_bytes().splitlines(keepends=True)
    rewrite(path, b"".join(lines[:-1]))
    with pytest.raises(BooksDamaged, match=f"records {anchor.count} to {anchor.count} are missing"):
        opened(tmp_path, anchor=anchor)
    rewrite(path, b"".join(lines))
    with pytest.raises(BooksDamaged, match="not the one the ledger remembers"):
        opened(tmp_path, anchor=Anchor(count=anchor.count, head="ab" * 32))
    opened(tmp_path, anchor=Anchor(count=1, head="ab" * 32)).close()  # too far back: left to verify


def test_missing_or_broken_earlier_segments_stop_the_writer(tmp_path: Path) -> None:
    write(tmp_path, batches=5)
    first, second, _ = files(tmp_path)
    whole = second.read_bytes()
    rewrite(second, whole[:-1])
    with pytest.raises(BooksDamaged, match="00000002"):
        opened(tmp_path)
    rewrite(second, b"".join(whole.splitlines(keepends=True)[:-1]))
    with pytest.raises(BooksDamaged, match="not sealed"):
        opened(tmp_path)
    rewrite(second, whole)
    rewrite(first, first.read_bytes().replace(b'"id":', b'"ie":', 1))
    with pytest.raises(BooksDamaged, match="00000001"):
        opened(tmp_path)
    first.unlink()
    with pytest.raises(BooksDamaged, match="missing"):
        opened(tmp_path)


def test_something_after_a_seal_stops_the_writer(tmp_path: Path) -> None:
    write(tmp_path, batches=2)
    path = files(tmp_path)[0]
    whole = path.read_bytes()
    for more in (b"x", whole.splitlines(keepends=True)[2]):
        rewrite(path, whole + more)
        with pytest.raises(BooksDamaged, match="after its seal"):
            opened(tmp_path)


@pytest.mark.parametrize("broken", ["write", "fsync", "both"])
def test_a_failing_disk_leaves_nothing_half_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    books = opened(tmp_path)
    books.append([event(1)])
    before, anchor = files(tmp_path)[0].read_bytes(), anchor_of(books)
    real_write, real_fsync = os.write, os.fsync

    def short_write(handle: int, data: bytes) -> int:
        if len(data) < 600:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real_write(handle, data[: len(data) // 2])

    def no_fsync(handle: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    if broken != "fsync":
        monkeypatch.setattr(os, "write", short_write)
    if broken != "write":
        monkeypatch.setattr(os, "fsync", no_fsync)
    with pytest.raises(OSError):
        books.append([event(n) for n in range(2, 6)])
    monkeypatch.setattr(os, "write", real_write)
    monkeypatch.setattr(os, "fsync", real_fsync)
    assert files(tmp_path)[0].read_bytes() == before
    assert anchor_of(books) == anchor
    books.close()
    again = opened(tmp_path, anchor=anchor)
    assert len(again.append([event(n) for n in range(1, 6)])) == 4
    anchor = anchor_of(again)
    again.close()
    assert ids(tmp_path) == [event(n).id for n in range(1, 6)]
    assert checked(tmp_path, anchor).clean


def test_a_seal_that_failed_leaves_a_segment_that_can_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    books = opened(tmp_path)
    books.append([event(1)])

    def no_fsync(handle: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as broken:
        broken.setattr(os, "fsync", no_fsync)
        with pytest.raises(OSError):
            books.seal()
    books.close()
    (segment,) = files(tmp_path)
    assert segment.stat().st_mode & stat.S_IWUSR
    segment.chmod(0o440)  # power was lost between the seal's mode and its line
    books = opened(tmp_path)
    assert segment.stat().st_mode & stat.S_IWUSR
    books.append([event(2)])
    books.close()
    assert ids(tmp_path) == [event(1).id, event(2).id]
