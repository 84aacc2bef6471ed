"""What was consumed, from the projection of the books: sums over a time, by what is asked for."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Final

from gateway.admin.change import BadValue, Conflict, unknown
from gateway.admin.duration import day, start_of
from gateway.bookkeeper.consumption import GROUPS, Sums, UsageRow
from gateway.bookkeeper.projection import NoProjection, usage_rows
from gateway.budget.calendar import DAY_MS
from gateway.contract.units import UnixMillis
from gateway.keys.api_key import UNIX_MS_MAX

SINCE_DEFAULT: Final = timedelta(days=30)
SPAN_MAX: Final = timedelta(days=400)
"""A year and a month to compare it with; longer is an export of the books."""
ROWS_MAX: Final = 10_000
"""Of one report: some 3 MiB of JSON."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageQuery:
    """``since_ms <= at < until_ms``. ``org`` None: every org. ``where``: only rows with these values."""

    since_ms: UnixMillis
    until_ms: UnixMillis
    by: tuple[str, ...] = ()
    org: str | None = None
    where: Mapping[str, str] = field(default_factory=dict)


class BadUsage(BadValue):
    """``param`` is the argument at fault: from, to or by."""

    def __init__(self, param: str, what: str, mend: str) -> None:
        """As NotDone."""
        super().__init__(what, mend)
        self.param = param


def groups_from(text: str) -> tuple[str, ...]:
    """Of ``org,team,day``. Raises BadUsage."""
    names = tuple(text.split(",")) if text else ()
    for name in names:
        if name not in GROUPS:
            mend = f"use {', '.join(GROUPS)}"
            raise BadUsage("by", f"by: nothing to group by is called {name[:40]!r}", mend)
    if len(set(names)) < len(names):
        raise BadUsage("by", "by: a name stands twice", "name each once")
    return names


def span_from(first: str | None, last: str | None, *, now: UnixMillis) -> tuple[UnixMillis, UnixMillis]:
    """From the beginning of one day to the end of another, both in UTC; from 30 days before until now, unless
    said. Raises BadUsage."""
    until_ms = UnixMillis(now + 1 if last is None else _start("to", last) + DAY_MS)
    usual = until_ms - SINCE_DEFAULT // timedelta(milliseconds=1)
    usual -= usual % DAY_MS  # a day of which hours are missing looks like a quiet one
    since_ms = UnixMillis(usual if first is None else _start("from", first))
    if since_ms >= until_ms:
        raise BadUsage("from", "from: is after to", "name an earlier day")
    if until_ms - since_ms > SPAN_MAX // timedelta(milliseconds=1):
        raise BadUsage("from", f"from: is more than {SPAN_MAX.days} days before to", "name a later day")
    return since_ms, until_ms


def _start(param: str, text: str) -> int:
    try:
        return start_of(day(text[:40]))
    except BadValue as error:
        raise BadUsage(param, f"{param}: {error.what}", error.mend) from None


async def report(books: Path, query: UsageQuery) -> list[UsageRow]:
    """Sorted by the groups. In a thread: it reads the disk, and the first one imports LanceDB. Raises
    Conflict while there is no projection, BadUsage for more than ROWS_MAX rows."""
    try:
        rows = await asyncio.to_thread(
            usage_rows,
            books,
            org=query.org,
            by=query.by,
            since_ms=query.since_ms,
            until_ms=query.until_ms,
            where=query.where,
        )
    except NoProjection as error:
        mend = "the bookkeeper makes one within seconds of its start; see './tidegate status'"
        raise Conflict(str(error).rstrip("."), mend) from None
    if len(rows) > ROWS_MAX:
        raise BadUsage("by", f"by: gives more than {ROWS_MAX} rows", "ask for fewer days, or group by less")
    return rows


async def known_org(books: Path, org: str) -> None:
    """Raises Unknown for an org that the books never charged."""
    always = UsageQuery(since_ms=UnixMillis(0), until_ms=UnixMillis(UNIX_MS_MAX), by=("org",))
    known = [row.group["org"] for row in await report(books, always)]
    if org not in known:
        raise unknown("org in the books", org, known)


def row_object(row: UsageRow) -> dict[str, object]:
    """JSON-ready: the groups, then the sums, all by name."""
    return {**row.group, **asdict(row.sums)}


def total_of(rows: Sequence[UsageRow]) -> Sums:
    """Of all rows."""
    return sum((row.sums for row in rows), Sums())
