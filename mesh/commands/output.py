"""What the administration's commands print: tables on a terminal, lines with tabs elsewhere, or JSON."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

import orjson
from rich.console import Console
from rich.table import Table

Cell = str | int | None


def print_json(document: Mapping[str, object]) -> None:
    """One object. Its keys stay from release to release."""
    sys.stdout.write(orjson.dumps(document, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE).decode())


def print_table(header: Sequence[str], rows: Sequence[Sequence[Cell]]) -> None:
    """Numbers have separators on a terminal only; None is nothing there and ``-`` in lines."""
    if not sys.stdout.isatty():
        sys.stdout.write("\t".join(header) + "\n")
        sys.stdout.writelines(
            "\t".join("-" if cell is None else str(cell) for cell in row) + "\n" for row in rows
        )
        return
    table = Table(box=None, pad_edge=False)
    for place, name in enumerate(header):
        numbers = bool(rows) and all(isinstance(row[place], int | None) for row in rows)
        table.add_column(name, justify="right" if numbers else "left", overflow="fold")
    for row in rows:
        table.add_row(*(_shown(cell) for cell in row))
    Console(highlight=False, markup=False).print(table)


def _shown(cell: Cell) -> str:
    if cell is None:
        return ""
    return f"{cell:,}" if isinstance(cell, int) else cell


def time_text(unix_ms: int | None) -> str | None:
    """``2027-01-31 12:00:00Z``; None for never."""
    if not unix_ms:
        return None
    return datetime.fromtimestamp(unix_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%SZ")
