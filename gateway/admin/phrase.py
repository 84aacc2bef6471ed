"""A limit on one line, in the words of a ``limits`` entry of budgets.yaml.

    tokens=100000 per minute
    micro_usd=5000000 per month zone Europe/Berlin enforcement soft
    requests=60 per minute burst 20
    tokens=1000000 per rolling_seconds=3600
    concurrent=8

A window is named by the same line without the amount: ``tokens per minute``, ``concurrent``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from gateway.admin.change import BadValue
from gateway.budget.measure import Measure
from gateway.budget.policy_limits import ROLLING, UNLIMITED_WORD, window_from
from gateway.budget.window import UTC, Enforcement, Window, WindowKind

EXAMPLE: Final = "tokens=100000 per minute"
WINDOW_EXAMPLE: Final = "tokens per minute"
PHRASE_CHARS_MAX: Final = 200
"""The longest sensible one has some 90."""
_SPANS: Final = tuple(kind.value for kind in WindowKind if kind is not WindowKind.ROLLING)
_WORDS: Final = ("per", "zone", "enforcement", "burst")


@dataclass(frozen=True, slots=True, kw_only=True)
class Phrase:
    """``window`` with its amount as limit; ``said`` are the words that stood behind the amount."""

    window: Window
    said: frozenset[str]

    def after(self, present: Window | None) -> Window:
        """The window, with burst and enforcement of ``present`` where the phrase does not say them."""
        if present is None:
            return self.window
        kept: dict[str, Any] = {}
        if "enforcement" not in self.said:
            kept["enforcement"] = present.enforcement
        if "burst" not in self.said and self.window.limit >= 0:
            kept["burst"] = present.burst
        return replace(self.window, **kept)


def limit_phrase(text: str) -> Phrase:
    """``<measure>=<amount or unlimited> [per ...] [zone ...] [enforcement ...] [burst ...]``. Raises
    BadValue."""
    head, words = _split(text, EXAMPLE)
    name, equals, amount = head.partition("=")
    if not equals:
        raise BadValue(f"{text!r}: says no amount", f"write it like '{EXAMPLE}'")
    if amount == UNLIMITED_WORD:
        return _phrase(text, name, amount, words)
    return _phrase(text, name, _whole(amount, text), words)


def window_phrase(text: str) -> Window:
    """``<measure> [per ...] [zone ...]``: which window is meant. Raises BadValue."""
    name, words = _split(text, WINDOW_EXAMPLE)
    if "=" in name:
        raise BadValue(f"{text!r}: names a window, no amount", f"write it like '{WINDOW_EXAMPLE}'")
    return _phrase(text, name, 0, words).window


def words_of(window: Window) -> str:
    """``tokens per minute``: what ``window_phrase`` reads."""
    return words_of_span(window.measure, window.span)


def words_of_span(measure: Measure, span: str) -> str:
    """As ``words_of``, of a standing's measure and span."""
    if measure is Measure.CONCURRENT:
        return measure.value
    span, _, zone = span.partition("@")
    kind, _, seconds = span.partition("-")
    per = f"{ROLLING}={seconds}" if seconds else kind
    return f"{measure} per {per}" + (f" zone {zone}" if zone else "")


def _split(text: str, example: str) -> tuple[str, Sequence[str]]:
    parts = text.split()
    if not parts or len(text) > PHRASE_CHARS_MAX:
        raise BadValue(f"{text[:40]!r}: is no limit", f"write it like '{example}'")
    return parts[0], parts[1:]


def _whole(text: str, phrase: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 16):
        raise BadValue(
            f"{phrase!r}: the amount is no whole number", f"write digits only, or {UNLIMITED_WORD}"
        )
    return int(text)


def _phrase(text: str, name: str, amount: int | str, words: Sequence[str]) -> Phrase:
    if name not in [measure.value for measure in Measure]:
        known = ", ".join(measure.value for measure in Measure)
        raise BadValue(f"{text!r}: counts {name!r}", f"what can be counted is {known}")
    entry: dict[str, Any] = {name: amount}
    for word, value in zip(words[::2], [*words[1::2], ""], strict=False):
        if word not in _WORDS or word in entry or not value:
            raise BadValue(
                f"{text!r}: has {word!r} where it may not stand",
                f"behind the amount come {', '.join(_WORDS)}, each once with its value",
            )
        entry[word] = _value(word, value, text)
    if ("per" in entry) == (name == Measure.CONCURRENT):
        rule = "is counted now, without 'per'" if "per" in entry else "needs 'per' and a time"
        raise BadValue(f"{text!r}: {name} {rule}", f"write it like 'concurrent=8' or '{EXAMPLE}'")
    try:
        return Phrase(window=window_from(entry), said=frozenset(entry))
    except ValueError as error:
        raise BadValue(f"{text!r}: {error}", "mend the limit") from None


def _value(word: str, value: str, text: str) -> Any:
    match word:
        case "per":
            return _per(value, text)
        case "burst":
            return _whole(value, text)
        case "zone":
            return _zone(value, text)
        case _:
            if value not in [enforcement.value for enforcement in Enforcement]:
                known = ", ".join(enforcement.value for enforcement in Enforcement)
                raise BadValue(f"{text!r}: no enforcement {value!r}", f"there are {known}")
            return value


def _per(value: str, text: str) -> Any:
    name, equals, seconds = value.partition("=")
    if name == ROLLING and equals:
        return {ROLLING: _whole(seconds, text)}
    if value not in _SPANS:
        raise BadValue(f"{text!r}: no window {value!r}", f"there are {', '.join(_SPANS)}, {ROLLING}=N")
    return value


def _zone(value: str, text: str) -> str:
    try:
        ZoneInfo(value)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise BadValue(
            f"{text!r}: no time zone {value!r}", f"use a name such as Europe/Berlin or {UTC}"
        ) from None
    return value
