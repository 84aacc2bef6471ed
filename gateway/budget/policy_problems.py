"""What is wrong with a budgets.yaml that its schema cannot say. A Problem each, with value and mend."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from typing import Any, Final
from zoneinfo import available_timezones

from gateway.budget.ledger import WINDOWS_MAX
from gateway.budget.policy_limits import (
    ALWAYS,
    ANY,
    LEASE_REQUESTS,
    SHORTHANDS,
    UNLIMITED_WORD,
    kind_of,
    measure_of,
    window_from,
)
from gateway.budget.window import UNLIMITED, UTC, Enforcement, Window, WindowKind
from gateway.config.document import Document, PathKey, Problem
from gateway.contract.ids import is_identifier

LEVELS: Final = ("teams", "users", "keys", "models", "workflows")
OWNED: Final = ("teams", "users", "keys")
"""Levels whose names belong to one org."""
_LENGTHS_S: Final = {
    WindowKind.MINUTE: 60,
    WindowKind.HOUR: 3600,
    WindowKind.DAY: 24 * 3600,
    WindowKind.MONTH: 31 * 24 * 3600,
}
_PSEUDONYM: Final = re.compile(r"[0-9a-f]{32}\Z")
_MACHINE_ZONES: Final = frozenset({"localtime", "Factory", "posixrules"})
"""In zoneinfo's directory, but another time on each machine, or none."""

Place = tuple[PathKey, Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class _Said:
    """A window and where it stands."""

    path: PathKey
    window: Window


def policy_problems(document: Document) -> list[Problem]:
    """Every problem of a document that has passed the schema, in no order."""
    data = document.data
    problems = [*_name_problems(document), *_lease_problems(document)]
    for path, place in _places(data):
        for index, entry in enumerate(place.get("limits", ())):
            problems += _entry_problems(document, (*path, "limits", index), entry)
        said = list(_said(path, place))
        problems += [*_doubles(document, said), *_inversions(document, said)]
    for name, org in data["orgs"].items():
        problems += _too_many(document, name, org)
    return problems


def model_problems(document: Document, models: Mapping[str, str]) -> list[Problem]:
    """Limits on models that the catalogue has not. ``models``: every name and alias, and the name it means.
    The document must have passed ``policy_problems``."""
    problems = []
    for name, org in document.data["orgs"].items():
        for model in org.get("models", {}):
            if model == ANY or models.get(model) == model:
                continue
            known = sorted(set(models.values()))
            mend = (
                f"an alias: limits are by the model's name, {models[model]}"
                if model in models
                else f"the catalogue (models.yaml) has {_nearest(model, known) or ', '.join(known)}"
            )
            path = ("orgs", name, "models", model)
            problems.append(document.problem(path, f"{model!r} names no model", mend))
    return problems


def named_zones(document: Document) -> set[str]:
    """Every time zone that a limit names. The document must have passed ``policy_problems``."""
    entries = (entry for _, place in _places(document.data) for entry in place.get("limits", ()))
    return {entry["zone"] for entry in entries if "zone" in entry}


def _places(data: Mapping[str, Any]) -> Iterator[Place]:
    """Everything that holds limits."""
    for name, tier in data["tiers"].items():
        yield ("tiers", name, "key"), tier.get("key", {})
    for name, org in data["orgs"].items():
        yield ("orgs", name), org
        for level in LEVELS:
            for inner, limits in org.get(level, {}).items():
                yield ("orgs", name, level, inner), limits


def _said(path: PathKey, place: Mapping[str, Any]) -> Iterator[_Said]:
    """The windows of a place; those that are none are reported by ``_entry_problems``."""
    for name, kind in SHORTHANDS.items():
        if name in place:
            yield _Said((*path, name), Window(kind=kind, limit=int(place[name])))
    for index, entry in enumerate(place.get("limits", ())):
        try:
            yield _Said((*path, "limits", index), window_from(entry))
        except ValueError:
            continue


# --- names ---


def _name_problems(document: Document) -> Iterator[Problem]:
    """A schema's pattern takes a line feed at the end, and knows no other place."""
    for kind in ("tiers", "orgs"):
        for name in document.data[kind]:
            if name != ANY and not is_identifier(name):
                yield document.problem((kind, name), f"{name!r} is no identifier", _IDENTIFIER)
    for org, data in document.data["orgs"].items():
        for level in LEVELS:
            for name in data.get(level, {}):
                yield from _inner_name_problems(document, org, level, name)


_IDENTIFIER: Final = "1 to 63 of lower-case letters, digits, _ and -, starting with a letter or digit"


def _inner_name_problems(document: Document, org: str, level: str, name: str) -> Iterator[Problem]:
    path = ("orgs", org, level, name)
    if name == ANY:
        return
    if org == ANY and level in OWNED:
        yield document.problem(
            path,
            f"{name!r}: a {level[:-1]} belongs to one org, and these are all others",
            f'list the org and put the {level[:-1]} there, or write "*" for every {level[:-1]} of theirs',
        )
    if level == "models":
        if name.endswith("\n"):
            yield document.problem(path, f"{name!r} is no name of a model", "remove the line feed")
    elif not is_identifier(name):
        yield document.problem(path, f"{name!r} is no identifier", _IDENTIFIER)
    elif level == "workflows" and _PSEUDONYM.match(name):
        yield document.problem(
            path,
            f"{name!r} could be the pseudonym of a workflow that is not listed",
            "a name that is not 32 hexadecimal digits",
        )


# --- one limit ---


def _entry_problems(document: Document, path: PathKey, entry: Mapping[str, Any]) -> Iterator[Problem]:
    measure, kind = measure_of(entry), kind_of(entry)
    if "concurrent" in entry:
        for field in ("per", "zone", "burst"):
            if field in entry:
                yield document.problem(
                    (*path, field),
                    f"{entry[field]!r}: concurrent counts the requests in flight, over no time",
                    f"remove {field}, or limit requests instead",
                )
        return
    if "zone" in entry:
        yield from _zone_problems(document, (*path, "zone"), kind, entry["zone"])
    if "burst" in entry and kind not in (WindowKind.MINUTE, WindowKind.HOUR):
        yield document.problem(
            (*path, "burst"),
            f"{entry['burst']}: a {_kind_text(kind)} has no burst",
            "only minute and hour have; raise the limit instead",
        )
    if entry[measure] == UNLIMITED_WORD:
        for field in ("burst", "enforcement"):
            if field in entry:
                yield document.problem(
                    (*path, field),
                    f"{entry[field]!r}: {measure} is unlimited here, so that nothing is ever reached",
                    f"remove {field}, or give a number",
                )


def _zone_problems(document: Document, path: PathKey, kind: WindowKind, zone: str) -> Iterator[Problem]:
    if kind not in (WindowKind.DAY, WindowKind.MONTH):
        yield document.problem(
            path, f"{zone!r}: a {_kind_text(kind)} is the same in every zone", "only day and month have one"
        )
    elif zone != UTC and zone not in _zones():
        nearest = _nearest(zone, sorted(_zones()))
        mend = f"perhaps {nearest}" if nearest else "a name of the IANA time zone database, as Europe/Berlin"
        yield document.problem(path, f"{zone!r} is no time zone", mend)


@cache
def _zones() -> frozenset[str]:
    return frozenset(available_timezones()) - _MACHINE_ZONES


def _nearest(name: str, known: Sequence[str]) -> str:
    """As a reader would have meant it, also in another case; empty for nothing alike."""
    folded = {one.casefold(): one for one in known}
    found = get_close_matches(name.casefold(), list(folded), n=1, cutoff=0.5)
    return folded[found[0]] if found else ""


def _kind_text(kind: WindowKind) -> str:
    return "rolling window" if kind is WindowKind.ROLLING else kind.value


# --- the limits of one place ---


def _doubles(document: Document, said: Sequence[_Said]) -> Iterator[Problem]:
    first: dict[tuple[str, str], _Said] = {}
    for one in said:
        other = first.setdefault(one.window.name, one)
        if other is not one:
            yield document.problem(
                one.path,
                f"{_limit_text(one.window)}: {one.window.measure} per {_span_text(one.window)} is limited"
                f" to {_limit_text(other.window)} by line {document.line(other.path)}",
                "keep one; for a warning before the limit, take a soft limit on a rolling window",
            )


def _inversions(document: Document, said: Sequence[_Said]) -> Iterator[Problem]:
    """A limit above the hard one of a longer window is never reached: a slip of digits."""
    for one in said:
        above = [
            other
            for other in said
            if other.window.measure is one.window.measure
            and other.window.enforcement is Enforcement.HARD
            and other.window.limit != UNLIMITED
            and _length_s(other.window) > _length_s(one.window)
            and one.window.limit > other.window.limit
        ]
        if above:
            least = min(above, key=lambda other: other.window.limit).window
            yield document.problem(
                one.path,
                f"{one.window.limit} a {_span_text(one.window)} is more than the {least.limit} of the whole"
                f" {_span_text(least)}",
                "raise the longer window's limit or lower this",
            )


def _length_s(window: Window) -> float:
    if window.kind is WindowKind.ROLLING:
        return window.seconds
    return _LENGTHS_S.get(window.kind, float("inf"))


def _limit_text(window: Window) -> str:
    return UNLIMITED_WORD if window.limit == UNLIMITED else str(window.limit)


def _span_text(window: Window) -> str:
    if window.kind is WindowKind.ROLLING:
        return f"{window.seconds} rolling seconds"
    return window.kind.value if window.zone == UTC else f"{window.kind} in {window.zone}"


# --- the whole ---


def _too_many(document: Document, name: str, org: Mapping[str, Any]) -> Iterator[Problem]:
    """The ledger takes WINDOWS_MAX windows of a request, over all its accounts."""

    def names(place: Mapping[str, Any]) -> set[tuple[str, str]]:
        return {one.window.name for one in _said((), place)}

    always = {window.name for window in ALWAYS}
    of_tiers = [names(tier.get("key", {})) for tier in document.data["tiers"].values()]
    keys = [names(key) for key in (*org.get("keys", {}).values(), {})]
    most = {
        "org": len(names(org) | always),
        "keys": max(len(key | tier | always) for key in keys for tier in of_tiers),
    }
    for level in ("teams", "users", "models", "workflows"):
        most[level] = max((len(names(place)) for place in org.get(level, {}).values()), default=0)
    if sum(most.values()) > WINDOWS_MAX:
        counted = ", ".join(f"{level} {count}" for level, count in most.items() if count)
        yield document.problem(
            ("orgs", name),
            f"a request may count in {sum(most.values())} windows ({counted}), of which the ledger takes"
            f" {WINDOWS_MAX}",
            "fewer limits on one of the levels",
        )


def _lease_problems(document: Document) -> Iterator[Problem]:
    leases = document.data.get("leases", {})
    requests, least = leases.get("requests", LEASE_REQUESTS), leases.get("requests_least", 1)
    if least > requests:
        yield document.problem(
            ("leases", "requests_least"),
            f"{least} is more than the {requests} a lease is to fund",
            "lower it",
        )
