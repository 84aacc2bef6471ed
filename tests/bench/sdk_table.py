"""The table of what an application sees: gateway against engine of the same run."""

from __future__ import annotations

from typing import Any, Final

from rich.console import Console
from rich.table import Table

from tests.bench.sdk import DIRECT, GATEWAY

MEASURES: Final = ("first_token", "between_chunks", "whole_answer")
COLUMNS: Final = (
    *("load", "callers", "what", "samples", "engine p50", "tidegate p50", "added", "ratio"),
    *("engine p99", "tidegate p99", "added", "ratio"),
)


def _compared(direct: float | None, gateway: float | None) -> list[str]:
    if direct is None or gateway is None:
        return ["-", "-", "-", "-"]
    ratio = f"{gateway / direct:.2f}" if direct else "-"
    return [f"{direct:.2f}", f"{gateway:.2f}", f"{gateway - direct:+.2f}", ratio]


def print_sdk_report(report: dict[str, Any]) -> int:
    """Print the table; 1 when there were errors or nothing was measured."""
    console = Console(width=150)
    table = Table(title=f"the openai client (asyncio) on the {report['engine']}: ms, directly and through us")
    for column in COLUMNS:
        table.add_column(column, justify="left" if column in ("load", "what") else "right")
    failed = 0
    for row in report["rows"]:
        direct, gateway = row[DIRECT], row[GATEWAY]
        for measure in MEASURES:
            one, other = direct[measure], gateway[measure]
            failed += not one["count"] or not other["count"]
            table.add_row(
                row["load"],
                str(row["concurrency"]),
                measure.replace("_", " "),
                f"{one['count']}/{other['count']}",
                *_compared(one["p50_ms"], other["p50_ms"]),
                *_compared(one["p99_ms"], other["p99_ms"]),
            )
        table.add_section()
        for error in (*direct["errors"], *gateway["errors"])[:3]:
            console.print(f"{row['load']} {row['concurrency']}: {error[:300]}")
        failed += len(direct["errors"]) + len(gateway["errors"])
    console.print(table)
    return 1 if failed else 0
