"""Where, how and for how long an answer is to be stored, as the admission record carries it to the tap."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import orjson

from ext_proc.cache.store import Keys

TEXT_CHARS_MAX: Final = 4096
"""Of a place as text: keys, partition and the policy's tags; it travels with every request."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """``epoch`` is the org's at the look-up: what was asked before a purge is not stored after it."""

    keys: Keys
    epoch: str
    ttl_seconds: int
    partition: str = ""
    """Under which recall remembers the question; empty: it has not been told of it."""
    flight: bool = False
    """Others wait for this answer."""
    template: str = ""
    policy_version: str = ""
    tags: tuple[str, ...] = ()
    detectors: tuple[str, ...] = ()
    """Of personal data and secrets; an answer in which one of them finds something is not kept."""

    def to_text(self) -> str:
        """A JSON object."""
        return orjson.dumps(
            {
                "exact": self.keys.exact,
                "canonical": self.keys.canonical,
                "epoch": self.epoch,
                "ttl": self.ttl_seconds,
                "partition": self.partition,
                "flight": self.flight,
                "template": self.template,
                "policy": self.policy_version,
                "tags": self.tags,
                "detectors": self.detectors,
            }
        ).decode()

    @classmethod
    def from_text(cls, text: str) -> Place | None:
        """None for an empty text (do not store) and for anything ``to_text`` does not write."""
        if not text or len(text) > TEXT_CHARS_MAX:
            return None
        try:
            found: Any = orjson.loads(text)
            place = cls(
                keys=Keys(exact=_text(found["exact"]), canonical=_text(found["canonical"])),
                epoch=_text(found["epoch"]),
                ttl_seconds=int(found["ttl"]),
                partition=_text(found["partition"]),
                flight=found["flight"] is True,
                template=_text(found["template"]),
                policy_version=_text(found["policy"]),
                tags=tuple(_text(tag) for tag in found["tags"]),
                detectors=tuple(_text(name) for name in found["detectors"]),
            )
        except (KeyError, TypeError, ValueError):
            return None
        return place if place.keys.exact and place.epoch and place.ttl_seconds >= 1 else None


def _text(value: object) -> str:
    """Raises TypeError for anything but a string."""
    if not isinstance(value, str):
        raise TypeError("a string expected")
    return value
