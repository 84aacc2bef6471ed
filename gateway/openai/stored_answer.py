"""The bytes in which an answer is stored: a whole completion as JSON, and how its stream was cut.

Layout: ``TGA`` and a version, CRC-32 of what follows, length of the pieces (both big-endian, 4 bytes), the
pieces (gateway/openai/pieces.py; none for an answer that came as JSON), the completion. The checksum is no
seal, which is the store's: it tells a damaged value from a strange one.
"""

from __future__ import annotations

import struct
import zlib
from typing import Final

_MAGIC: Final = b"TGA\x01"
"""The last byte is the version: a value of another one is a miss, so that writers may change the form."""
_HEAD: Final = struct.Struct(">4sII")


class NotReplayable(ValueError):
    """The stored bytes are not an answer of this form; the caller treats the look-up as a miss."""


def write_stored(completion: bytes, pieces: bytes = b"") -> bytes:
    """The value to store. ``completion``: a JSON object; ``pieces``: ``Pieces.to_bytes()`` of its stream."""
    length = struct.pack(">I", len(pieces))
    checksum = zlib.crc32(completion, zlib.crc32(pieces, zlib.crc32(length)))
    return _HEAD.pack(_MAGIC, checksum, len(pieces)) + pieces + completion


def read_stored(stored: bytes) -> tuple[bytes, bytes]:
    """The completion and the pieces. Raises NotReplayable for another version and for a damaged value."""
    if len(stored) < _HEAD.size or not stored.startswith(_MAGIC):
        raise NotReplayable("not a stored answer of this version")
    _, checksum, length = _HEAD.unpack_from(stored)
    start = _HEAD.size
    if zlib.crc32(stored[start - 4 :]) != checksum or length > len(stored) - start:
        raise NotReplayable("damaged")
    return stored[start + length :], stored[start : start + length]
