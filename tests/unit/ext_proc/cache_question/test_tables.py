"""The word tables: each says where it is from, and each section has a reader."""

from __future__ import annotations

from pathlib import Path

import pytest

from ext_proc.cache.question import canonical, frames, numbers, tables

TABLES = sorted(path.stem for path in tables.DIRECTORY.iterdir())
CODE = "".join(path.read_text(encoding="utf-8") for path in tables.DIRECTORY.parent.glob("*.py"))


@pytest.mark.parametrize("name", TABLES)
def test_a_table_states_its_source_in_its_first_lines(name: str) -> None:
    lines = (tables.DIRECTORY / f"{name}.txt").read_text(encoding="utf-8").splitlines()
    head = lines[: next(index for index, line in enumerate(lines) if not line.startswith("#"))]
    assert "Source: " in "\n".join(head)


@pytest.mark.parametrize("name", TABLES)
def test_a_table_and_each_of_its_sections_is_read_by_name(name: str) -> None:
    assert f'"{name}"' in CODE or f"'{name}'" in CODE
    for heading in tables.sections(name):
        known = f'"{heading}"' in CODE or f"'{heading}'" in CODE
        assert known or (name == "phrases" and heading.startswith("with ")), heading


GONE = {*canonical.SPELLINGS, *canonical.CONTRACTIONS, *numbers.ORDINALS, *frames.ANYWHERE}
"""No canonical token is one of these."""
DIGITS = {*numbers.ONES, *numbers.TENS}
"""Nor one of these, but for "one" behind a few words that no form of asking has before it."""


@pytest.mark.parametrize("name", ["frames", "fillers"])
def test_what_is_looked_for_can_be_there(name: str) -> None:
    phrases = [
        (heading, row.partition("=>")[0])
        for heading in tables.sections(name)
        for row in tables.rows(name, heading)
        if heading not in ("anywhere", "said")
    ]
    for heading, row in phrases:
        words = {word for part in row.split() for word in part.split("/")}
        opens = heading == "leading" and " " not in row
        assert opens or words.isdisjoint(GONE | DIGITS), row


def test_what_is_said_alike_can_be_there_but_for_the_name_of_its_group() -> None:
    for row in tables.rows("phrases"):
        for phrase in row.split("|")[1:]:
            assert GONE.isdisjoint(phrase.split()), row


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(tables, "DIRECTORY", tmp_path)
    text = "# Source: here.\nzero\n\n[one]\na c# c++\n# more of it\nb | c => d\n[two]\ne\n[one]\nf\n"
    (tmp_path / "some.txt").write_text(text, encoding="utf-8")
    return "some"


def test_rows_are_those_of_the_named_sections_or_of_all(table: str) -> None:
    assert tables.sections(table) == {"": ["zero"], "one": ["a c# c++", "b | c => d", "f"], "two": ["e"]}
    assert tables.rows(table) == ["zero", "a c# c++", "b | c => d", "f", "e"]
    assert tables.rows(table, "two", "one")[:2] == ["e", "a c# c++"]


def test_words_and_pairs_are_read_from_rows(table: str) -> None:
    assert tables.words(table, "two") == {"e"}
    assert tables.words(table) >= {"zero", "c#", "c++", "e"}
    assert tables.pairs(table, "one")[1:3] == [("b", "d"), ("c", "d")]


def test_a_table_or_section_that_is_missing_is_an_error(table: str) -> None:
    with pytest.raises(OSError, match="none"):
        tables.rows("none")
    with pytest.raises(KeyError):
        tables.words(table, "three")
