"""``tidegate cache``: what the cache would do and does, and what operators change in it."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from gateway.contract.clock import SystemClock
from mesh.commands.options import (
    Commands,
    Parser,
    by_options,
    json_option,
    layout,
    parsed,
    state_option,
)
from mesh.local.refusal import Refusal, refusal_from

if TYPE_CHECKING:
    from ext_proc.cache.store import PurgeRule
    from mesh.caching.explanation import Explanation

PROFILES: Final = ("strict", "verified")
_PURGES: Final = (
    ("--tenant", "org", "ORG", "answers of this org; alone: all of them"),
    ("--model", "model", "NAME", "answers of this model of the catalogue"),
    ("--model-revision", "revision", "REV", "answers of this revision, as models.yaml has it"),
    ("--template", "template", "NAME", "answers made with this chat template"),
    ("--policy", "policy_version", "VERSION", "answers stored under this version of cache.yaml"),
    ("--request", "request_id", "ID", "the answer of this request"),
    ("--tag", "tag", "TAG", "answers with this tag, of cache.yaml or of metadata.cache_tags"),
    ("--entry", "entry", "KEY", "this answer, as x-tidegate-cache-entry names it"),
)


def add(commands: Commands) -> None:
    """Registers ``cache`` and its verbs."""
    cache = commands.add_parser("cache", help="evaluate, explain, purge and report the cache")
    verbs = cache.add_subparsers(required=True, metavar="VERB", parser_class=Parser)
    _add_eval(verbs)
    _add_explain(verbs)
    _add_purge(verbs)
    _add_bar(verbs)
    rules = verbs.add_parser(
        "rules",
        help="show the purge rules in force and the hits that are switched off",
        description="Show the purge rules in force, and the buckets of similar hits that are switched off.",
        epilog="example: tidegate cache rules --json",
    )
    report = verbs.add_parser(
        "report",
        help="show hits, misses and their reasons, and what is known of wrong hits",
        description="Show hits by kind and misses by reason since the gateway's start, and for each "
        "bucket of similar hits how often they may be wrong.",
        epilog="example: tidegate cache report",
    )
    for verb, run in ((rules, _rules), (report, _report)):
        state_option(verb)
        json_option(verb)
        verb.set_defaults(run=run)


def _add_eval(verbs: Commands) -> None:
    evaluate = verbs.add_parser(
        "eval",
        help="count right and wrong hits on a file of question pairs",
        description="Store the first question's answer, ask the second, for each pair of a file, with the "
        "gateway's own decisions. Needs no running gateway. What a judge would be asked about is a miss.",
        epilog="example: tidegate cache eval --pairs pairs.jsonl --profile strict --json figures.json",
    )
    evaluate.add_argument(
        "--pairs", type=Path, required=True, metavar="FILE", help='lines of {"a", "b", "y": 0|1, "cat"}'
    )
    evaluate.add_argument("--profile", choices=PROFILES, default="strict", help="as in cache.yaml (strict)")
    evaluate.add_argument("--json", type=Path, metavar="FILE", help="also write figures and rows to FILE")
    state_option(evaluate)
    evaluate.set_defaults(run=_eval)


def _add_explain(verbs: Commands) -> None:
    explain = verbs.add_parser(
        "explain",
        help="say whether a request would be a hit, and why",
        description="Ask the running gateway's cache, and it alone, as the holder of an API key would: no "
        "engine is asked. Only a hit that the policy gives a price is charged.",
        epilog="example: tidegate cache explain request.json --key-env OPENAI_API_KEY",
    )
    explain.add_argument("request", metavar="REQUEST", help="file with an OpenAI request's body; - for stdin")
    whose = explain.add_mutually_exclusive_group()
    whose.add_argument("--api-key-file", type=Path, metavar="FILE", help="whose cache (the demo key's)")
    whose.add_argument("--key-env", metavar="NAME", help="environment variable with the API key")
    state_option(explain)
    json_option(explain)
    explain.set_defaults(run=_explain)


def _add_purge(verbs: Commands) -> None:
    purge = verbs.add_parser(
        "purge",
        help="end the answers that come from a tenant, a model's revision, a tag, ...",
        description="Whatever fits every option given is a miss from now on, also what is being generated.",
        epilog='example: tidegate cache purge --model-revision 2027-01 --reason "rolled back"',
    )
    for option, name, shown, text in _PURGES:
        purge.add_argument(option, dest=name, default="", metavar=shown, help=text)
    by_options(purge)
    state_option(purge)
    json_option(purge)
    purge.set_defaults(run=_purge)


def _add_bar(verbs: Commands) -> None:
    bar = verbs.add_parser(
        "bar",
        help="say that an answer does not go with a question",
        description="The entry's answer is not given to that question any more. The same key twice: the "
        "answer itself is wrong, and goes. Both keys are in the cache.hit event and in 'cache explain'.",
        epilog='example: tidegate cache bar --org demo --question 3f... --entry 9a... --reason "wrong"',
    )
    bar.add_argument("--org", required=True)
    bar.add_argument("--question", required=True, metavar="KEY", help="64 hex digits")
    bar.add_argument("--entry", required=True, metavar="KEY", help="64 hex digits")
    by_options(bar)
    state_option(bar)
    json_option(bar)
    bar.set_defaults(run=_bar)


def _eval(arguments: argparse.Namespace) -> int:
    from ext_proc.cache.policy import Profile
    from mesh.caching.evaluating import evaluated
    from mesh.caching.pairs import read_pairs
    from mesh.caching.report import document, written
    from mesh.commands.cache_tables import print_evaluation

    pairs = read_pairs(arguments.pairs)
    if arguments.json is not None and not arguments.json.absolute().parent.is_dir():
        raise Refusal(f"no directory {arguments.json.parent}", "make it, or name another FILE")
    models = layout(arguments).embedders
    rows = evaluated(
        pairs, Profile(arguments.profile), file=arguments.pairs, models=models, clock=SystemClock()
    )
    found = document(pairs, rows)
    if arguments.json is not None:
        try:
            arguments.json.write_bytes(written(found))
        except OSError as error:
            raise refusal_from(error, arguments.json) from error
    print_evaluation(pairs, rows, found)
    return 0


def _explain(arguments: argparse.Namespace) -> int:
    from mesh.commands.cache_tables import print_explanation
    from mesh.commands.output import print_json
    from mesh.local.asking import explain, read_request
    from mesh.local.running import answering

    here = layout(arguments)
    status = answering(here)
    name = arguments.request
    data = sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
    found: Explanation = explain(status.base_url, _api_key(arguments), read_request(data, name))
    if arguments.json:
        print_json(found.to_object())
    else:
        print_explanation(found)
    return 0


def _api_key(arguments: argparse.Namespace) -> str:
    """Raises Refusal, OSError."""
    from gateway.config.environment import variable
    from mesh.local.asking import read_key_file
    from mesh.local.message import credentials_of

    if arguments.api_key_file is not None:
        return read_key_file(arguments.api_key_file)
    if arguments.key_env is None:
        return credentials_of(layout(arguments), SystemClock()).api_key
    found = variable(arguments.key_env)
    if not found:
        raise Refusal(f"the variable {arguments.key_env} is not set", "set it to an API key's text")
    return found


def _purge(arguments: argparse.Namespace) -> int:
    from ext_proc.cache.store import PurgeRule
    from gateway.admin.change import By
    from mesh.commands.output import print_json
    from mesh.local.cache_desk import at_cache

    by = parsed(lambda: By(actor=arguments.actor, reason=arguments.reason))
    rule = PurgeRule(**{name: getattr(arguments, name) for _, name, _, _ in _PURGES})
    parsed(lambda: _checked(rule))
    in_force = at_cache(layout(arguments), SystemClock(), lambda upkeep: upkeep.purge(rule, by))
    if arguments.json:
        print_json({"object": "cache.purge", "rule": rule_object(rule), "rules_in_force": in_force})
        return 0
    shown = " and ".join(f"{name} {text}" for name, text in rule_object(rule).items())
    print(f"Purged: {shown}. Every worker obeys within a second; what is being generated is not stored.")
    if in_force == 0:
        print("There were too many rules: everything was purged in their place, of every org.")
    elif in_force is not None:
        print(f"Rules in force: {in_force} (see './tidegate cache rules').")
    return 0


def _checked(rule: PurgeRule) -> None:
    """Raises BadValue."""
    from mesh.caching.upkeep import check

    check(rule)


def rule_object(rule: PurgeRule) -> dict[str, str]:
    """What a rule names, by the options' names; the keys stay from release to release."""
    named = {option[2:].replace("-", "_"): getattr(rule, name) for option, name, _, _ in _PURGES}
    return {name: text for name, text in named.items() if text}


def _bar(arguments: argparse.Namespace) -> int:
    from gateway.admin.change import By
    from mesh.caching.upkeep import check_keys
    from mesh.commands.output import print_json
    from mesh.local.cache_desk import at_cache

    org, question, entry = arguments.org, arguments.question.lower(), arguments.entry.lower()
    by = parsed(lambda: By(actor=arguments.actor, reason=arguments.reason))
    parsed(lambda: check_keys(question=question, entry=entry))
    at_cache(layout(arguments), SystemClock(), lambda upkeep: upkeep.bar(org, question, entry, by))
    if arguments.json:
        print_json({"object": "cache.bar", "org": org, "question": question, "entry": entry})
    elif question == entry:
        print(f"The answer {entry} of org {org} is gone.")
    else:
        print(f"The answer {entry} of org {org} is not given to that question any more.")
    return 0


def _rules(arguments: argparse.Namespace) -> int:
    from mesh.commands.output import print_json, print_table, time_text
    from mesh.local.cache_desk import at_cache

    standing = at_cache(layout(arguments), SystemClock(), lambda upkeep: upkeep.standing())
    if arguments.json:
        rules = [{"made_at_ms": made.made_at, "rule": rule_object(made.rule)} for made in standing.rules]
        print_json({"object": "cache.rules", "rules": rules, "switched_off": list(standing.off)})
        return 0
    rows = [
        (
            time_text(made.made_at),
            " and ".join(f"{name} {text}" for name, text in rule_object(made.rule).items()),
        )
        for made in standing.rules
    ]
    print_table(("since", "purged"), rows)
    if standing.off:
        print()
        print_table(("switched off",), [(bucket,) for bucket in standing.off])
    return 0


def _report(arguments: argparse.Namespace) -> int:
    from mesh.caching.tally import report_object, tally_of
    from mesh.commands.cache_tables import print_report
    from mesh.commands.output import print_json
    from mesh.local.cache_desk import at_cache, counted, learnt

    here = layout(arguments)
    off = at_cache(here, SystemClock(), lambda upkeep: upkeep.standing()).off
    tally, truth = tally_of(counted(here)), learnt(here)
    if arguments.json:
        print_json(report_object(tally, truth, off))
    else:
        print_report(tally, truth, off)
    return 0
