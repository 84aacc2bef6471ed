"""The hash chain: each record carries the hash of everything before it.

A record is one line: ``{"event":{...},"hash":"...","prev":"...","seq":n}`` with
``hash = sha256(prev || canonical event)``, ``prev`` the hash of the record before (of the first:
``genesis(region)``) and ``seq`` counted from 1. A line has exactly one form, so a changed byte is found
whether or not it changes the meaning. Whoever rewrites the whole chain is found by the anchor: count and
head of the chain are kept in the ledger as well.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import Final

import orjson

from gateway.contract.ids import RegionName
from gateway.events.codec import NotAnEvent, encode, from_fields
from gateway.events.event import Event

LINE_BYTES_MAX: Final = 1024 * 1024
"""Longest record; the bookkeeper's events are far below (outbox_events.ENTRY_BYTES_MAX)."""
_HASH: Final = re.compile(r"[0-9a-f]{64}\Z")
_KEYS: Final = {"event", "hash", "prev", "seq"}


class BrokenLine(ValueError):
    """A line that is no whole, canonical record with its own hash. The text says what is wrong."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One link. ``hash`` belongs to ``prev`` and ``event``; whether ``prev`` is right only the record
    before can tell."""

    seq: int
    prev: str
    hash: str
    event: Event


@dataclass(frozen=True, slots=True, kw_only=True)
class Anchor:
    """What the ledger remembers of the books: at least ``count`` records, the last of them with ``head``."""

    count: int
    head: str


def is_hash(text: object) -> bool:
    """Whether ``text`` is a hash as we write it."""
    return isinstance(text, str) and _HASH.match(text) is not None


def genesis(region: RegionName) -> str:
    """``prev`` of a region's first record, so that one region's books cannot pass as another's."""
    return hashlib.sha256(b"tidegate books v1\n" + region.encode()).hexdigest()


def hash_of(prev: str, event: bytes) -> str:
    """The hash of the record with the canonical ``event`` after ``prev``."""
    return hashlib.sha256(bytes.fromhex(prev) + event).hexdigest()


def _written(seq: int, prev: str, own: str, event: bytes) -> bytes:
    return b'{"event":%b,"hash":"%b","prev":"%b","seq":%d}\n' % (event, own.encode(), prev.encode(), seq)


def line_of(seq: int, prev: str, event: Event) -> tuple[bytes, str]:
    """The line of record ``seq`` after ``prev``, newline included, and its hash. Raises NotAnEvent."""
    body = encode(event)
    own = hash_of(prev, body)
    line = _written(seq, prev, own, body)
    if len(line) > LINE_BYTES_MAX:
        raise NotAnEvent(f"{event.type.value}: longer than {LINE_BYTES_MAX} bytes")
    return line, own


def read_line(line: bytes) -> Record:
    """The record of a line with its newline. Raises BrokenLine."""
    if not line.endswith(b"\n"):
        raise BrokenLine("the line has no end")
    try:
        fields = orjson.loads(line)
    except orjson.JSONDecodeError:
        raise BrokenLine("not JSON") from None
    if not isinstance(fields, dict) or fields.keys() != _KEYS:
        raise BrokenLine("not a record of event, hash, prev and seq")
    seq, prev, own = fields["seq"], fields["prev"], fields["hash"]
    if type(seq) is not int or seq < 1:
        raise BrokenLine("seq: must be a whole number from 1")
    if not is_hash(prev) or not is_hash(own):
        raise BrokenLine("hash and prev: must be 64 hexadecimal digits")
    try:
        event = from_fields(fields["event"])
        body = encode(event)
    except NotAnEvent as error:
        raise BrokenLine(f"event: {error}") from None
    if _written(seq, prev, own, body) != line:
        raise BrokenLine("not in canonical form")
    if hash_of(prev, body) != own:
        raise BrokenLine("the hash does not belong to the event")
    return Record(seq=seq, prev=prev, hash=own, event=event)
