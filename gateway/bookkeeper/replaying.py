"""``tidegate ledger replay``: rebuild the ledger's state from the books, compare it or apply it.

    python -m gateway.bookkeeper.replaying --books DIR --ledger URL [--region R] [--apply] [--json]

Without ``--apply`` nothing is changed: every counter, hold, lease and override that differs is listed. Events
that still wait in the outboxes are replayed behind the books, so that a ledger that nobody uses just now has
no difference. With ``--apply`` the state goes into a ledger that has none: it stays closed until all is
there; then holds without an end in the log are charged in full (a settle that comes late corrects them), and
the ledger opens.

Exit code 0: equal, or applied. 1: not so, and the lines say why. 2: there is nothing to replay.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import orjson

from gateway.bookkeeper.arguments import Parser
from gateway.bookkeeper.checkpoint import BadCheckpoint
from gateway.bookkeeper.outbox_events import event_of
from gateway.bookkeeper.rebuilding import replay_books
from gateway.bookkeeper.replay import Replay
from gateway.bookkeeper.replay_compare import Difference, differences
from gateway.budget.ledger import LeaseState, Outcome
from gateway.budget.rebuilt import RebuiltBooks
from gateway.budget.redis_ledger import RedisLedger
from gateway.budget.redis_outbox import START, RedisOutbox
from gateway.budget.redis_restore import NotEmpty, Restoring
from gateway.contract.errors import LedgerEmptied, LedgerUnavailable
from gateway.contract.ids import OrgId, RegionName
from gateway.contract.units import UnixMillis
from gateway.events.base import BadBase
from gateway.events.reading import Mark
from gateway.events.recovery import BooksDamaged
from gateway.events.segment import holds_records

DONE, FAILED, NOTHING = 0, 1, 2
READ_COUNT: Final = 1000
"""Outbox entries in one call."""
LINES_MAX: Final = 50
"""Differences shown to people; ``--json`` has all."""
EXPIRE_AT_ONCE: Final = 100
"""Holds in one atomic step of the store."""


@dataclasses.dataclass(slots=True, kw_only=True)
class Report:
    """What was done."""

    applied: bool
    records: int
    head: str
    waiting: int
    """Events that were taken from the outboxes."""
    orgs: int
    counters: int
    live_holds: int
    """Without an end in the log: unknown, once applied."""
    live_tokens: int
    """Of those holds."""
    live_leases: int
    unreadable: int
    irregular: int
    differences: list[Difference] = dataclasses.field(default_factory=list)

    @property
    def good(self) -> bool:
        """Nothing differs."""
        return not self.differences


async def compare(replay: Replay, mark: Mark, url: str) -> Report:
    """``replay`` gets what waits in the outboxes; the ledger is not changed. Raises LedgerUnavailable,
    LedgerEmptied, ValueError."""
    ledger, outbox, store = RedisLedger.connect(url), RedisOutbox.connect(url), Restoring.connect(url)
    try:
        await ledger.found_epoch(fresh=False)
        orgs = await ledger.orgs()
        waiting = sum([await _replay_outbox(replay, outbox, org) for org in orgs])
        books = {one.org: one for one in replay.books()}
        report = _report(replay, list(books.values()), mark, waiting=waiting)
        for org in sorted({*orgs, *books}):
            found = differences(books.get(org, _nothing(org)), await store.snapshot(org))
            report.differences += found
        return report
    finally:
        for connection in (ledger, outbox, store):
            await connection.aclose()


async def apply(replay: Replay, mark: Mark, url: str, region: RegionName) -> Report:
    """Raises NotEmpty, LedgerUnavailable, ValueError; the ledger is closed then, or as it was."""
    outbox, store = RedisOutbox.connect(url), Restoring.connect(url)
    try:
        books = replay.books()
        await store.begin()
        for one in books:
            await store.write(one)
            while await store.expire(one.org, holds_max=EXPIRE_AT_ONCE):
                pass
        if mark.seq:
            await outbox.set_anchor(region, mark.seq, mark.hash)
        await store.open()
        return _report(replay, books, mark, applied=True)
    finally:
        for connection in (outbox, store):
            await connection.aclose()


async def _replay_outbox(replay: Replay, outbox: RedisOutbox, org: OrgId) -> int:
    """How many entries the books did not have yet."""
    after, count = START, 0
    while entries := await outbox.read_outbox(org, after, READ_COUNT):
        for entry, fields in entries:
            if not replay.knows(org, entry):
                replay.add(event_of(RegionName(""), org, entry, fields))
                count += 1
        after = entries[-1][0]
    return count


def _nothing(org: OrgId) -> RebuiltBooks:
    return RebuiltBooks(org=org, clock_ms=UnixMillis(0), counters={}, holds={}, leases={})


def _report(
    replay: Replay, books: Sequence[RebuiltBooks], mark: Mark, *, waiting: int = 0, applied: bool = False
) -> Report:
    live = [hold for one in books for hold in one.holds.values() if hold.outcome is Outcome.LIVE]
    leases = [lease for one in books for lease in one.leases.values() if lease.state is LeaseState.LIVE]
    return Report(
        applied=applied,
        records=mark.seq,
        head=mark.hash,
        waiting=waiting,
        orgs=len(books),
        counters=sum(len(one.counters) for one in books),
        live_holds=len(live),
        live_tokens=sum(hold.amounts.tokens for hold in live),
        live_leases=len(leases),
        unreadable=replay.unreadable,
        irregular=replay.irregular_total,
    )


def _lines(report: Report) -> list[str]:
    shown = report.differences[:LINES_MAX]
    lines = [
        f"{one.org} {one.kind} {one.name}: replay {one.replay or 'none'}; ledger {one.ledger or 'none'}"
        for one in shown
    ]
    if len(report.differences) > len(shown):
        lines.append(f"... and {len(report.differences) - len(shown)} more")
    if report.unreadable or report.irregular:
        lines.append(
            f"{report.unreadable} events are unreadable, {report.irregular} end what the log does not know: "
            "what they moved may be missing"
        )
    end = f"{report.orgs} orgs, {report.counters} counters, {report.records} records, head {report.head[:16]}"
    open_ones = f"{report.live_holds} holds ({report.live_tokens} tokens) and {report.live_leases} leases"
    if report.applied:
        lines.append(f"applied: {end}; unknown, and charged in full: {open_ones}")
    else:
        verdict = "equal" if report.good else f"{len(report.differences)} differences"
        lines.append(f"{verdict}: {end}, {report.waiting} events from outboxes; without an end: {open_ones}")
    return lines


def _arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = Parser(
        prog="tidegate ledger replay",
        description="Rebuild the ledger's state from the books; compare it, or apply it to an emptied one.",
        epilog="example: python -m gateway.bookkeeper.replaying --books .tidegate/books --ledger unix:///s",
    )
    parser.add_argument("--books", type=Path, required=True, metavar="DIR", help="directory of the segments")
    parser.add_argument("--ledger", required=True, metavar="URL", help="unix:///path or redis://host:port/0")
    parser.add_argument("--region", default="local", help="whose books they are (default: local)")
    parser.add_argument("--apply", action="store_true", help="write it into a ledger that was emptied")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of lines")
    return parser.parse_args(argv)


def _failed(why: str) -> int:
    print(why, file=sys.stderr)
    return FAILED


def main(argv: Sequence[str]) -> int:
    """Run the command with ``argv`` (without the program's name); prints, returns the exit code."""
    arguments = _arguments(argv)
    region = RegionName(arguments.region)
    if not arguments.books.is_dir() or not holds_records(arguments.books):
        where = f"{arguments.books}: no books"
        print(f"{where}; start the gateway once, or name them with --books", file=sys.stderr)
        return NOTHING
    try:
        replay, mark = replay_books(arguments.books, region)
        url = arguments.ledger
        done = apply(replay, mark, url, region) if arguments.apply else compare(replay, mark, url)
        report = asyncio.run(done)
    except (BooksDamaged, BadBase, BadCheckpoint) as error:
        return _failed(f"the books are damaged: {error}; 'tidegate ledger verify' lists every place")
    except NotEmpty as error:
        return _failed(f"{error}; --apply is for a ledger that has lost its books: compare without it")
    except LedgerEmptied:
        return _failed(
            "the ledger was emptied and is closed: rebuild it with 'tidegate ledger replay --apply'"
        )
    except (LedgerUnavailable, ValueError) as error:
        return _failed(f"{error}; nothing was compared or applied")
    if arguments.json:
        fields = {**dataclasses.asdict(report), "good": report.good}
        print(orjson.dumps(fields, option=orjson.OPT_SORT_KEYS).decode())
    else:
        print("\n".join(_lines(report)))
    return DONE if report.good else FAILED


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
