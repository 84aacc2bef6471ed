"""A backup goes back into an empty directory as the books it was taken of, or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.bookkeeper.archive import archive
from gateway.bookkeeper.backup import LIST, BadBackup, backup, restore
from gateway.bookkeeper.object_store import ObjectStore
from gateway.bookkeeper.rebuilding import replay_books
from gateway.contract.clock import ManualClock
from gateway.contract.ids import RegionName
from gateway.contract.units import UnixMillis
from gateway.events.books import open_books
from gateway.events.recovery import BooksDamaged
from gateway.events.segment import segments_of
from tests.unit.bookkeeper.logged import LOCAL, end_of, written


@pytest.mark.parametrize("archived", [False, True])
async def test_books_come_back(archived: bool, tmp_path: Path) -> None:
    books, back = tmp_path / "books", tmp_path / "back"
    await written(books)
    if archived:
        kept = ObjectStore((tmp_path / "kept").as_uri())
        archive(books, LOCAL, kept, now=UnixMillis(2_000_000_000_000), keep_days=1)
    with segments_of(books)[-1][1].open("ab") as file:
        file.write(b'{"event":')  # a line in the making
    store = ObjectStore((tmp_path / "backup").as_uri())
    done = backup(books, LOCAL, store)
    report = restore(back, LOCAL, store)
    assert report.clean and report.head == done.head
    assert replay_books(back, LOCAL)[0].books() == replay_books(books, LOCAL)[0].books()
    open_books(back, LOCAL, end_of(back), clock=ManualClock()).close()
    with pytest.raises(BadBackup, match="holds books"):
        restore(back, LOCAL, store)
    with pytest.raises(BadBackup, match="already"):
        backup(books, LOCAL, store)


async def test_what_is_no_whole_backup_is_refused(tmp_path: Path) -> None:
    books = tmp_path / "books"
    await written(books)
    store = ObjectStore((tmp_path / "backup").as_uri())
    with pytest.raises(BadBackup, match=LIST):
        restore(tmp_path / "a", LOCAL, store)
    backup(books, LOCAL, store)
    with pytest.raises(BadBackup, match="region"):
        restore(tmp_path / "b", RegionName("other"), store)
    copy = tmp_path / "backup" / "00000002.jsonl"
    copy.write_bytes(copy.read_bytes()[:-5])
    with pytest.raises(BadBackup, match=r"00000002\.jsonl"):
        restore(tmp_path / "c", LOCAL, store)
    (tmp_path / "backup" / LIST).write_text("{}")
    with pytest.raises(BadBackup, match=LIST):
        restore(tmp_path / "d", LOCAL, store)


async def test_damaged_books_are_not_backed_up(tmp_path: Path) -> None:
    books = tmp_path / "books"
    await written(books)
    path = segments_of(books)[0][1]
    path.chmod(0o644)
    path.write_bytes(path.read_bytes().replace(b"acme", b"acne", 1))
    with pytest.raises(BooksDamaged):
        backup(books, LOCAL, ObjectStore((tmp_path / "backup").as_uri()))
    (tmp_path / "none").mkdir()
    with pytest.raises(BadBackup, match="no books"):
        backup(tmp_path / "none", LOCAL, ObjectStore((tmp_path / "other").as_uri()))


async def test_a_backup_is_as_private_as_the_books_and_never_laid_over_them(tmp_path: Path) -> None:
    books, copy = tmp_path / "books", tmp_path / "backup"
    await written(books)
    with pytest.raises(BadBackup, match="books themselves"):
        backup(books, LOCAL, ObjectStore(books.as_uri()))
    backup(books, LOCAL, ObjectStore(copy.as_uri()))
    assert not copy.stat().st_mode & 0o007
    assert not any(path.stat().st_mode & 0o037 for path in copy.iterdir())


async def test_a_restore_that_broke_off_leaves_no_books_to_go_on_with(tmp_path: Path) -> None:
    books, back = tmp_path / "books", tmp_path / "back"
    await written(books)
    store = ObjectStore((tmp_path / "backup").as_uri())
    backup(books, LOCAL, store)
    names = [path.name for _, path in segments_of(books)]
    for gone in names[:-1]:
        (tmp_path / "backup" / gone).unlink()
    with pytest.raises(BadBackup):
        restore(back, LOCAL, store)
    assert [path.name for _, path in segments_of(back)] == names[-1:]
    with pytest.raises(BooksDamaged, match="missing"):
        open_books(back, LOCAL, None, clock=ManualClock())
