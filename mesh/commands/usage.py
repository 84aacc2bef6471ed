"""``tidegate usage``: what was consumed, from the books."""

from __future__ import annotations

import argparse
import asyncio
from dataclasses import asdict

from gateway.contract.clock import SystemClock
from mesh.commands.options import Commands, json_option, layout, parsed, state_option


def add(commands: Commands) -> None:
    """Registers ``usage``."""
    usage = commands.add_parser(
        "usage",
        help="report what was consumed",
        description="Report what was consumed, from the books: settled requests, a few seconds old. "
        "Users are the pseudonyms of the events; a day is one of UTC.",
        epilog="example: tidegate usage --by team,model --org demo --from 2027-01-01 --to 2027-01-31",
    )
    usage.add_argument(
        "--by", default="org", metavar="NAME,NAME", help="of org,team,user,key,model,workflow,day (org)"
    )
    usage.add_argument("--from", dest="first", metavar="YYYY-MM-DD", help="first day (30 before the last)")
    usage.add_argument("--to", dest="last", metavar="YYYY-MM-DD", help="last day (now)")
    usage.add_argument("--org", help="of this org only")
    state_option(usage)
    json_option(usage)
    usage.set_defaults(run=_usage)


def _usage(arguments: argparse.Namespace) -> int:
    from gateway.admin.usage import (
        UsageQuery,
        groups_from,
        known_org,
        report,
        row_object,
        span_from,
        total_of,
    )
    from mesh.commands.output import print_json, print_table
    from mesh.local.desk import plainly, policy_here

    here = layout(arguments)
    policy_here(here)
    by = parsed(lambda: groups_from(arguments.by))
    since_ms, until_ms = parsed(
        lambda: span_from(arguments.first, arguments.last, now=SystemClock().unix_ms())
    )
    query = UsageQuery(since_ms=since_ms, until_ms=until_ms, by=by, org=arguments.org)
    with plainly():
        rows = asyncio.run(report(here.books, query))
        if not rows and arguments.org is not None:
            asyncio.run(known_org(here.books, arguments.org))
    total = asdict(total_of(rows))
    if arguments.json:
        print_json(
            {
                "object": "usage_report",
                "org": arguments.org,
                "from_ms": since_ms,
                "to_ms": until_ms,
                "by": list(by),
                "rows": [row_object(row) for row in rows],
                "total": total,
            }
        )
        return 0
    lines: list[list[str | int | None]] = [
        [*(row.group[name] or None for name in by), *asdict(row.sums).values()] for row in rows
    ]
    if by:  # without, the one row is the sum
        lines.append([*("all" for _ in by), *total.values()])
    print_table([*by, *total], lines or [[*total.values()]])
    return 0
