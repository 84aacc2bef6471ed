"""``tidegate budget``: look at budgets and adjust them."""

from __future__ import annotations

import argparse
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Final

from gateway.contract.clock import SystemClock
from mesh.commands.options import Commands, Parser, by_options, json_option, layout, parsed, state_option

if TYPE_CHECKING:
    from gateway.admin.budgets import Budgets
    from gateway.admin.change import By
    from gateway.budget.window import Standing

_SET: Final = (
    ("set", "set a limit in place of the policy's", "It counts until it is reset.", "--limit"),
    ("raise", "set a higher limit", "Refuses one that is not higher.", "--limit"),
    ("lower", "set a lower limit", "Refuses one that is not lower; takes nothing back.", "--limit"),
    ("top-up", "add to a limit, in the current window only", "The next has the limit alone.", "--amount"),
    ("reset", "let the policy's limit count again", "Undoes set, raise and lower of one window.", "--window"),
    ("freeze", "grant nothing on an account", "Whatever is left; what was granted goes on.", ""),
    ("unfreeze", "undo freeze", "What is left may be spent again.", ""),
)
_ACCOUNT_HELP: Final = "org, or team, user, key, model or workflow with /NAME"
_FORMS: Final = {
    "--limit": "tokens=100000 per minute",
    "--amount": "tokens=5000000 per month",
    "--window": "tokens per minute",
    "": "",
}


def add(commands: Commands) -> None:
    """Registers ``budget`` and its verbs."""
    budget = commands.add_parser("budget", help="show and adjust budgets")
    verbs = budget.add_subparsers(required=True, metavar="VERB", parser_class=Parser)
    show = verbs.add_parser(
        "show",
        help="show every window of an account",
        description="Show every window of an account as it stands now.",
        epilog="example: tidegate budget show --org demo --account key/demo",
    )
    show.add_argument("--org", required=True)
    show.add_argument("--account", default="org", metavar="LEVEL/NAME", help=_ACCOUNT_HELP)
    listed = verbs.add_parser(
        "list",
        help="show the accounts of an org, or of all",
        description="Show every window of every account that the policy, the keys or the ledger name.",
        epilog="example: tidegate budget list --org demo --json",
    )
    listed.add_argument("--org", help="of this org only")
    for verb, run in ((show, _show), (listed, _list)):
        state_option(verb)
        json_option(verb)
        verb.set_defaults(run=run)
    for name, text, more, option in _SET:
        _add_change(verbs, name, text, more, option)


def _add_change(verbs: Commands, name: str, text: str, more: str, option: str) -> None:
    said = f' {option} "{_FORMS[option]}"' if option else ""
    verb = verbs.add_parser(
        name,
        help=text,
        description=f"{text[0].upper()}{text[1:]}. {more}",
        epilog=f'example: tidegate budget {name} --org demo --account key/demo{said} --reason "..."',
    )
    verb.add_argument("--org", required=True)
    verb.add_argument("--account", required=True, metavar="LEVEL/NAME", help=_ACCOUNT_HELP)
    if option:
        words = f"as in budgets.yaml: '{_FORMS[option]}'"
        verb.add_argument(option, required=True, dest="phrase", metavar="WORDS", help=words)
    by_options(verb)
    state_option(verb)
    json_option(verb)
    verb.set_defaults(run=_change, verb=name)


def _show(arguments: argparse.Namespace) -> int:
    from mesh.local.desk import at_desk

    org, account = arguments.org, arguments.account
    windows = at_desk(layout(arguments), SystemClock(), lambda desk: desk.budgets.show(org, account))
    return _tell({org: windows}, arguments, one=True)


def _list(arguments: argparse.Namespace) -> int:
    from mesh.local.desk import Desk, at_desk

    async def all_of(desk: Desk) -> dict[str, Sequence[Standing]]:
        orgs = await desk.budgets.orgs() if arguments.org is None else [arguments.org]
        return {org: await desk.budgets.show(org) for org in orgs}

    return _tell(at_desk(layout(arguments), SystemClock(), all_of), arguments, one=False)


def _change(arguments: argparse.Namespace) -> int:
    from gateway.admin.change import By
    from mesh.local.desk import at_desk

    by = parsed(lambda: By(actor=arguments.actor, reason=arguments.reason))
    change = _change_named(arguments, by)
    windows = at_desk(layout(arguments), SystemClock(), lambda desk: change(desk.budgets))
    return _tell({arguments.org: windows}, arguments, one=True)


def _change_named(
    arguments: argparse.Namespace, by: By
) -> Callable[[Budgets], Awaitable[Sequence[Standing]]]:
    from gateway.admin.phrase import limit_phrase, window_phrase

    org, account, verb = arguments.org, arguments.account, arguments.verb
    if verb == "freeze":
        return lambda budgets: budgets.freeze(org, account, by)
    if verb == "unfreeze":
        return lambda budgets: budgets.unfreeze(org, account, by)
    if verb == "reset":
        window = parsed(lambda: window_phrase(arguments.phrase))
        return lambda budgets: budgets.reset(org, account, window, by)
    phrase = parsed(lambda: limit_phrase(arguments.phrase))
    if verb == "raise":
        return lambda budgets: budgets.raise_to(org, account, phrase, by)
    if verb == "lower":
        return lambda budgets: budgets.lower_to(org, account, phrase, by)
    if verb == "top-up":
        return lambda budgets: budgets.top_up(org, account, phrase, by)
    return lambda budgets: budgets.set(org, account, phrase, by)


def _tell(found: dict[str, Sequence[Standing]], arguments: argparse.Namespace, *, one: bool) -> int:
    from gateway.admin.budgets import standing_object
    from gateway.admin.phrase import words_of_span
    from gateway.budget.window import UNLIMITED
    from mesh.commands.output import print_json, print_table, time_text

    if arguments.json:
        data = [
            {"object": "budget", "org": org, "windows": [standing_object(standing) for standing in windows]}
            for org, windows in found.items()
        ]
        print_json(data[0] if one else {"object": "list", "data": data})
        return 0
    header = ("org", "account", "window", "limit", "used", "held", "left", "kind", "resets")
    rows = [
        (
            *(org, standing.account, words_of_span(standing.measure, standing.span)),
            None if standing.limit == UNLIMITED else standing.limit,
            *(standing.used, standing.held),
            None if standing.limit == UNLIMITED else standing.remaining,
            f"{standing.enforcement}{', frozen' if standing.frozen else ''}",
            time_text(standing.resets_at),
        )
        for org, windows in found.items()
        for standing in windows
    ]
    print_table(header, rows)
    return 0
