"""The benchmark's one table: ratios to bare Envoy of the same run."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table


def _ratio(part: float | None, whole: float | None) -> str:
    return f"{part / whole:.2f}" if part is not None and whole else "-"


def _ms(value: float | None) -> str:
    return f"{value / 1000:.2f}" if value is not None else "-"


def _added(value: float | None, base: float | None) -> str:
    return f"{(value - base) / 1000:+.2f}" if value is not None and base is not None else "-"


def _row(scenario: str, target: str, figures: dict[str, Any], bare: dict[str, Any]) -> list[str]:
    streaming = figures["chunk_p50_us"] is not None
    p50, p99 = ("chunk_p50_us", "chunk_p99_us") if streaming else ("p50_us", "p99_us")
    per = (figures["cpu_s_per_1000_chunks"] if streaming else figures["cpu_us_per_request"]) or {}

    def cpu(part: str) -> str:
        if part not in per:
            return "-"
        return f"{per[part]:.4f}" if streaming else f"{per[part]:.0f}"

    envoy_us = figures["cpu_us_per_request"].get("envoy")
    return [
        scenario,
        target,
        f"{figures['rps']:.0f}" if figures["rps"] is not None else "-",
        _ratio(figures["rps"], bare["rps"]),
        f"{1e6 / envoy_us:.0f}" if envoy_us and not streaming else "-",
        _ms(figures[p50]),
        _added(figures[p50], bare[p50]),
        _ms(figures[p99]),
        _added(figures[p99], bare[p99]),
        cpu("envoy"),
        cpu("python"),
        cpu("valkey"),
        str(figures["errors"] + figures["codes"]["4xx"] + figures["codes"]["5xx"]),
    ]


def print_report(report: dict[str, Any], *, headroom: int) -> int:
    """Print the table and what the reader must know of it; 1 when there were errors."""
    console = Console(width=150)
    failed = 0
    for setting, scenarios in report["settings"].items():
        table = Table(
            title=f"{setting} (ms; CPU in us per request, or s per 1,000 chunks for streams)",
            show_lines=False,
        )
        for column in (
            *("load", "target", "req/s", "/bare", "req/s per Envoy core", "p50", "added", "p99", "added"),
            *("cpu envoy", "cpu python", "cpu valkey", "errors"),
        ):
            table.add_column(column, justify="left" if column in ("load", "target") else "right")
        for scenario, targets in scenarios.items():
            for target, figures in targets.items():
                table.add_row(*_row(scenario, target, figures, targets["bare envoy"]))
                failed += figures["errors"] + figures["codes"]["4xx"] + figures["codes"]["5xx"]
                if figures["error_sample"]:
                    console.print(f"{scenario} {target}: {figures['error_sample'][:300]}")
            table.add_section()
        console.print(table)
        plain = scenarios["json c=32"]
        factor = plain["upstream"]["rps"] / plain["bare envoy"]["rps"]
        verdict = (
            "enough" if factor >= headroom else f"below {headroom}: the load itself is part of the limit"
        )
        console.print(f"upstream and load generator alone: {factor:.1f} x bare Envoy ({verdict})")
    return 1 if failed else 0
