"""Which answers are purged, and which likeness is switched off: one document, its rules and its bytes. Pure.

The document has a number, which grows with each change. An answer is sealed with the number that its
request's look-up knew, a rule has the number it came with: a rule ends the answers with a smaller one. So no
clock decides what was before a purge. Whoever has not yet heard of a rule seals with too small a number:
ended too many, never too few.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import asdict, dataclass, fields, replace
from typing import Final

import orjson

from ext_proc.cache.store import (
    TTL_SECONDS_MAX,
    HitKind,
    Lineage,
    PurgeRule,
    RuleInForce,
)
from gateway.contract.ids import OrgId
from gateway.contract.units import UnixMillis

RULES_MAX: Final = 256
"""Each look-up's entry is compared with all of them, some 0.1 ms. One more, and everything is purged
instead."""
BUCKETS_MAX: Final = 4096
"""Switched off one by one. One more, and the oldest one's whole level is, so that the document stays
small."""
RULE_MILLIS: Final = (TTL_SECONDS_MAX + 24 * 3600) * 1000
"""A day longer than any entry lives; clocks differ by less."""
CLOCKS_DIFFER_MILLIS: Final = 2000
"""Between the clock that stamped an admission and the store's, for whoever has no numbers to compare."""
_FORMAT: Final = 1
_FIELDS: Final = tuple(field.name for field in fields(PurgeRule))
_EVERY: Final = "/*"
_LEVELS: Final = {HitKind.CANONICAL: "canonical", HitKind.ALIAS: "near"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """``generation`` is random, and new when the document was lost: what was sealed under another is a
    miss."""

    generation: str
    number: int = 0
    rules: tuple[RuleInForce, ...] = ()
    off: tuple[str, ...] = ()
    """Buckets, in the order in which they were switched off."""

    def purged(self, org: OrgId, entry: str, lineage: Lineage, *, number: int) -> bool:
        """Whether a rule ends the answer that was sealed with ``number``."""
        return any(number < made.number and fits(made.rule, org, entry, lineage) for made in self.rules)

    def is_off(self, bucket: str) -> bool:
        """Whether ``bucket`` is switched off, by itself or with its whole level."""
        return is_off(self.off, bucket)

    def refuses(self, kind: HitKind, org: OrgId, model: str) -> bool:
        """Whether likeness of ``kind`` is switched off for answers of ``model``."""
        level = _LEVELS.get(kind)
        if level is None or not self.off:
            return False
        prefix = f"{org}/{model}/{level}/"
        return any(bucket.startswith(prefix) for bucket in self.off)


def is_off(off: Collection[str], bucket: str) -> bool:
    """Whether ``bucket`` is among those switched off, by itself or with its whole level."""
    return bool(off) and (bucket in off or _level(bucket) + _EVERY in off)


def fits(rule: PurgeRule, org: OrgId, entry: str, lineage: Lineage) -> bool:
    """Whether ``rule`` speaks of this answer."""
    return (
        rule.org in ("", org)
        and rule.model in ("", lineage.model)
        and rule.revision in ("", lineage.revision)
        and rule.template in ("", lineage.template)
        and rule.policy_version in ("", lineage.policy_version)
        and rule.request_id in ("", lineage.request_id)
        and rule.entry in ("", entry)
        and (not rule.tag or rule.tag in lineage.tags)
    )


def ends(made: RuleInForce, org: OrgId, entry: str, lineage: Lineage) -> bool:
    """The same for one that knows only when the answer's request came, as an index does."""
    return lineage.admitted_at <= made.made_at + CLOCKS_DIFFER_MILLIS and fits(made.rule, org, entry, lineage)


def with_rule(document: Document, rule: PurgeRule, *, now: UnixMillis, generation: str) -> Document:
    """``rule`` in force from now on. ``generation``: a new one, for when there are too many rules; also the
    same rule again is in force from now on, in the place of the old one. Raises ValueError for an empty
    rule."""
    if not any(getattr(rule, name) for name in _FIELDS):
        raise ValueError("purge rule: must name at least one of " + ", ".join(_FIELDS))
    number = document.number + 1
    kept = [made for made in document.rules if made.rule != rule and now - made.made_at < RULE_MILLIS]
    if len(kept) >= RULES_MAX:
        return replace(document, generation=generation, number=number, rules=())
    made = RuleInForce(rule=rule, number=number, made_at=now)
    return replace(document, number=number, rules=(*kept, made))


def with_bucket(document: Document, bucket: str, *, off: bool) -> Document:
    """``bucket`` switched; the same document when it already is as wanted."""
    if document.is_off(bucket) == off:
        return document
    others = tuple(name for name in document.off if name not in (bucket, _level(bucket) + _EVERY))
    return replace(document, number=document.number + 1, off=_bounded((*others, bucket)) if off else others)


def _bounded(buckets: tuple[str, ...]) -> tuple[str, ...]:
    """Beyond BUCKETS_MAX the oldest one and its neighbours become one, ``<org>/<model>/<level>/*``."""
    while len(buckets) > BUCKETS_MAX:
        single = next((name for name in buckets if not name.endswith(_EVERY)), None)
        if single is None:
            break  # as many as there are models of tenants: that many is that many
        level = _level(single)
        buckets = (*(name for name in buckets if _level(name) != level), level + _EVERY)
    return buckets


def _level(bucket: str) -> str:
    return bucket.rpartition("/")[0]


def to_bytes(document: Document) -> bytes:
    """JSON."""
    rules: Iterable[dict[str, object]] = (
        {
            "number": made.number,
            "made_at": made.made_at,
            **{name: value for name, value in asdict(made.rule).items() if value},
        }
        for made in document.rules
    )
    return orjson.dumps(
        {
            "format": _FORMAT,
            "generation": document.generation,
            "number": document.number,
            "rules": list(rules),
            "off": document.off,
        }
    )


def from_bytes(data: bytes) -> Document | None:
    """None for anything that ``to_bytes`` of this version does not write."""
    try:
        read = orjson.loads(data)
        if read["format"] != _FORMAT:
            return None
        return Document(
            generation=read["generation"],
            number=read["number"],
            rules=tuple(_rule(made) for made in read["rules"]),
            off=tuple(read["off"]),
        )
    except (ValueError, TypeError, KeyError):
        return None


def _rule(read: dict[str, object]) -> RuleInForce:
    number, made_at = read.pop("number"), read.pop("made_at")
    if not isinstance(number, int) or not isinstance(made_at, int):
        raise TypeError("a rule's number and time are integers")
    if not all(isinstance(value, str) for value in read.values()):
        raise TypeError("a rule's fields are texts")
    fields_read = {name: str(value) for name, value in read.items()}
    return RuleInForce(rule=PurgeRule(**fields_read), number=number, made_at=UnixMillis(made_at))
