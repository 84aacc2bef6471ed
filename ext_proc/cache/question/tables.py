"""The word tables: plain text files read once, when the package is imported."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Final

DIRECTORY: Final = Path(__file__).resolve().parent / "tables"
"""Each file states its source in its first lines; a line that begins with `#` is a comment."""


@cache
def sections(name: str) -> Mapping[str, Sequence[str]]:
    """Rows of the table `name` under their `[section]` headings, those before the first one under "";
    OSError where the table is missing."""
    found: dict[str, list[str]] = {}
    heading = ""
    for line in (DIRECTORY / f"{name}.txt").read_text(encoding="utf-8").splitlines():
        row = line.strip()
        if row.startswith("[") and row.endswith("]"):
            heading = row[1:-1]
            found.setdefault(heading, [])
        elif row and not row.startswith("#"):
            found.setdefault(heading, []).append(row)
    return found


def rows(name: str, *headings: str) -> list[str]:
    """Rows of those sections, of the whole table where none is named; KeyError where a section is
    missing."""
    found = sections(name)
    return [row for heading in headings or found for row in found[heading]]


def words(name: str, *headings: str) -> frozenset[str]:
    """Words of those sections, of the whole table where none is named, separated by white space."""
    return frozenset(word for row in rows(name, *headings) for word in row.split())


def pairs(name: str, *headings: str) -> list[tuple[str, str]]:
    """Rows `left => right`; several left sides are separated by `|`."""
    found: list[tuple[str, str]] = []
    for row in rows(name, *headings):
        left, _, right = row.partition("=>")
        found.extend((side.strip(), right.strip()) for side in left.split("|"))
    return found


def groups(name: str) -> list[list[str]]:
    """Rows `a | b | c`: things that belong together."""
    return [[item.strip() for item in row.split("|")] for row in rows(name)]
