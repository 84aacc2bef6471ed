"""``./tidegate bench``: sections ``path``, ``sdk``, ``ledger``, ``recall`` and ``cache``; all without a name.

``path`` is bare Envoy against the whole path, in one run, as ratios; ``sdk`` is what the official Python
client sees (tests/bench/sdk.py); ``ledger`` is what reserve and settle cost (tests/bench/ledger.py);
``recall`` is what a look-up by likeness costs (tests/bench/recall.py); ``cache`` is what hits cost, and what
the cache does to the road (tests/bench/cache.py). In ``path``, slices of the targets
alternate, so that a machine whose speed drifts treats all alike; medians over the rounds are printed. Two
settings: ``shared`` lets the kernel place everything, ``one core`` pins the whole gateway (or bare Envoy) to
CPU 0 and the load to CPU 1. CPU seconds are the processes' own.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

from tests.bench import cache, ledger, recall, sdk
from tests.bench.cache_table import print_cache_report
from tests.bench.ledger_table import print_ledger_report
from tests.bench.load import SCENARIOS, BenchError, Scenario, compiled, run_slice
from tests.bench.sdk_table import print_sdk_report
from tests.bench.table import print_report
from tests.bench.targets import MODEL, ROOT, BareEnvoy, Target, Upstream, WholePath

SECTIONS: Final = ("path", "sdk", "ledger", "recall", "cache")
ROUNDS: Final = 3
UPSTREAM_HEADROOM: Final = 5
"""The load alone must do this many times bare Envoy's rate, else it is part of the limit."""

Slices = dict[tuple[str, str, str], list[dict[str, Any]]]


def measured(
    program: Path, scenario: Scenario, target: Target, *, seconds: float, work_dir: Path, cpus: set[int]
) -> dict[str, Any]:
    """One slice: the load generator's figures plus each part's CPU seconds."""
    before = target.cpu_s()
    result = run_slice(
        program,
        scenario,
        port=target.port,
        token=target.token,
        model=MODEL,
        seconds=seconds,
        work_dir=work_dir,
        cpus=cpus,
    )
    result["cpu_by_part_s"] = {part: spent - before[part] for part, spent in target.cpu_s().items()}
    return result


def run_setting(
    setting: str, program: Path, targets: list[Target], *, seconds: float, work_dir: Path, slices: Slices
) -> None:
    """ROUNDS rounds of every scenario against every target."""
    everything = os.sched_getaffinity(0)
    load_cpus = {max(everything)} if setting == "one core" else everything
    for target in targets:
        gateway_cpus = (
            {min(everything)} if setting == "one core" and target.name != "upstream" else everything
        )
        target.pin(load_cpus if target.name == "upstream" else gateway_cpus)
    for round_number in range(ROUNDS):
        for scenario in SCENARIOS:
            for target in targets:
                result = measured(
                    program, scenario, target, seconds=seconds, work_dir=work_dir, cpus=load_cpus
                )
                slices.setdefault((setting, scenario.name, target.name), []).append(result)
        print(f"  {setting}: round {round_number + 1} of {ROUNDS}", file=sys.stderr, flush=True)


def summary(slices: Slices) -> dict[str, Any]:
    """Medians over rounds by setting, scenario and target; times in microseconds."""
    report: dict[str, Any] = {}
    for (setting, scenario, target), results in slices.items():

        def median(*path: str, results: list[dict[str, Any]] = results) -> float | None:
            values = []
            for result in results:
                value: Any = result
                for key in path:
                    value = value.get(key) if isinstance(value, dict) else None
                if isinstance(value, int | float):
                    values.append(float(value))
            return statistics.median(values) if values else None

        requests = sum(result["started"] for result in results)
        chunks = sum(result.get("chunks", 0) for result in results)
        cpu: dict[str, float] = {}
        for result in results:
            for part, spent in result["cpu_by_part_s"].items():
                cpu[part] = cpu.get(part, 0.0) + spent
        row = {
            "rps": median("rps"),
            "p50_us": median("latency_us", "p50"),
            "p99_us": median("latency_us", "p99"),
            "ttft_p50_us": median("ttft_us", "p50"),
            "chunk_p50_us": median("transit_us", "p50"),
            "chunk_p99_us": median("transit_us", "p99"),
            "ok": sum(result["ok"] for result in results),
            "errors": sum(result["errors"] + result["timeouts"] for result in results),
            "codes": {
                code: sum(result["codes"][code] for result in results) for code in ("2xx", "4xx", "5xx")
            },
            "cpu_us_per_request": {part: spent / max(1, requests) * 1e6 for part, spent in cpu.items()},
            "cpu_s_per_1000_chunks": {part: spent / chunks * 1e3 for part, spent in cpu.items()}
            if chunks
            else None,
            "error_sample": next(
                (result["error_sample"] for result in results if "error_sample" in result), None
            ),
        }
        report.setdefault(setting, {}).setdefault(scenario, {})[target] = row
    return report


def run(seconds: float) -> dict[str, Any]:
    """Start the three targets, measure, stop them; ``seconds`` is for one slice."""
    build = ROOT / ".tidegate" / "bench"
    loadgen, mock = compiled("loadgen", build), compiled("mock_openai", build)
    slices: Slices = {}
    with tempfile.TemporaryDirectory(prefix="tidegate-bench-") as directory:
        work_dir = Path(directory)
        closing: list[Upstream | WholePath | BareEnvoy] = []
        try:
            upstream = Upstream(mock)
            closing.append(upstream)
            whole = WholePath(upstream.port, work_dir / "state")
            closing.append(whole)
            bare = BareEnvoy(whole.bootstrap(), gateway_port=whole.port, work_dir=work_dir)
            closing.append(bare)
            targets = [upstream.target(), bare.target(), whole.target()]
            for setting in ("shared", "one core"):
                run_setting(setting, loadgen, targets, seconds=seconds, work_dir=work_dir, slices=slices)
        finally:
            for part in reversed(closing):
                part.close()
    return {"seconds_per_slice": seconds, "rounds": ROUNDS, "settings": summary(slices)}


def main(argv: list[str] | None = None) -> int:
    """Print the tables; exit 1 when a target answered errors, for then the figures mean nothing."""
    parser = argparse.ArgumentParser(prog="tidegate bench", description=__doc__)
    parser.add_argument("section", nargs="*", help=f"{', '.join(SECTIONS)} (default: all)")
    parser.add_argument("--seconds", type=float, default=2.0, help="length of one slice (default 2)")
    parser.add_argument("--engine", choices=("twin", "sglang"), default="twin", help="of section sdk")
    parser.add_argument("--json", type=Path, help="also write every figure to this file")
    arguments = parser.parse_args(argv)
    sections = arguments.section or SECTIONS
    if unknown := set(sections) - set(SECTIONS):
        parser.error(f"no section {min(unknown)!r}; known are {', '.join(SECTIONS)}")
    report: dict[str, Any] = {}
    try:
        if "path" in sections:
            report |= run(arguments.seconds)
        if "sdk" in sections:
            report["sdk"] = sdk.run(arguments.seconds, arguments.engine)
        if "ledger" in sections:
            report["ledger"] = ledger.figures(arguments.seconds)
        if "recall" in sections:
            report["recall"] = recall.figures()
        if "cache" in sections:
            report["cache"] = cache.figures(arguments.seconds)
    except BenchError as error:
        print(error, file=sys.stderr)
        return 2
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=2))
    failed = print_report(report, headroom=UPSTREAM_HEADROOM) if "path" in sections else 0
    failed |= print_sdk_report(report["sdk"]) if "sdk" in sections else 0
    failed |= print_ledger_report(report["ledger"]) if "ledger" in sections else 0
    failed |= recall.print_recall_report(report["recall"]) if "recall" in sections else 0
    return failed | (print_cache_report(report["cache"]) if "cache" in sections else 0)


if __name__ == "__main__":
    sys.exit(main())
