"""The tables of ``bench ledger``."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table


def print_ledger_report(report: dict[str, Any]) -> int:
    """Always 0: a figure is not a failure."""
    console = Console(width=150)
    table = Table(title="reserve + settle on Valkey (microseconds; medians of rounds)")
    for column in ("accounts", "at once", "way", "pairs/s"):
        table.add_column(column, justify="right")
    for column in ("reserve p50", "p99", "settle p50", "p99"):
        table.add_column(column, justify="right")
    before = None
    for row in report["store"]:
        if before not in (None, (row["accounts"], row["concurrency"])):
            table.add_section()
        before = (row["accounts"], row["concurrency"])
        times = [row[f"{verb}_{part}_us"] for verb in ("reserve", "settle") for part in ("p50", "p99")]
        table.add_row(
            str(row["accounts"]),
            str(row["concurrency"]),
            row["way"],
            f"{row['pairs_per_s']:.0f}",
            *(f"{time_us:.0f}" for time_us in times),
        )
    console.print(table)
    road = Table(title="the road (ms), and how long filters waited for the ledger (microseconds, mean)")
    for column in ("load", "budget", "req/s", "p50", "reserve", "settle", "both, of p50"):
        road.add_column(column, justify="right")
    for row in report["road"]:
        both = row["reserve_us"] + row["settle_us"]
        road.add_row(
            row["load"],
            row["budget"],
            f"{row['rps']:.0f}",
            f"{row['p50_us'] / 1000:.2f}",
            f"{row['reserve_us']:.0f}",
            f"{row['settle_us']:.0f}",
            f"{both / row['p50_us']:.0%}",
        )
    console.print(road)
    return 0
