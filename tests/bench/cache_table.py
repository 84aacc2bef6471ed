"""The tables of ``bench cache``."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table

from tests.bench.recall import print_finds


def print_cache_report(report: dict[str, Any]) -> int:
    """1 when the road answered errors, for then its figures mean nothing; a figure is not a failure."""
    console = Console(width=130)
    console.print(f"load average before: {report['load_before']:.1f}")
    table = Table(title="one look-up inside the filter (microseconds)")
    for column in ("way", "p50", "p99", "late"):
        table.add_column(column, justify="right")
    for row in report["filter"]:
        table.add_row(row["way"], f"{row['p50_us']:.0f}", f"{row['p99_us']:.0f}", f"{row['late']:.0f}")
    console.print(table)
    print_finds(console, report["likeness"])
    road = Table(title="the road through Envoy (medians; ratios to the first row of each load)")
    for column in ("load", "way", "req/s", "ratio", "p50 ms", "ratio", "errors"):
        road.add_column(column, justify="right")
    before = None
    for row in report["road"]["rows"]:
        if before not in (None, row["load"]):
            road.add_section()
        before = row["load"]
        rate = (f"{row['rps']:.0f}", f"{row['rps_ratio']:.2f}")
        road.add_row(
            row["load"],
            row["way"],
            *rate,
            f"{row['p50_us'] / 1000:.2f}",
            f"{row['p50_us_ratio']:.2f}",
            f"{row['errors']:.0f}",
        )
    console.print(road)
    for one in report["road"]["expiry"]:
        console.print(
            f"{one['engine_calls'] + one['hits'] + one['refused']:.0f} identical at once:"
            f" {one['engine_calls']:.0f} engine calls, {one['hits']:.0f} hits, {one['refused']:.0f} refused"
            f" in {one['took_s']:.2f} s"
        )
    return int(any(row["errors"] for row in report["road"]["rows"]))
