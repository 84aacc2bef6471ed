"""``tidegate ledger``: the books, and the ledger whose counters they are."""

from __future__ import annotations

import argparse
import json

from gateway.contract.clock import SystemClock
from mesh.commands.options import Commands, Parser, json_option, layout, state_option
from mesh.local.refusal import Refusal


def add(commands: Commands) -> None:
    """Registers ``ledger`` and its verbs."""
    ledger = commands.add_parser("ledger", help="look after the books")
    verbs = ledger.add_subparsers(required=True, metavar="VERB", parser_class=Parser)
    verify = verbs.add_parser(
        "verify",
        help="check the hash chain of every recorded decision",
        description="Check the hash chain and anchor of every recorded decision; exit 1 when one is broken.",
        epilog="example: tidegate ledger verify",
    )
    verify.set_defaults(run=_verify)
    replay = verbs.add_parser(
        "replay",
        help="rebuild the ledger's counters from the books and compare, or apply them to an emptied ledger",
        description="Rebuild every counter, hold, lease and adjustment from the books. Compares them with "
        "the ledger; with --apply writes them into a ledger that was emptied, which then opens again.",
        epilog="example: tidegate ledger replay --apply",
    )
    replay.add_argument("--apply", action="store_true", help="write them into an emptied ledger")
    replay.set_defaults(run=_replay)
    for command in (verify, replay):
        state_option(command)
        json_option(command)
    _add_export(verbs)
    _add_reconcile(verbs)
    _add_copies(verbs)
    _add_promote(verbs)


def _add_promote(verbs: Commands) -> None:
    promote = verbs.add_parser(
        "promote",
        help="make the ledger's replica the primary, and fence the old one",
        description="Fence the old primary (should it answer), let the replica follow nobody, and give it an "
        "epoch of a higher term, which running processes learn by themselves.",
        epilog="example: tidegate ledger promote --replica redis://ledger-1:6379 --old redis://ledger-0:6379",
    )
    promote.add_argument("--replica", required=True, metavar="URL", help="the store that is to serve")
    promote.add_argument("--old", metavar="URL", help="the primary it follows, dead or not")
    json_option(promote)
    promote.set_defaults(run=_promote)


def _add_export(verbs: Commands) -> None:
    export = verbs.add_parser(
        "export",
        help="sum up what was consumed into a CSV or Parquet file",
        description="Sum up requests, tokens, money, what is unknown and what was wasted, from the books.",
        epilog="example: tidegate ledger export --format csv --by org,model,day --from 2027-01-01 "
        "--to 2027-01-31 --out january.csv",
    )
    state_option(export)
    export.add_argument("--format", required=True, metavar="FORMAT", help="csv or parquet")
    export.add_argument(
        "--by", required=True, metavar="NAME,...", help="of org, team, user, key, model, workflow, day"
    )
    export.add_argument("--from", metavar="DAY", help="first day of UTC, as 2027-01-31 (default: all)")
    export.add_argument("--to", metavar="DAY", help="last day of UTC (default: all)")
    export.add_argument("--out", required=True, metavar="FILE", help="replaced if it is there")
    json_option(export)
    export.set_defaults(run=_export)


def _add_reconcile(verbs: Commands) -> None:
    reconcile = verbs.add_parser(
        "reconcile",
        help="settle what was not charged exactly, from the records of the engines",
        description="Settle what was not charged exactly, release what no engine had, return dead leases.",
        epilog="example: tidegate ledger reconcile --engine-records /var/log/sglang",
    )
    state_option(reconcile)
    reconcile.add_argument("--engine", action="append", default=[], metavar="URL", help="a twin to ask")
    reconcile.add_argument(
        "--engine-records",
        action="append",
        default=[],
        metavar="DIR",
        help="where an SGLang writes its records (--export-metrics-to-file-dir)",
    )
    reconcile.add_argument("--idle", action="store_true", help="no filter worker runs: wait for nothing")
    json_option(reconcile)
    reconcile.set_defaults(run=_reconcile)


def _add_copies(verbs: Commands) -> None:
    for name, option, text, example in (
        (
            "archive",
            "--to",
            "copy sealed segments to a directory or an object store, and remove old ones here",
            "tidegate ledger archive --to s3://books/eu-1 --keep-days 90",
        ),
        (
            "backup",
            "--to",
            "copy the books as they are, with a list of what must come back",
            "tidegate ledger backup --to file:///backups/2027-01-31",
        ),
        (
            "restore",
            "--from",
            "put a backup into an empty state directory and verify it",
            "tidegate ledger restore --state /srv/tg --from file:///backups/2027-01-31",
        ),
    ):
        verb = verbs.add_parser(
            name, help=text, description=text.capitalize() + ".", epilog=f"example: {example}"
        )
        state_option(verb)
        verb.add_argument(
            option, required=True, metavar="URL", help="file:///DIR, s3://BUCKET/DIR or gs://.."
        )
        if name == "archive":
            verb.add_argument("--keep-days", metavar="N", help="remove archived segments that are older")
        json_option(verb)
        verb.set_defaults(run=_restore if name == "restore" else _copy, verb=name)


def _verify(arguments: argparse.Namespace) -> int:
    from mesh.local.books import verify_books

    return verify_books(layout(arguments), SystemClock(), as_json=arguments.json)


def _replay(arguments: argparse.Namespace) -> int:
    from gateway.bookkeeper import replaying
    from mesh.local.books import books_options, refuse_no_books, with_ledger

    place = layout(arguments)
    refuse_no_books(place)
    options = books_options(place) + _words(arguments, "apply", "json")
    return with_ledger(place, SystemClock(), lambda url: replaying.main([*options, "--ledger", url]))


def _export(arguments: argparse.Namespace) -> int:
    from gateway.bookkeeper import export
    from mesh.local.books import books_options, refuse_no_books

    place = layout(arguments)
    refuse_no_books(place)
    return export.main(books_options(place) + _words(arguments, "format", "by", "from", "to", "out", "json"))


def _reconcile(arguments: argparse.Namespace) -> int:
    from gateway.bookkeeper import reconcile
    from mesh.local.books import books_options, refuse_no_books, with_ledger

    place = layout(arguments)
    refuse_no_books(place)
    options = books_options(place) + _words(arguments, "engine", "engine_records", "idle", "json")
    if (place.policy / "models.yaml").is_file():
        options += ["--policy", str(place.policy)]
    return with_ledger(place, SystemClock(), lambda url: reconcile.main([*options, "--ledger", url]))


def _copy(arguments: argparse.Namespace) -> int:
    from gateway.bookkeeper import copying
    from mesh.local.books import books_options, refuse_no_books

    place = layout(arguments)
    refuse_no_books(place)
    options = _words(arguments, "to", "keep_days", "json")
    return copying.main([arguments.verb, *books_options(place), *options])


def _restore(arguments: argparse.Namespace) -> int:
    from gateway.bookkeeper import copying
    from mesh.local.books import books_options, refuse_running
    from mesh.local.layout import prepare

    place = layout(arguments)
    refuse_running(place)
    prepare(place)
    return copying.main(["restore", *books_options(place), *_words(arguments, "from", "json")])


def _promote(arguments: argparse.Namespace) -> int:
    import asyncio

    from gateway.budget.redis_promotion import promote
    from gateway.contract.errors import LedgerUnavailable

    try:
        done = asyncio.run(promote(arguments.replica, arguments.old))
    except LedgerUnavailable as error:
        raise Refusal(
            f"not promoted: {error.message}", "see that --replica answers and has the books"
        ) from error
    except ValueError as error:
        raise Refusal(f"not promoted: {error}", "give both stores as redis://host:port/0") from error
    unfenced = "did not answer: start it again only as a replica" if arguments.old else "not named"
    old = "fenced" if done.fenced else unfenced
    if arguments.json:
        print(json.dumps({"epoch": done.epoch, "orgs": done.orgs, "fenced": done.fenced}))
    else:
        print(f"promoted: {done.orgs} orgs under epoch {done.epoch}; old primary: {old}")
    return 0


def _words(arguments: argparse.Namespace, *names: str) -> list[str]:
    """The options that were given, as words for another parser, which checks their values."""
    words: list[str] = []
    for name in names:
        value, option = getattr(arguments, name, None), "--" + name.replace("_", "-")
        if value is True:
            words.append(option)
        elif isinstance(value, list):
            words += [word for one in value for word in (option, str(one))]
        elif value not in (None, False):
            words += [option, str(value)]
    return words
