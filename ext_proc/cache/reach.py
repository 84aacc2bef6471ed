"""Whether a rule can ever decide: what it matches, less what the rules before it match. Pure.

A rule matches a box, one set of names for each level of a request; a rule with a group matches two, as a
caller belongs by team or by user. Orgs, teams, users and models may have any name, so that their sets are
names, or all names but some.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from ext_proc.cache.policy import CACHED_ENDPOINTS

BOXES_MAX: Final = 256
"""Pieces of one rule that are looked at. More than any policy a person wrote has; where there are more, the
rule is taken to be reachable."""


@dataclass(frozen=True, slots=True)
class _Names:
    """``names``, or all but them."""

    names: frozenset[str]
    but: bool = False

    def both(self, other: _Names) -> _Names:
        if self.but and other.but:
            return _Names(self.names | other.names, but=True)
        if self.but or other.but:
            some, most = (other, self) if self.but else (self, other)
            return _Names(some.names - most.names)
        return _Names(self.names & other.names)

    def less(self, other: _Names) -> _Names:
        return self.both(_Names(other.names, but=not other.but))

    @property
    def empty(self) -> bool:
        return not self.but and not self.names


Box = tuple[_Names, ...]
_ANY: Final = _Names(frozenset(), but=True)
_ENDPOINTS: Final = _Names(frozenset(endpoint.value for endpoint in CACHED_ENDPOINTS))


def boxes_of(rule: Mapping[str, Any], groups: Mapping[str, Mapping[str, Any]]) -> list[Box]:
    """What ``rule`` matches, as cache.yaml writes it; none where it can match nothing."""
    match = rule.get("match", {})
    orgs, teams, models = (_named(match.get(name)) for name in ("orgs", "teams", "models"))
    served = _named(match.get("endpoints")).both(_ENDPOINTS)
    boxes = [(orgs, teams, _ANY, models, served)]
    if "group" in rule:
        group = groups[rule["group"]]
        org = orgs.both(_Names(frozenset({group["org"]})))
        members = _Names(frozenset(group.get("teams", ())))
        users = _Names(frozenset(group.get("users", ())))
        boxes = [(org, teams.both(members), _ANY, models, served), (org, teams, users, models, served)]
    return [box for box in boxes if not _empty(box)]


def reachable(boxes: Sequence[Box], before: Iterable[Box]) -> bool:
    """Whether some request is in ``boxes`` and in none of ``before``."""
    left = list(boxes)
    for other in before:
        left = [piece for box in left for piece in _pieces(box, other)]
        if not left or len(left) > BOXES_MAX:
            break
    return bool(left)


def _named(names: Sequence[str] | None) -> _Names:
    return _ANY if names is None else _Names(frozenset(names))


def _empty(box: Box) -> bool:
    return any(names.empty for names in box)


def _pieces(box: Box, other: Box) -> list[Box]:
    """``box`` without ``other``, as boxes that do not overlap."""
    if _empty(tuple(mine.both(theirs) for mine, theirs in zip(box, other, strict=True))):
        return [box]
    pieces: list[Box] = []
    kept = list(box)
    for place, theirs in enumerate(other):
        outside = (*kept[:place], kept[place].less(theirs), *kept[place + 1 :])
        if not _empty(outside):
            pieces.append(outside)
        kept[place] = kept[place].both(theirs)
    return pieces
