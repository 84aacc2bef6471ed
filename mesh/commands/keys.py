"""``tidegate keys``: create, rotate, revoke and list API keys."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from gateway.contract.clock import SystemClock
from mesh.commands.options import Commands, Parser, by_options, json_option, layout, parsed, state_option

if TYPE_CHECKING:
    from gateway.admin.keys import Issued
    from gateway.keys.api_key import ApiKey


def add(commands: Commands) -> None:
    """Registers ``keys`` and its verbs."""
    keys = commands.add_parser("keys", help="create, rotate, revoke and list API keys")
    verbs = keys.add_subparsers(required=True, metavar="VERB", parser_class=Parser)
    _add_create(verbs)
    rotate = verbs.add_parser(
        "rotate",
        help="give a key a new secret",
        description="Give a key a new secret and print it, once. The old one lives for the overlap.",
        epilog='example: tidegate keys rotate ci --overlap 24h --reason "yearly rotation"',
    )
    rotate.add_argument("id", metavar="ID", help="the key's id, as 'tidegate keys list' shows it")
    rotate.add_argument(
        "--overlap", default="0", metavar="0..7d", help="how long the old secret lives on (0: not at all)"
    )
    revoke = verbs.add_parser(
        "revoke",
        help="refuse a key from now on",
        description="Refuse a key with all its secrets, on every worker within a second, for good.",
        epilog='example: tidegate keys revoke ci --reason "found in a public repository"',
    )
    revoke.add_argument("id", metavar="ID", help="the key's id, as 'tidegate keys list' shows it")
    listed = verbs.add_parser(
        "list",
        help="show every key, without its secret",
        description="Show every key: whose it is, what it may do, how long it lives. Never a secret.",
        epilog="example: tidegate keys list --org demo --json",
    )
    listed.add_argument("--org", help="of this org only")
    for verb, run in ((rotate, _rotate), (revoke, _revoke), (listed, _list)):
        if verb is not listed:
            by_options(verb)
        state_option(verb)
        json_option(verb)
        verb.set_defaults(run=run)


def _add_create(verbs: Commands) -> None:
    create = verbs.add_parser(
        "create",
        help="make a key and print its secret, once",
        description="Make a key and print its secret, which is stored nowhere: only its hash is.",
        epilog='example: tidegate keys create --org demo --id ci --expires 90d --reason "for the build"',
    )
    create.add_argument("--org", required=True, help="whose budget it spends")
    create.add_argument("--id", default="", help="its name, in messages and as key/ID in budgets (made up)")
    create.add_argument("--team", default="default", help="(default)")
    create.add_argument("--user", default="", help="(a user of its own, named as the key)")
    create.add_argument("--tier", default="standard", help="of the budget policy (standard)")
    create.add_argument("--models", default="*", metavar="NAME,NAME", help="it may use (all)")
    create.add_argument("--scopes", default="", metavar="NAME,NAME", help="such as usage:org (none)")
    create.add_argument("--expires", metavar="90d|2027-01-31", help="then, at 0:00 UTC (never)")
    by_options(create)
    state_option(create)
    json_option(create)
    create.set_defaults(run=_create)


def _words(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(",")) if text else ()


def _create(arguments: argparse.Namespace) -> int:
    from gateway.admin.change import By
    from gateway.admin.duration import moment
    from gateway.admin.keys import NewKey
    from mesh.local.desk import at_desk

    clock = SystemClock()
    expires = arguments.expires
    new = NewKey(
        org=arguments.org,
        id=arguments.id,
        team=arguments.team,
        user=arguments.user,
        tier=arguments.tier,
        models=_words(arguments.models),
        scopes=_words(arguments.scopes),
        expires_ms=None if expires is None else parsed(lambda: moment(expires, now=clock.unix_ms())),
    )
    by = parsed(lambda: By(actor=arguments.actor, reason=arguments.reason))
    issued = at_desk(layout(arguments), clock, lambda desk: desk.keys.create(new, by))
    return _tell(issued, as_json=arguments.json)


def _rotate(arguments: argparse.Namespace) -> int:
    from gateway.admin.change import By
    from gateway.admin.duration import duration
    from gateway.admin.keys import OVERLAP_MAX
    from mesh.local.desk import at_desk

    overlap = parsed(lambda: duration(arguments.overlap, longest=OVERLAP_MAX))
    by = parsed(lambda: By(actor=arguments.actor, reason=arguments.reason))
    issued = at_desk(
        layout(arguments), SystemClock(), lambda desk: desk.keys.rotate(arguments.id, overlap, by)
    )
    return _tell(issued, as_json=arguments.json)


def _revoke(arguments: argparse.Namespace) -> int:
    from gateway.admin.change import By
    from mesh.commands.output import print_json
    from mesh.local.desk import at_desk

    by = parsed(lambda: By(actor=arguments.actor, reason=arguments.reason))
    key = at_desk(layout(arguments), SystemClock(), lambda desk: desk.keys.revoke(arguments.id, by))
    if arguments.json:
        print_json(key_object(key))
    else:
        print(f"Key {key.principal.key} of org {key.principal.org} is revoked.")
    return 0


def _list(arguments: argparse.Namespace) -> int:
    from gateway.admin.keys import listed
    from mesh.commands.output import print_json, print_table, time_text
    from mesh.local.desk import key_file, plainly, policy_here

    here = layout(arguments)
    policy_here(here)
    now = SystemClock().unix_ms()
    with plainly():
        keys = listed(key_file(here), arguments.org)
    if arguments.json:
        print_json({"object": "list", "data": [key_object(key) for key in keys]})
        return 0
    header = ("id", "org", "team", "user", "tier", "models", "scopes", "created", "expires", "state")
    rows = []
    for key in keys:
        caller = key.principal
        rows.append(
            (
                *(caller.key, caller.org, caller.team, caller.user, caller.tier),
                *(",".join(caller.models), ",".join(caller.scopes) or None),
                *(time_text(key.created_ms), time_text(key.expires_ms), _state(key, now)),
            )
        )
    print_table(header, rows)
    return 0


def _state(key: ApiKey, now: int) -> str:
    if key.revoked:
        return "revoked"
    if key.expires_ms is not None and key.expires_ms <= now:
        return "expired"
    living = sum(1 for secret in key.earlier if secret.until_ms > now)
    return f"live, {living} earlier" if living else "live"


def key_object(key: ApiKey) -> dict[str, object]:
    """JSON-ready, without anything of its secrets."""
    caller = key.principal
    return {
        "object": "key",
        "id": caller.key,
        "org": caller.org,
        "team": caller.team,
        "user": caller.user,
        "tier": caller.tier,
        "models": list(caller.models),
        "scopes": list(caller.scopes),
        "created_ms": key.created_ms,
        "expires_ms": key.expires_ms,
        "revoked": key.revoked,
        "earlier_until_ms": [secret.until_ms for secret in key.earlier],
    }


def _tell(issued: Issued, *, as_json: bool) -> int:
    """The text on standard output, and nothing else there, so that it can be piped."""
    from mesh.commands.output import print_json

    if as_json:
        print_json({**key_object(issued.key), "api_key": issued.text})
        return 0
    caller = issued.key.principal
    sys.stderr.write(f"Key {caller.key} of org {caller.org}. This is its only copy:\n")
    sys.stderr.flush()
    print(issued.text)
    return 0
