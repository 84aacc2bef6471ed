"""The word tables: plain text files read once, when the package is imported."""

from __future__ import annotations

from pathlib import Path
from typing import Final

DIRECTORY: Final = Path(__file__).resolve().parent / "tables"
"""Each file states its source in its first lines; `#` begins a comment."""


def rows(name: str) -> list[str]:
    """Lines of the table `name`, without comments and blank lines; OSError where it is missing."""
    text = (DIRECTORY / f"{name}.txt").read_text(encoding="utf-8")
    stripped = (line.partition("# ")[0].strip() for line in text.splitlines() if not line.startswith("#"))
    return [line for line in stripped if line]


def words(name: str) -> frozenset[str]:
    """All words of a table, separated by white space."""
    return frozenset(word for row in rows(name) for word in row.split())


def sections(name: str) -> dict[str, list[str]]:
    """Rows under their `[section]` headings."""
    found: dict[str, list[str]] = {}
    heading = ""
    for row in rows(name):
        if row.startswith("[") and row.endswith("]"):
            heading = row[1:-1]
            found.setdefault(heading, [])
        else:
            found[heading].append(row)
    return found


def pairs(name: str) -> list[tuple[str, str]]:
    """Rows `left => right`; several left sides are separated by `|`."""
    found: list[tuple[str, str]] = []
    for row in rows(name):
        left, _, right = row.partition("=>")
        found.extend((side.strip(), right.strip()) for side in left.split("|"))
    return found


def groups(name: str) -> list[list[str]]:
    """Rows `a | b | c`: things that belong together."""
    return [[item.strip() for item in row.split("|")] for row in rows(name)]
