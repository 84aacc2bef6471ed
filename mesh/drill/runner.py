"""Runs one drill: progress, figures against criteria, a table, JSON, an exit code."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from pathlib import Path
from typing import Any

import orjson
from rich.console import Console
from rich.table import Table

from mesh.drill.catalogue import DRILLS
from mesh.drill.drill import Aborted, Drill, Setup, Verdict, judged
from mesh.local.refusal import Refusal

PASSED, FAILED = 0, 1


def list_drills(console: Console) -> int:
    """What there is."""
    table = Table("drill", "question", "requests", "planted bugs", box=None, pad_edge=False)
    for drill in DRILLS.values():
        table.add_row(drill.name, drill.question, str(drill.requests), ", ".join(drill.canaries))
    console.print(table)
    return PASSED


def run_drill(
    name: str,
    console: Console,
    *,
    requests: int | None,
    seed: int | None,
    canary: str,
    leases: bool,
    file: Path | None,
) -> int:
    """0 when it passed, 1 when a criterion is broken. Raises Refusal for what cannot be run, and for a drill
    that was aborted."""
    drill = DRILLS.get(name)
    if drill is None:
        raise Refusal(f"no drill {name!r}", f"known are {', '.join(DRILLS)}")
    if canary and canary not in drill.canaries:
        raise Refusal(f"{name} plants no {canary!r}", f"known are {', '.join(drill.canaries)}")
    work = Path(tempfile.mkdtemp(prefix="tg-drill-"))
    setup = Setup(
        requests=requests or drill.requests,
        seed=drill.seed if seed is None else seed,
        canary=canary,
        work=work,
        leases=leases,
        say=lambda text: console.print(text, highlight=False, markup=False, soft_wrap=True),
    )
    verdict = None
    try:
        verdict = asyncio.run(_bounded(drill, setup))
    except Aborted as error:
        raise Refusal(f"{name} was aborted: {error}", f"see the logs in {work}") from None
    finally:
        # What a failure leaves behind is evidence; a planted bug's is not.
        if verdict is not None and (verdict.passed or canary):
            shutil.rmtree(work, ignore_errors=True)
    _show(drill, verdict, console)
    if not verdict.passed and not canary:
        setup.say(f"books, truth log and process logs are kept in {work}")
    if file is not None:
        file.write_bytes(orjson.dumps(verdict.to_fields(), option=orjson.OPT_INDENT_2) + b"\n")
    return PASSED if verdict.passed else FAILED


async def _bounded(drill: Drill, setup: Setup) -> Verdict:
    most = drill.seconds_max(setup.requests)
    setup.say(f"{drill.name}: {drill.question}")
    leases = ", workers hold leases" if setup.leases else ""
    setup.say(f"seed {setup.seed}, {setup.requests} requests{leases}, at most {most:.0f} s")
    try:
        async with asyncio.timeout(most):
            figures = await drill.perform(setup)
    except TimeoutError:
        raise Aborted(f"not done within {most:.0f} s") from None
    return judged(drill, setup, figures)


def _show(drill: Drill, verdict: Verdict, console: Console) -> None:
    table = Table("figure", "value", "", box=None, pad_edge=False)
    for name, value in verdict.figures.items():
        table.add_row(name, _text(value), drill.measures.get(name, ""))
    console.print(table)
    for criterion in drill.criteria:
        mark = "BROKEN" if criterion in verdict.broken else "holds"
        console.print(f"{mark:7} {criterion.text}", highlight=False, markup=False)
    console.print("passed" if verdict.passed else "FAILED", highlight=False)


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {count}" for name, count in value.items())
    return str(value)
