"""``tidegate ledger verify``: are the books what was written?

    python -m gateway.bookkeeper.verify --books DIR [--ledger URL] [--region R] [--json]

Exit code 0: every byte is in order, and with ``--ledger`` nothing is missing at the end. 1: not so, or the
ledger was named and did not answer. 2: there is nothing to check.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

import orjson

from gateway.bookkeeper.arguments import Parser
from gateway.budget.redis_outbox import RedisOutbox
from gateway.contract.errors import LedgerUnavailable
from gateway.contract.ids import RegionName
from gateway.events.chain import Anchor
from gateway.events.verify import Report, verify

CLEAN, BROKEN, NOTHING = 0, 1, 2


def _arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = Parser(
        prog="tidegate ledger verify",
        description="Check every byte of the event segments, and their end against the ledger.",
        epilog="example: python -m gateway.bookkeeper.verify --books .tidegate/books",
    )
    parser.add_argument("--books", type=Path, required=True, metavar="DIR", help="directory of the segments")
    parser.add_argument(
        "--ledger", metavar="URL", help="ledger that keeps the anchor: unix:///path or redis://"
    )
    parser.add_argument("--region", default="local", help="whose books they are (default: local)")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of lines")
    return parser.parse_args(argv)


async def read_anchor(url: str, region: RegionName) -> Anchor | None:
    """What the ledger remembers of the books; None before the first. Raises LedgerUnavailable, ValueError."""
    outbox = RedisOutbox.connect(url)
    try:
        found = await outbox.anchor(region)
    finally:
        await outbox.aclose()
    return Anchor(count=int(found["count"]), head=found["head"]) if found else None


def _lines(report: Report, anchor: str) -> list[str]:
    lines = [f"{p.file}:{p.line} (byte {p.byte}): {p.text} [{p.kind}]" for p in report.problems]
    if report.problems_total > len(report.problems):
        lines.append(f"... and {report.problems_total - len(report.problems)} more")
    if report.torn_bytes:
        lines.append(f"({report.torn_bytes} bytes of a record in the making at the end)")
    verdict = "clean" if report.clean else _counted(report.problems_total, "problem")
    lines.append(
        f"{verdict}: {_counted(report.events, 'record')} in {_counted(report.segments, 'segment')} "
        f"({report.sealed} sealed), head {report.head[:16]}, anchor {anchor}"
    )
    return lines


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def main(argv: Sequence[str]) -> int:
    """Run the command with ``argv`` (without the program's name); prints, returns the exit code."""
    arguments = _arguments(argv)
    region = RegionName(arguments.region)
    anchor, state = None, "not asked"
    if not arguments.books.is_dir():
        where = f"{arguments.books}: no such directory"
        print(f"{where}; start the gateway once, or name it with --books", file=sys.stderr)
        return NOTHING
    if arguments.ledger is not None:
        try:
            anchor = asyncio.run(read_anchor(arguments.ledger, region))
            state = "none yet" if anchor is None else f"at record {anchor.count}"
        except (LedgerUnavailable, ValueError) as error:
            state = f"unknown: {error}"
    report = verify(arguments.books, region, anchor)
    known = arguments.ledger is None or not state.startswith("unknown")
    if anchor is None and arguments.ledger is not None and known and report.events > 1:
        # The first record alone may stand for a moment before the first anchor.
        state = "missing, though there are books: the ledger was emptied or is another region's"
        known = False
    if arguments.json:
        fields = {**dataclasses.asdict(report), "clean": report.clean and known, "anchor_state": state}
        print(orjson.dumps(fields, option=orjson.OPT_SORT_KEYS).decode())
    else:
        print("\n".join(_lines(report, state)))
    return CLEAN if report.clean and known else BROKEN


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
