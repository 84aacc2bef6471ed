"""Books are read whole and in order, or not at all; from any record on; beside their writer."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.events.reading import Mark, NotThere, Reader
from gateway.events.recovery import BooksDamaged
from gateway.events.segment import Limits
from tests.unit.events.written import REGION, event, files, opened, rewrite, write


def test_all_of_them_and_from_each_one_on(tmp_path: Path) -> None:
    anchor = write(tmp_path)
    records = list(Reader(tmp_path, REGION))
    assert [record.seq for record in records] == list(range(1, anchor.count + 1))
    assert records[-1].hash == anchor.head
    for number, record in enumerate(records, start=1):
        after = Reader(tmp_path, REGION, after=Mark(seq=record.seq, hash=record.hash))
        assert list(after) == records[number:]
    for mark in (Mark(seq=3, hash="ab" * 32), Mark(seq=anchor.count + 1, hash=anchor.head)):
        with pytest.raises(NotThere):
            Reader(tmp_path, REGION, after=mark)


def test_what_is_written_meanwhile_is_read_next(tmp_path: Path) -> None:
    writer = opened(tmp_path, limits=Limits(events=4))
    reader = Reader(tmp_path, REGION)
    for number in range(12):
        writer.append([event(number)])
        assert [record.seq for record in reader][-1] == writer.count
        writer.seal_if_due()
    list(reader)
    assert reader.mark == Mark(seq=writer.count, hash=writer.head) and len(files(tmp_path)) > 2
    with files(tmp_path)[-1].open("ab") as file:
        file.write(b'{"event"')
    assert list(reader) == []
    writer.close()


@pytest.mark.parametrize("cut", [1, 9, 400])
def test_a_segment_that_ends_too_early_is_damage(cut: int, tmp_path: Path) -> None:
    write(tmp_path)
    path = files(tmp_path)[0]
    rewrite(path, path.read_bytes()[:-cut])
    with pytest.raises(BooksDamaged, match=path.name):
        list(Reader(tmp_path, REGION))


def test_a_segment_that_is_missing_is_damage(tmp_path: Path) -> None:
    write(tmp_path)
    files(tmp_path)[1].unlink()
    with pytest.raises(BooksDamaged, match="missing"):
        list(Reader(tmp_path, REGION))
