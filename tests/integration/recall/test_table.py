"""The table of stored questions on a real LanceDB: what was written comes back or nothing does."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import lancedb
import numpy as np
import pyarrow as pa
import pytest

from ext_proc.cache.store import Lineage
from ext_proc.recall.stored_question import StoredQuestion, TextSealer
from ext_proc.recall.table import OPENINGS_MAX, Table, TableBusy, TableDamaged
from gateway.contract.clock import ManualClock
from gateway.contract.ids import OrgId
from gateway.contract.units import UnixMillis

DIMENSIONS = 16
IDENTITY = "test:0123456789abcdef"
KEY = b"k" * 32
HOUR_MS = 3_600_000


def question(number: int, org: str = "acme", **changed: object) -> StoredQuestion:
    drawn = np.random.default_rng(number).standard_normal(DIMENSIONS)
    made = StoredQuestion(
        org=OrgId(org),
        partition=f"{number % 3:064x}",
        entry=f"{number:064x}",
        text=f"Question number {number}?",
        vector=(drawn / np.linalg.norm(drawn)).astype(np.float16),
        expires_at=UnixMillis(ManualClock().now_ms + HOUR_MS),
        stored_at=UnixMillis(ManualClock().now_ms + number),
        lineage=Lineage(request_id=f"r{number}", model="chat", tags=("a", "b"), admitted_at=UnixMillis(5)),
    )
    return replace(made, **changed)  # type: ignore[arg-type]  # fields by name


def table_in(directory: Path, clock: ManualClock | None = None, **changed: int) -> Table:
    clock = clock or ManualClock()
    return Table(str(directory), IDENTITY, DIMENSIONS, TextSealer(KEY), clock, **changed)


def loaded(table: Table) -> dict[tuple[str, str], StoredQuestion]:
    return {(row.org, row.entry): row for batch in table.load() for row in batch}


def written(directory: Path, questions: list[StoredQuestion]) -> None:
    table = table_in(directory)
    table.open()
    list(table.load())
    table.append(questions)
    table.close()


def assert_same(found: StoredQuestion, wanted: StoredQuestion) -> None:
    assert np.array_equal(found.vector, wanted.vector)
    assert replace(found, vector=wanted.vector) == wanted


def test_what_was_written_comes_back_whole(tmp_path: Path) -> None:
    wanted = [question(number) for number in range(700)] + [question(1, "other", text="Ünïcode?")]
    written(tmp_path, wanted[:300])
    written(tmp_path, wanted[300:])
    table = table_in(tmp_path)
    table.open()
    found = loaded(table)
    assert len(found) == 701
    for one in wanted:
        assert_same(found[one.org, one.entry], one)


def test_no_text_is_readable_on_disk(tmp_path: Path) -> None:
    written(tmp_path, [question(1, text="My very own words")])
    held = b"".join(file.read_bytes() for file in tmp_path.rglob("*") if file.is_file())
    assert b"very own" not in held
    assert b"acme" in held


@pytest.mark.parametrize("column", ["org", "partition", "entry", "expires_at"])
def test_a_row_that_was_moved_or_prolonged_does_not_open(tmp_path: Path, column: str) -> None:
    written(tmp_path, [question(1), question(2)])
    value: dict[str, object] = {
        "org": "'other'",
        "partition": f"'{9:064x}'",
        "entry": f"'{9:064x}'",
        "expires_at": str(ManualClock().now_ms + 2 * HOUR_MS),
    }
    raw = lancedb.connect(str(tmp_path)).open_table("recall_1_test_0123456789abcdef")
    raw.update(where=f"entry = '{1:064x}'", values_sql={column: str(value[column])})
    table = table_in(tmp_path)
    table.open()
    assert [row.text for row in loaded(table).values()] == ["Question number 2?"]


def test_another_key_opens_nothing(tmp_path: Path) -> None:
    written(tmp_path, [question(1)])
    table = Table(str(tmp_path), IDENTITY, DIMENSIONS, TextSealer(b"x" * 32), ManualClock())
    table.open()
    assert loaded(table) == {}


def test_another_embedder_has_another_table(tmp_path: Path) -> None:
    written(tmp_path, [question(1)])
    table = Table(str(tmp_path), "other:0123456789abcdef", DIMENSIONS, TextSealer(KEY), ManualClock())
    table.open()
    assert loaded(table) == {}


def test_rows_end_by_time_by_deletion_and_by_the_bound(tmp_path: Path) -> None:
    clock = ManualClock()
    table = table_in(tmp_path, clock, rows_max=5)
    table.open()
    table.append([question(number) for number in range(4)])
    table.append([question(9, expires_at=UnixMillis(clock.now_ms + 10))])
    table.append([question(1, "other")])
    table.delete([(OrgId("acme"), question(1).entry), (OrgId("other"), question(2).entry)])
    assert set(loaded(table)) == {("other", question(1).entry)} | {
        ("acme", question(number).entry) for number in (0, 2, 3, 9)
    }
    clock.advance_ms(10)
    assert question(9).entry not in {entry for _, entry in loaded(table)}
    assert table.tend() == 4
    table.append([question(number) for number in range(20, 24)])
    assert table.tend() == 5
    assert {row.text for row in loaded(table).values()} == {
        f"Question number {number}?" for number in (3, 20, 21, 22, 23)
    }


def test_rows_of_a_lineage_are_found(tmp_path: Path) -> None:
    written(tmp_path, [question(1), question(2, lineage=Lineage(model="chat", revision="r2", tags=("x",)))])
    table = table_in(tmp_path)
    table.open()
    assert table.ended(lambda org, entry, lineage: lineage.revision == "r2" and "x" in lineage.tags) == [
        ("acme", question(2).entry)
    ]
    with pytest.raises(ValueError, match="entry"):
        table.delete([(OrgId("acme"), "' OR 1 = 1 --")])


def test_a_row_that_nobody_could_have_written_is_none_of_a_lineage(tmp_path: Path) -> None:
    written(tmp_path, [question(1), question(2, org="no org"), question(3, entry="' OR true --")])
    table = table_in(tmp_path)
    table.open()
    found = table.ended(lambda org, entry, lineage: True)
    assert found == [("acme", question(1).entry)]
    table.delete(found)


def test_one_process_writes_at_a_time(tmp_path: Path) -> None:
    table, second = table_in(tmp_path), table_in(tmp_path)
    table.open()
    with pytest.raises(TableBusy):
        second.open()
    table.close()
    second.open()


def files_of(directory: Path) -> list[Path]:
    return sorted(file for file in directory.rglob("*") if file.is_file() and file.parent != directory)


def flipped(file: Path, draw: random.Random) -> None:
    data = bytearray(file.read_bytes())
    if data:
        data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    file.write_bytes(data)


def truncated(file: Path, draw: random.Random) -> None:
    with file.open("r+b") as opened:
        opened.truncate(draw.randrange(file.stat().st_size + 1))


def deleted(file: Path, draw: random.Random) -> None:
    file.unlink()


@pytest.mark.parametrize("damage", [flipped, truncated, deleted], ids=lambda damage: damage.__name__)
def test_a_damaged_table_gives_what_was_written_or_is_put_aside(
    tmp_path: Path, damage: Callable[[Path, random.Random], None]
) -> None:
    whole = tmp_path / "whole"
    wanted = {("acme", question(number).entry): question(number) for number in range(40)}
    written(whole, list(wanted.values())[:20])
    written(whole, list(wanted.values())[20:])
    table = table_in(whole)
    table.open()
    table.delete([(OrgId("acme"), question(0).entry)])
    table.close()
    draw = random.Random(7)
    for number, file in enumerate(files_of(whole) * 3):
        copy = tmp_path / str(number)
        shutil.copytree(whole, copy)
        damage(copy / file.relative_to(whole), draw)
        table = table_in(copy)
        try:
            table.open()
            found = loaded(table)
        except TableDamaged:
            table.quarantine()
            found = loaded(table)
            assert found == {}
            assert not (copy / "quarantine").exists() or len(list((copy / "quarantine").iterdir())) == 1
        for place, row in found.items():
            assert_same(row, wanted[place])
        table.append([question(99)])
        assert ("acme", question(99).entry) in loaded(table)
        table.close()
        shutil.rmtree(copy)


def test_a_foreign_table_is_put_aside_and_only_a_few_are_kept(tmp_path: Path) -> None:
    clock = ManualClock()
    for _ in range(5):
        database = lancedb.connect(str(tmp_path))
        name = "recall_1_test_0123456789abcdef"
        database.create_table(name, pa.table({"what": [1, 2, 3]}), mode="overwrite")
        table = table_in(tmp_path, clock)
        with pytest.raises(TableDamaged, match="ForeignSchema"):
            table.open()
        table.quarantine()
        assert loaded(table) == {}
        table.close()
        clock.advance_ms(1)
    assert len(list((tmp_path / "quarantine").iterdir())) == 3


def test_in_an_object_store_another_table_takes_its_place(tmp_path: Path) -> None:
    """file:// stands for any URL: nothing can be renamed there."""
    url = f"file://{tmp_path}"
    lancedb.connect(url).create_table("recall_1_test_0123456789abcdef", pa.table({"what": [1]}))
    for number in (1, 2):
        table = Table(url, IDENTITY, DIMENSIONS, TextSealer(KEY), ManualClock())
        if number == 1:
            with pytest.raises(TableDamaged):
                table.open()
            table.quarantine()
            table.append([question(1)])
        else:
            table.open()
        assert len(loaded(table)) == 1
    table.quarantine()
    assert loaded(table) == {}


def test_a_table_that_ends_its_readers_is_put_aside(tmp_path: Path) -> None:
    written(tmp_path, [question(1)])
    table = table_in(tmp_path)
    table.open()
    assert len(loaded(table)) == 1
    table.close()
    for _ in range(OPENINGS_MAX + 1):
        table.open()
        table.close()  # in order, though before it was read
    for _ in range(OPENINGS_MAX):
        table = table_in(tmp_path)
        table.open()
        assert table._lock is not None
        os.close(table._lock)  # before it was read, as a kill does
    table = table_in(tmp_path)
    with pytest.raises(TableDamaged, match="EndedInReading"):
        table.open()
    table.quarantine()
    assert loaded(table) == {}
