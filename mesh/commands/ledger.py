"""``tidegate ledger``."""

from __future__ import annotations

import argparse

from gateway.contract.clock import SystemClock
from mesh.commands.options import Commands, Parser, layout, state_option


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
    state_option(verify)
    verify.add_argument("--json", action="store_true", help="one JSON object instead of lines")
    verify.set_defaults(run=_ledger_verify)


def _ledger_verify(arguments: argparse.Namespace) -> int:
    from mesh.local.books import verify_books

    return verify_books(layout(arguments), SystemClock(), as_json=arguments.json)
