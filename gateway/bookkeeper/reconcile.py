"""``tidegate ledger reconcile``: what was not charged exactly becomes so, what nobody produced is released.

    python -m gateway.bookkeeper.reconcile --books DIR --ledger URL [--engine URL ...]
        [--engine-records DIR ...] [--policy DIR] [--region R] [--idle] [--json]

Witnesses: the books (with the access log's entries in them), the engines' own records, and the ledger, which
has the last word: each action is one idempotent call of it, so that a run may be repeated or cut short, and
a second one changes nothing. What no witness knows stays charged and is listed.

It is run by an operator or a schedule, not by the bookkeeper: it needs the engines' records, which the
bookkeeper does not reach, and it may be late by as much as a hold is remembered (24 hours). Without
``--idle`` it waits for nothing and touches only what must be over: see SETTLING and LEASE_WAIT in
reconcile_decision.py.

Exit code 0: done, also with unknown ones left. 1: the ledger or an engine did not answer, or the books are
damaged. 2: there is nothing to reconcile.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import orjson

from gateway.bookkeeper.arguments import Parser
from gateway.bookkeeper.reconcile_decision import PriceTable
from gateway.bookkeeper.reconcile_engines import (
    EngineRecords,
    EngineSilent,
    ExportedRecords,
    TwinRecords,
)
from gateway.bookkeeper.reconcile_run import Report, as_json, reconcile
from gateway.budget.ledger import TOMBSTONE_TTL
from gateway.budget.redis_ledger import RedisLedger
from gateway.contract.clock import Clock, SystemClock
from gateway.contract.errors import LedgerEmptied, LedgerUnavailable
from gateway.contract.ids import RegionName
from gateway.events.base import kept_segments, read_base
from gateway.events.chain import BrokenLine, read_line
from gateway.events.event import Event
from gateway.events.reading import Mark, NotThere, Reader
from gateway.events.recovery import BooksDamaged
from gateway.events.segment import segments_of
from gateway.models.catalogue import FILE, load_catalogue

DONE, FAILED, NOTHING = 0, 1, 2
LOOK_BACK_MS: Final = TOMBSTONE_TTL + 3600 * 1000
"""Older events are not read: the ledger has forgotten how their holds ended. An hour for clocks."""
LINES_MAX: Final = 20
"""Of unknown ones, in the text for people; ``--json`` has all."""


def events_since(directory: Path, region: RegionName, since_ms: int) -> Iterator[Event]:
    """The events of the books from the first segment on that may hold one so young. Raises BooksDamaged,
    OSError."""
    reader = Reader(directory, region, after=_mark_before(directory, region, since_ms))
    for record in reader:
        yield record.event


def _mark_before(directory: Path, region: RegionName, since_ms: int) -> Mark | None:
    """Of the last segment that was opened before ``since_ms``; None for the first there is."""
    mark = None
    for _, path in kept_segments(directory, read_base(directory, region))[1:]:
        with path.open("rb") as file:
            try:
                opened = read_line(file.readline())
            except BrokenLine:
                break  # the reader finds and names it
        if opened.event.at_ms > since_ms:
            break
        mark = Mark(seq=opened.seq - 1, hash=opened.prev)
    return mark


def _arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = Parser(
        prog="tidegate ledger reconcile",
        description="Settle what was not charged exactly, release what no engine had, return dead leases.",
        epilog="example: python -m gateway.bookkeeper.reconcile --books .tidegate/books "
        "--ledger unix:///run/ledger.sock --engine http://127.0.0.1:30000",
    )
    parser.add_argument("--books", type=Path, required=True, metavar="DIR", help="directory of the segments")
    parser.add_argument("--ledger", required=True, metavar="URL", help="unix:///path or redis://host:port/0")
    parser.add_argument("--region", default="local", help="whose books they are (default: local)")
    parser.add_argument(
        "--engine", action="append", default=[], metavar="URL", help="a twin, asked for its attempts"
    )
    parser.add_argument(
        "--engine-records",
        action="append",
        default=[],
        type=Path,
        metavar="DIR",
        help="where an SGLang writes its records (--export-metrics-to-file-dir)",
    )
    parser.add_argument(
        "--policy",
        type=Path,
        metavar="DIR",
        help="directory with models.yaml, for the money (without it money stays as it was charged)",
    )
    parser.add_argument(
        "--idle",
        action="store_true",
        help="no filter worker runs and no request is under way: wait for nothing",
    )
    parser.add_argument("--json", action="store_true", help="one JSON object instead of lines")
    return parser.parse_args(argv)


async def _run(arguments: argparse.Namespace, clock: Clock) -> Report:
    ledger = RedisLedger.connect(arguments.ledger)
    engines: list[EngineRecords] = [TwinRecords(url) for url in arguments.engine]
    engines += [ExportedRecords(directory) for directory in arguments.engine_records]
    since_ms = clock.unix_ms() - LOOK_BACK_MS
    try:
        events = events_since(arguments.books, RegionName(arguments.region), since_ms)
        prices = _prices(arguments.policy)
        return await reconcile(ledger, events, engines, clock, idle=arguments.idle, prices=prices)
    finally:
        await ledger.aclose()


def _prices(policy: Path | None) -> PriceTable:
    """Of the catalogue as it stands: a revision has one price. Raises PolicyError."""
    if policy is None:
        return {}
    models = load_catalogue(policy / FILE).models
    return {(model.name, model.revision): model.prices for model in models}


def _lines(report: Report) -> list[str]:
    lines = [
        f"unknown: {one['org']} {one['id']}: {one['tokens']} tokens stay charged: {one['why']}"
        for one in report.unknown[:LINES_MAX]
    ]
    if len(report.unknown) > LINES_MAX:
        lines.append(f"... and {len(report.unknown) - LINES_MAX} more")
    if report.differing:
        count = len(report.differing)
        lines.append(f"{count} complete answers were charged otherwise than their engine tells")
    why = Counter[str]()
    for one in report.waste:
        why[one["why"]] += one["tokens"]
    told = ", ".join(f"{tokens} {name}" for name, tokens in sorted(why.items())) or "none"
    lines.append(
        f"released {report.released}, settled {report.settled}, corrected {report.corrected}, leases "
        f"returned {report.leases_returned}; unknown {len(report.unknown)} ({report.unknown_tokens} tokens), "
        f"provisional {report.provisional}, open {report.open}; waste in tokens: {told}"
    )
    return lines


def main(argv: Sequence[str]) -> int:
    """Run the command with ``argv`` (without the program's name); prints, returns the exit code."""
    arguments = _arguments(argv)
    if not segments_of(arguments.books):
        where = f"{arguments.books}: no books"
        print(f"{where}; start the gateway once, or name them with --books", file=sys.stderr)
        return NOTHING
    try:
        report = asyncio.run(_run(arguments, SystemClock()))
    except (
        LedgerUnavailable,
        LedgerEmptied,
        EngineSilent,
        BooksDamaged,
        NotThere,
        OSError,
        ValueError,
    ) as error:
        print(f"tidegate ledger reconcile: {error}", file=sys.stderr)
        return FAILED
    if arguments.json:
        print(orjson.dumps(as_json(report), option=orjson.OPT_SORT_KEYS).decode())
    else:
        print("\n".join(_lines(report)))
    return DONE


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
