"""What is written into the cache Valkey: records, sealed, so that only what this gateway wrote there is ever
answered. Pure.

    32 bytes HMAC-SHA256 | head | lineage | payload | bars

The seal covers all but the bars, and org, key and epoch besides: a record copied to another tenant's key,
kept over a purge, cut or changed by whoever can write to the store does not open. A payload is an answer
(zstd, where that helps) or, of an alias, the digest of the key where the answer is. Bars are digests of
questions that the answer does not answer, appended to its record: whatever evicts them, evicts the answer
with them.

A record of another format is one that does not open: the format is under the seal.
"""

from __future__ import annotations

import hmac
import struct
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final

import orjson
import zstandard

from ext_proc.cache.store import BARS_MAX, ENTRY_BYTES_MAX, Lineage
from gateway.contract.ids import OrgId
from gateway.contract.units import UnixMillis
from gateway.keys.keyed_hash import length_prefixed

LINEAGE_BYTES_MAX: Final = 4096
"""Ids, names and a policy's tags. A longer one is not stored, for then it could not be purged by them."""
DIGEST_BYTES: Final = 32
_FORMAT: Final = b"tidegate cache record 1"
_DOCUMENT: Final = b"tidegate cache document 1"
_SEAL: Final = 32
_HEAD: Final = struct.Struct(">BBIQQIIH")
"""Kind, packing, number, stored_at, expires_at, bytes of the body, of the payload, of the lineage."""
_PLAIN, _ZSTD = 0, 1
_WORTH: Final = 512
"""Bytes from which compression is tried: shorter answers gain less than their lineage takes."""
LARGE: Final = 64 * 1024
"""Bytes from which sealing takes a millisecond and more: not for an event loop."""
_LEVEL: Final = 1
"""JSON shrinks to a third at 300 MB/s; higher levels take milliseconds of the filter for some per cent."""


class TooLong(Exception):
    """The lineage has more than LINEAGE_BYTES_MAX."""


class RecordKind(IntEnum):
    """What a record is; under the seal, so that none is taken for another."""

    VALUE = 1
    ALIAS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """``body``: the answer; of an alias, the 32 bytes of the key it leads to. ``number``: of the purge
    document that the look-up knew. ``bars``: digests, one after the other."""

    kind: RecordKind
    body: bytes
    number: int
    stored_at: UnixMillis
    expires_at: UnixMillis
    lineage: Lineage = field(default_factory=Lineage)
    bars: bytes = b""


class Sealer:
    """Seals and opens records with one key. For one thread, but that bodies from LARGE on may be sealed in
    another."""

    def __init__(self, key: bytes) -> None:
        """``key``: 32 secret bytes, the same in every worker."""
        self._key = key
        self._compressor = zstandard.ZstdCompressor(level=_LEVEL)
        self._decompressor = zstandard.ZstdDecompressor()

    def seal(self, org: OrgId, key: str, epoch: str, record: Record) -> bytes:
        """The record's bytes, without bars. Raises TooLong."""
        lineage = lineage_bytes(record.lineage)
        if len(lineage) > LINEAGE_BYTES_MAX:
            raise TooLong
        packing, payload = self._packed(record.body)
        head = _HEAD.pack(
            record.kind,
            packing,
            record.number,
            record.stored_at,
            record.expires_at,
            len(record.body),
            len(payload),
            len(lineage),
        )
        covered = head + lineage + payload
        return self._mac(_FORMAT, org.encode(), key.encode(), epoch.encode(), covered) + covered

    def open(self, org: OrgId, key: str, epoch: str, data: bytes) -> Record | None:
        """The record, or None for anything that was not sealed for this place."""
        try:
            head = _HEAD.unpack_from(data, _SEAL)
        except struct.error:
            return None
        kind, packing, number, stored_at, expires_at, size, packed, told = head
        lineage_at = _SEAL + _HEAD.size
        end = lineage_at + told + packed
        covered = data[_SEAL:end]
        expected = self._mac(_FORMAT, org.encode(), key.encode(), epoch.encode(), covered)
        if len(data) < end or not hmac.compare_digest(data[:_SEAL], expected):
            return None
        body = self._unpacked(packing, data[lineage_at + told : end], size)
        if body is None:
            return None
        return Record(
            kind=RecordKind(kind),
            body=body,
            number=number,
            stored_at=UnixMillis(stored_at),
            expires_at=UnixMillis(expires_at),
            lineage=_lineage(data[lineage_at : lineage_at + told]),
            bars=data[end:],
        )

    def seal_document(self, document: bytes) -> bytes:
        """The purge document's bytes, sealed: who could write one without rules could undo purges."""
        return self._mac(_DOCUMENT, document) + document

    def open_document(self, data: bytes) -> bytes | None:
        """None for anything that ``seal_document`` did not make."""
        document = data[_SEAL:]
        return document if hmac.compare_digest(data[:_SEAL], self._mac(_DOCUMENT, document)) else None

    def _mac(self, *parts: bytes) -> bytes:
        return hmac.digest(self._key, length_prefixed(*parts), "sha256")

    def _packed(self, body: bytes) -> tuple[int, bytes]:
        if len(body) >= _WORTH:
            large = len(body) >= LARGE
            compressor = zstandard.ZstdCompressor(level=_LEVEL) if large else self._compressor
            smaller = compressor.compress(body)
            if len(smaller) < len(body):
                return _ZSTD, smaller
        return _PLAIN, body

    def _unpacked(self, packing: int, payload: bytes, size: int) -> bytes | None:
        """None for what is not ``size`` bytes long. The seal has been checked; the bound holds without it
        too."""
        if packing == _PLAIN:
            return payload if len(payload) == size else None
        if size > ENTRY_BYTES_MAX or zstandard.frame_content_size(payload) != size:
            return None
        try:
            return self._decompressor.decompress(payload, max_output_size=size)
        except zstandard.ZstdError:
            return None


def digest_of(key: str) -> bytes:
    """The 32 bytes of a key's 64 hex digits."""
    return bytes.fromhex(key)


def is_barred(bars: bytes, key: str) -> bool:
    """Whether ``bars`` names ``key``, or names more than it may, or is damaged: then it bars everything."""
    if not bars:
        return False
    if len(bars) % DIGEST_BYTES or len(bars) > BARS_MAX * DIGEST_BYTES:
        return True
    return names(bars, key)


def names(bars: bytes, key: str) -> bool:
    """Whether one of the digests is that of ``key``."""
    digest = digest_of(key)
    return any(bars[at : at + DIGEST_BYTES] == digest for at in range(0, len(bars), DIGEST_BYTES))


def lineage_bytes(lineage: Lineage) -> bytes:
    """As it is sealed; not stored beyond LINEAGE_BYTES_MAX."""
    return orjson.dumps(
        (
            lineage.request_id,
            lineage.model,
            lineage.revision,
            lineage.template,
            lineage.policy_version,
            lineage.admitted_at,
            *lineage.tags,
        )
    )


def _lineage(data: bytes) -> Lineage:
    """Of sealed bytes: what was written."""
    request_id, model, revision, template, policy_version, admitted_at, *tags = orjson.loads(data)
    return Lineage(
        request_id=request_id,
        model=model,
        revision=revision,
        template=template,
        policy_version=policy_version,
        admitted_at=UnixMillis(admitted_at),
        tags=tuple(tags),
    )
