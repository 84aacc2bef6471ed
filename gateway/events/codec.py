"""An event as canonical JSON and back: one event has exactly one form, so that a hash can stand for it.

Canonical: keys sorted, no spaces, UTF-8, integers but no floats, what is empty left out. ``decode``
accepts nothing else, not even the same value written differently.
"""

from __future__ import annotations

import re
from typing import Any, Final

import orjson

from gateway.events.event import TYPES, Event, EventType

_VERSION: Final = "v"
_TEXTS: Final = (
    "id",
    "region",
    "org",
    "request_id",
    "hold",
    "attempt",
    "policy_version",
    "verdict",
    "reason",
)
_KEYS: Final = frozenset((*_TEXTS, _VERSION, "type", "at_ms", "amounts", "accounts", "context"))
_AMOUNT: Final = re.compile(r"(0|-?[1-9][0-9]{0,18})\Z")
"""The sign is for remainders; 19 digits are what 64 bits can hold."""


class NotAnEvent(ValueError):
    """Not a canonical event of a schema version we know. The text names the field, never its value."""


def is_amount(text: str) -> bool:
    """Whether ``text`` is a whole number in the one form we write."""
    return _AMOUNT.match(text) is not None


def encode(event: Event) -> bytes:
    """The canonical JSON object, without a newline. Raises NotAnEvent for amounts that are no whole
    numbers, for text that has no UTF-8 form and for a type that its version has not."""
    if event.type not in TYPES.get(event.version, ()):
        raise NotAnEvent(f"type: not in version {event.version}")
    fields: dict[str, object] = {_VERSION: event.version, "type": event.type.value, "at_ms": event.at_ms}
    for name in _TEXTS:
        text = getattr(event, name)
        if text:
            fields[name] = text
    if event.amounts:
        if not all(map(is_amount, event.amounts.values())):
            raise NotAnEvent("amounts: must be whole numbers")
        fields["amounts"] = dict(event.amounts)
    if event.accounts:
        fields["accounts"] = list(event.accounts)
    if event.context:
        fields["context"] = dict(event.context)
    try:
        return orjson.dumps(fields, option=orjson.OPT_SORT_KEYS)
    except orjson.JSONEncodeError as error:
        raise NotAnEvent(f"{event.type.value}: {error}") from None


def decode(data: bytes) -> Event:
    """The event that ``encode`` wrote as ``data``. Raises NotAnEvent."""
    try:
        fields = orjson.loads(data)
    except orjson.JSONDecodeError:
        raise NotAnEvent("not JSON") from None
    event = from_fields(fields)
    if encode(event) != data:
        raise NotAnEvent("not in canonical form")
    return event


def from_fields(fields: Any) -> Event:
    """The event of a decoded JSON object; whether it was canonical is the caller's to check.
    Raises NotAnEvent."""
    if not isinstance(fields, dict):
        raise NotAnEvent("not an object")
    version = fields.get(_VERSION)
    if type(version) is not int or version not in TYPES:
        raise NotAnEvent(f"{_VERSION}: must be one of {', '.join(map(str, TYPES))}")
    if unknown := sorted(fields.keys() - _KEYS):
        raise NotAnEvent(f"{unknown[0]}: no such field in version {version}")
    if type(fields.get("at_ms")) is not int:
        raise NotAnEvent("at_ms: must be a whole number")
    try:
        kind = EventType(str(fields.get("type")))
    except ValueError:
        raise NotAnEvent("type: unknown") from None
    if kind not in TYPES[version]:
        raise NotAnEvent(f"type: not in version {version}")
    accounts = fields.get("accounts", [])
    if not isinstance(accounts, list) or not all(isinstance(account, str) for account in accounts):
        raise NotAnEvent("accounts: must be a list of strings")
    return Event(
        type=kind,
        at_ms=fields["at_ms"],
        amounts=_texts(fields, "amounts"),
        accounts=tuple(accounts),
        context=_texts(fields, "context"),
        version=version,
        **{name: _text(fields, name) for name in _TEXTS},
    )


def _text(fields: dict[str, Any], name: str) -> str:
    value = fields.get(name, "")
    if not isinstance(value, str):
        raise NotAnEvent(f"{name}: must be a string")
    return value


def _texts(fields: dict[str, Any], name: str) -> dict[str, str] | None:
    value = fields.get(name)
    if value is None:
        return None
    if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()):
        raise NotAnEvent(f"{name}: must be an object of strings")
    return value
