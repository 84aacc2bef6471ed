"""Archived segments may go: verify, replay and what is written next go on from the oldest kept one."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.bookkeeper.archive import ArchiveBusy, ArchiveDiffers, archive
from gateway.bookkeeper.archive import _lock as lock
from gateway.bookkeeper.object_store import BadStoreUrl, ObjectStore
from gateway.bookkeeper.rebuilding import replay_books
from gateway.bookkeeper.reconcile import events_since
from gateway.contract.clock import ManualClock
from gateway.contract.units import UnixMillis
from gateway.events.base import checkpoint_path, read_base
from gateway.events.books import open_books
from gateway.events.chain import read_line
from gateway.events.event import Event, EventType
from gateway.events.recovery import BooksDamaged
from gateway.events.segment import BASE, holds_records, segments_of
from gateway.events.verify import verify
from tests.unit.bookkeeper.logged import LOCAL, end_of, written

FAR = UnixMillis(2_000_000_000_000)


def store_at(directory: Path) -> ObjectStore:
    return ObjectStore(directory.as_uri())


@pytest.fixture
async def books(tmp_path: Path) -> Path:
    await written(tmp_path / "books")
    return tmp_path / "books"


def test_sealed_segments_are_copied_once_and_the_open_one_is_not(books: Path, tmp_path: Path) -> None:
    store = store_at(tmp_path / "kept")
    first = archive(books, LOCAL, store, now=FAR, keep_days=None)
    names = [path.name for _, path in segments_of(books)]
    assert first.segments == first.copied == len(names) - 1 and first.removed == 0
    assert sorted(path.name for path in (tmp_path / "kept" / "local").iterdir()) == names[:-1]
    again = archive(books, LOCAL, store, now=FAR, keep_days=None)
    assert (again.segments, again.copied, again.copied_bytes) == (first.segments, 0, 0)


def test_removed_segments_leave_books_that_go_on(books: Path, tmp_path: Path) -> None:
    anchor, whole = end_of(books), replay_books(books, LOCAL)[0].books()
    done = archive(books, LOCAL, store_at(tmp_path / "kept"), now=FAR, keep_days=1)
    assert done.removed == done.segments >= 3
    assert [number for number, _ in segments_of(books)] == [done.first_kept]
    report = verify(books, LOCAL, anchor)
    assert report.clean and report.archived == read_base(books, LOCAL).count > 0
    assert replay_books(books, LOCAL)[0].books() == whole
    writer = open_books(books, LOCAL, anchor, clock=ManualClock())
    event = Event(id="a/1-0", type=EventType.CACHE_HIT, at_ms=1, region="local", org="a", request_id="r")
    assert writer.append([event]) == [event]
    writer.seal()
    writer.close()
    assert verify(books, LOCAL, end_of(books)).clean
    assert archive(books, LOCAL, store_at(tmp_path / "kept"), now=FAR, keep_days=1).removed == 1
    assert holds_records(books) and not segments_of(books)
    assert replay_books(books, LOCAL)[0].books() == whole


def test_only_what_is_old_is_removed(books: Path, tmp_path: Path) -> None:
    assert archive(books, LOCAL, store_at(tmp_path / "kept"), now=UnixMillis(0), keep_days=1).removed == 0


def test_a_removal_that_broke_off_is_finished(books: Path, tmp_path: Path) -> None:
    first = segments_of(books)[0][1].read_bytes()
    archive(books, LOCAL, store_at(tmp_path / "kept"), now=FAR, keep_days=1)
    (books / "00000001.jsonl").write_bytes(first)
    assert verify(books, LOCAL, end_of(books)).clean
    archive(books, LOCAL, store_at(tmp_path / "kept"), now=FAR, keep_days=1)
    assert not (books / "00000001.jsonl").exists()


def test_reconciling_reads_books_whose_removal_broke_off(books: Path, tmp_path: Path) -> None:
    removed = [(path, path.read_bytes()) for _, path in segments_of(books)[:-1]]
    archive(books, LOCAL, store_at(tmp_path / "kept"), now=FAR, keep_days=1)
    with segments_of(books)[0][1].open("rb") as file:
        since_ms = read_line(file.readline()).event.at_ms - 1
    kept = list(events_since(books, LOCAL, since_ms))
    for path, data in removed:
        path.write_bytes(data)
    assert list(events_since(books, LOCAL, since_ms)) == kept != []


def test_each_byte_of_base_and_checkpoint_counts(books: Path, tmp_path: Path) -> None:
    archive(books, LOCAL, store_at(tmp_path / "kept"), now=FAR, keep_days=1)
    anchor = end_of(books)
    for path in (books / BASE, checkpoint_path(books, read_base(books, LOCAL))):
        good = path.read_bytes()
        for place in range(0, len(good), max(1, len(good) // 40)):
            path.write_bytes(good[:place] + bytes([good[place] ^ 1]) + good[place + 1 :])
            assert not verify(books, LOCAL, anchor).clean
        path.write_bytes(good)
    assert verify(books, LOCAL, anchor).clean
    (books / BASE).write_text("{}")
    with pytest.raises(BooksDamaged, match=BASE):
        open_books(books, LOCAL, anchor, clock=ManualClock())


def test_the_archive_is_never_overwritten(books: Path, tmp_path: Path) -> None:
    store = store_at(tmp_path / "kept")
    store.write("local/00000001.jsonl", b"something else")
    with pytest.raises(ArchiveDiffers, match=r"00000001\.jsonl"):
        archive(books, LOCAL, store, now=FAR, keep_days=1)
    store.write(
        "local/00000001.jsonl", segments_of(books)[0][1].read_bytes()[:100]
    )  # an upload that broke off
    assert archive(books, LOCAL, store, now=FAR, keep_days=None).copied >= 3


def test_what_the_archive_lost_is_not_removed(books: Path, tmp_path: Path) -> None:
    store = store_at(tmp_path / "kept")
    archive(books, LOCAL, store, now=FAR, keep_days=None)
    copy = tmp_path / "kept" / "local" / "00000002.jsonl"
    copy.write_bytes(copy.read_bytes().replace(b"acme", b"acne", 1))
    with pytest.raises(ArchiveDiffers):
        archive(books, LOCAL, store, now=FAR, keep_days=1)
    assert len(segments_of(books)) > 3


def test_one_archives_at_a_time(books: Path, tmp_path: Path) -> None:
    with lock(books), pytest.raises(ArchiveBusy):
        archive(books, LOCAL, store_at(tmp_path / "kept"), now=FAR, keep_days=None)


@pytest.mark.parametrize(
    "url", ["", "kept", "/kept", "ftp://host/kept", "file://host/kept", "s3://", "file://"]
)
def test_what_is_no_store_is_refused(url: str) -> None:
    with pytest.raises(BadStoreUrl):
        ObjectStore(url)
