"""What is wrong with a cache.yaml that its schema cannot say. A Problem each, with value and mend. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from typing import Any, Final

from ext_proc.cache.reach import Box, boxes_of, reachable
from gateway.config.document import Document, PathKey, Problem
from gateway.contract.ids import is_identifier
from gateway.models.catalogue import Catalogue, Prices
from gateway.openai.terms import Endpoint

RESERVED: Final = "built-in"
"""Name of what decides where no rule matches."""
_OFF: Final = ("off", False)
"""YAML reads an unquoted off as false."""
_OF_CACHED: Final = (
    *("profile", "share", "ttl_seconds", "tags", "hit_micro_usd", "tool_results", "personal_data"),
)
_OF_SIMILAR: Final = ("freshness", "actions", "false_hit_slo", "verify_share")
_IDENTIFIER: Final = "1 to 63 of lower-case letters, digits, _ and -, starting with a letter or digit"


def policy_problems(document: Document) -> list[Problem]:
    """Every problem of a document that has passed the schema, in no order."""
    problems = [*_group_problems(document), *_name_problems(document)]
    for index, rule in enumerate(_rules(document)):
        path: PathKey = ("rules", index)
        problems += [*_option_problems(document, path, rule), *_share_problems(document, path, rule)]
        problems += _team_problems(document, path, rule)
    return problems or _reach_problems(document)


def model_problems(document: Document, catalogue: Catalogue) -> list[Problem]:
    """What rules say of models and the catalogue contradicts. The document must have passed
    ``policy_problems``."""
    problems = []
    known = sorted(str(model.name) for model in catalogue.models)
    for index, rule in enumerate(_rules(document)):
        match = rule.get("match", {})
        for position, name in enumerate(match.get("models", ())):
            path: PathKey = ("rules", index, "match", "models", position)
            model = catalogue.resolve(name)
            if model is None:
                mend = f"the catalogue (models.yaml) has {_nearest(name, known)}"
                problems.append(document.problem(path, f"{name!r} names no model", mend))
            elif model.name != name:
                mend = f"an alias: rules are by the model's name, {model.name}"
                problems.append(document.problem(path, f"{name!r} names no model", mend))
            elif not model.endpoints & {Endpoint(one) for one in match.get("endpoints", model.endpoints)}:
                served = ", ".join(sorted(model.endpoints))
                message = f"{name!r} serves none of the rule's endpoints"
                problems.append(document.problem(path, message, f"it serves {served}"))
            elif rule.get("hit_micro_usd") and model.prices == Prices():
                message = f"{name!r} is free, and a hit would cost {rule['hit_micro_usd']} micro-USD"
                problems.append(
                    document.problem(path, message, "give the model prices, or leave the hit free")
                )
    return problems


def org_problems(document: Document, budgeted: Mapping[str, Any]) -> list[Problem]:
    """Orgs that no request can come from. ``budgeted``: the ``orgs`` of budgets.yaml, which refuses any other
    org unless it has "*"."""
    if "*" in budgeted:
        return []
    named: list[tuple[PathKey, str]] = [
        (("groups", name, "org"), group["org"]) for name, group in _groups(document).items()
    ]
    for index, rule in enumerate(_rules(document)):
        for position, org in enumerate(rule.get("match", {}).get("orgs", ())):
            named.append((("rules", index, "match", "orgs", position), org))
    return [
        document.problem(
            path,
            f"{org!r} has no budget, so that no request of it gets here",
            f"budgets.yaml has {_nearest(org, sorted(budgeted))}",
        )
        for path, org in named
        if org not in budgeted
    ]


def _rules(document: Document) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = document.data.get("rules", [])
    return found


def _groups(document: Document) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = document.data.get("groups", {})
    return found


def _nearest(name: str, known: list[str]) -> str:
    found = get_close_matches(name, known, n=1, cutoff=0.5)
    return found[0] if found else ", ".join(known)


# --- names ---


def _name_problems(document: Document) -> Iterator[Problem]:
    """A schema's pattern takes a line feed at the end."""
    first: dict[str, PathKey] = {}
    for index, rule in enumerate(_rules(document)):
        path: PathKey = ("rules", index, "name")
        name = rule["name"]
        other = first.setdefault(name, path)
        if other != path:
            yield document.problem(
                path, f"{name!r} is the name of line {document.line(other)}", "give each rule its own"
            )
        elif name == RESERVED:
            yield document.problem(path, f"{name!r} is what decides where no rule matches", "rename it")
        for place, one in [(path, name), *_identifiers(("rules", index), rule)]:
            if not is_identifier(one):
                yield document.problem(place, f"{one!r} is no identifier", _IDENTIFIER)
        for position, model in enumerate(rule.get("match", {}).get("models", ())):
            if model.endswith("\n"):
                place = ("rules", index, "match", "models", position)
                yield document.problem(place, f"{model!r} is no name of a model", "remove the line feed")


def _identifiers(path: PathKey, rule: Mapping[str, Any]) -> Iterator[tuple[PathKey, str]]:
    for position, tag in enumerate(rule.get("tags", ())):
        yield (*path, "tags", position), tag
    for level in ("orgs", "teams"):
        for position, name in enumerate(rule.get("match", {}).get(level, ())):
            yield (*path, "match", level, position), name


def _group_problems(document: Document) -> Iterator[Problem]:
    used = {rule.get("group") for rule in _rules(document)}
    for name, group in _groups(document).items():
        path: PathKey = ("groups", name)
        if not is_identifier(name):
            yield document.problem(path, f"{name!r} is no identifier", _IDENTIFIER)
        if not is_identifier(group["org"]):
            yield document.problem((*path, "org"), f"{group['org']!r} is no identifier", _IDENTIFIER)
        if "teams" not in group and "users" not in group:
            yield document.problem(path, f"{name!r} has no members", "name its teams, its users or both")
        for level in ("teams", "users"):
            for position, member in enumerate(group.get(level, ())):
                if not is_identifier(member):
                    place = (*path, level, position)
                    yield document.problem(place, f"{member!r} is no identifier", _IDENTIFIER)
        if name not in used:
            yield document.problem(
                path, f"no rule shares in {name!r}", "name it in a rule (share: group), or remove it"
            )


# --- one rule ---


def _option_problems(document: Document, path: PathKey, rule: Mapping[str, Any]) -> Iterator[Problem]:
    """Options that nothing would read."""
    mode, profile = rule.get("mode"), rule.get("profile", "off")
    if mode in _OFF:
        for name in (*_OF_CACHED, *_OF_SIMILAR, "judge_per_minute"):
            if name in rule:
                yield document.problem(
                    (*path, name), "mode off stores nothing", f"remove {name}, or the mode"
                )
        return
    if profile in _OFF:
        for name in (*_OF_SIMILAR, "judge_per_minute"):
            if name in rule:
                yield document.problem(
                    (*path, name),
                    "without a profile only identical requests are served",
                    f"remove {name}, or set profile: strict",
                )
        return
    if profile != "verified" and "judge_per_minute" in rule:
        yield document.problem(
            (*path, "judge_per_minute"),
            f"profile {profile} has no judge",
            "remove it, or set profile: verified",
        )
    served = rule.get("match", {}).get("endpoints", (Endpoint.CHAT.value,))
    if Endpoint.CHAT.value not in served:
        yield document.problem(
            (*path, "profile"),
            f"{profile!r}: only {Endpoint.CHAT} has questions to compare, and the rule does not match it",
            f"remove profile, or add {Endpoint.CHAT} to the endpoints",
        )


def _share_problems(document: Document, path: PathKey, rule: Mapping[str, Any]) -> Iterator[Problem]:
    shares, name = rule.get("share") == "group", rule.get("group")
    if shares and name is None:
        yield document.problem((*path, "share"), "which group?", "add group: with a name of groups")
    if name is None:
        return
    if not shares:
        yield document.problem(
            (*path, "group"), f"{name!r} is not used: the rule does not share by group", "add share: group"
        )
    group = _groups(document).get(name)
    if group is None:
        known = ", ".join(sorted(_groups(document))) or "none yet"
        yield document.problem((*path, "group"), f"{name!r} is no group", f"groups has {known}")
        return
    for position, org in enumerate(rule.get("match", {}).get("orgs", ())):
        if org != group["org"]:
            yield document.problem(
                (*path, "match", "orgs", position),
                f"{org!r} is not the org of group {name!r}, and answers never leave an org",
                f"keep {group['org']} alone, and make a rule and a group for {org}",
            )


def _team_problems(document: Document, path: PathKey, rule: Mapping[str, Any]) -> Iterator[Problem]:
    match = rule.get("match", {})
    if "teams" in match and len(match.get("orgs", ())) != 1:
        yield document.problem(
            (*path, "match", "teams"),
            "a team belongs to one org, and the rule names " + ("several" if "orgs" in match else "none"),
            "add orgs: with the one org, and make a rule for each other",
        )


# --- all rules ---


def _reach_problems(document: Document) -> list[Problem]:
    problems = []
    groups, before = _groups(document), list[Box]()
    for index, rule in enumerate(_rules(document)):
        boxes = boxes_of(rule, groups)
        name, path = rule["name"], ("rules", index)
        if not boxes:
            problems.append(
                document.problem(
                    path,
                    f"{name!r} can match no request: nobody is in its teams and in its group",
                    "mend its match, or remove it",
                )
            )
        elif not reachable(boxes, before):
            problems.append(
                document.problem(
                    path,
                    f"{name!r} never decides: the rules above match every request that it matches",
                    "move it up, or remove it",
                )
            )
        before += boxes
    return problems
