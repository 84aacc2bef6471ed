"""``tidegate ledger verify``: exit codes, lines, JSON."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest

from gateway.bookkeeper import verify as command
from gateway.contract.errors import LedgerUnavailable
from gateway.contract.ids import RegionName
from gateway.events.chain import Anchor
from tests.unit.events.written import files, rewrite, write


@pytest.fixture
def remembered(monkeypatch: pytest.MonkeyPatch) -> list[Anchor | Exception | None]:
    """What the ledger answers: the last of the list."""
    answers: list[Anchor | Exception | None] = []

    async def read(url: str, region: RegionName) -> Anchor | None:
        answer = answers[-1]
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(command, "read_anchor", read)
    return answers


def told(capsys: pytest.CaptureFixture[str]) -> str:
    return capsys.readouterr().out


def test_clean_books(
    tmp_path: Path, remembered: list[Anchor | Exception | None], capsys: pytest.CaptureFixture[str]
) -> None:
    remembered.append(write(tmp_path))
    assert command.main(["--books", str(tmp_path), "--ledger", "unix:///x"]) == command.CLEAN
    assert "clean: 36 records in 3 segments (3 sealed)" in told(capsys)
    assert command.main(["--books", str(tmp_path)]) == command.CLEAN
    assert "anchor not asked" in told(capsys)


def test_each_problem_is_a_line_with_its_place(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path)
    path = files(tmp_path)[1]
    rewrite(path, path.read_bytes().replace(b"smollm2", b"Smollm2", 1))
    assert command.main(["--books", str(tmp_path)]) == command.BROKEN
    first, last = told(capsys).splitlines()
    assert first.startswith("00000002.jsonl:2 (byte ") and "[broken_line]" in first
    assert last.startswith("1 problem: 35 records")


def test_json_has_stable_keys(
    tmp_path: Path, remembered: list[Anchor | Exception | None], capsys: pytest.CaptureFixture[str]
) -> None:
    anchor = write(tmp_path)
    remembered.append(Anchor(count=anchor.count + 2, head="ab" * 32))
    assert command.main(["--books", str(tmp_path), "--ledger", "unix:///x", "--json"]) == command.BROKEN
    fields = orjson.loads(told(capsys))
    assert sorted(fields) == [
        "anchor",
        "anchor_state",
        "archived",
        "clean",
        "events",
        "head",
        "problems",
        "problems_total",
        "region",
        "sealed",
        "segments",
        "torn_bytes",
    ]
    assert fields["clean"] is False and fields["anchor"]["count"] == anchor.count + 2
    assert fields["problems"][0]["kind"] == "missing_tail"
    assert sorted(fields["problems"][0]) == ["byte", "file", "kind", "line", "text"]


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (None, "the ledger was emptied"),
        (LedgerUnavailable("did not answer"), "unknown: did not answer"),
        (ValueError("store URL"), "unknown: store URL"),
    ],
)
def test_without_the_ledgers_word_nothing_is_clean(
    tmp_path: Path,
    remembered: list[Anchor | Exception | None],
    capsys: pytest.CaptureFixture[str],
    answer: Exception | None,
    said: str,
) -> None:
    write(tmp_path)
    remembered.append(answer)
    assert command.main(["--books", str(tmp_path), "--ledger", "unix:///x"]) == command.BROKEN
    assert said in told(capsys)


def test_nothing_to_check(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--books", str(tmp_path / "none")]) == command.NOTHING
    assert "no such directory" in capsys.readouterr().err
    assert command.main(["--books", str(tmp_path)]) == command.CLEAN
    with pytest.raises(SystemExit) as ended:
        command.main([])
    assert ended.value.code == 2
