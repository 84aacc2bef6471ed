"""Envoy's own protobuf descriptors, read from the Envoy binary that will run.

protoc's C++ output embeds each file's serialized FileDescriptorProto as a constant, so the binary
carries exactly the API it speaks, without a stub package that lags behind. A file starts with field 1
(its name, which we search for) and ends where the bytes stop being fields of FileDescriptorProto: the
string literal's NUL. Real copies exist more than once (linked libraries), hence "first that parses".
"""

from __future__ import annotations

import mmap
import re
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

from google.protobuf import descriptor_pb2, message
from google.protobuf.descriptor import Descriptor
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass

from mesh.envoy_binary import envoy_path

_START: Final = re.compile(rb"\x0a([\x07-\x7f])([A-Za-z0-9_][A-Za-z0-9_/.-]*\.proto)")
_FIELDS: Final = frozenset({1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 14, 15})
"""Field numbers of FileDescriptorProto in use; anything else ends the file."""
_FILE_BYTES_MAX: Final = 4 * 1024 * 1024
_VARINT, _BYTES = 0, 2


class DescriptorsMissing(Exception):
    """The binary does not carry the file or message asked for."""


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """Value and end of the varint at ``at``. Raises IndexError at the end of ``data``."""
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
        if shift > 63:
            raise IndexError("not a varint")


def _end(data: bytes) -> int:
    """How far ``data`` reads as top-level fields of one FileDescriptorProto."""
    at, seen_name = 0, False
    try:
        while True:
            tag, after = _varint(data, at)
            number, kind = tag >> 3, tag & 7
            if number not in _FIELDS or kind not in (_VARINT, _BYTES) or (number == 1 and seen_name):
                return at
            seen_name = seen_name or number == 1
            size, after = _varint(data, after)
            after += size if kind == _BYTES else 0
            if after > len(data):
                return at
            at = after
    except IndexError:
        return at


def _file_at(data: mmap.mmap, start: int) -> descriptor_pb2.FileDescriptorProto | None:
    chunk = data[start : start + 64 * 1024]
    size = _end(chunk)
    if size < 8 or len(chunk) - size < 16 * 1024:
        chunk = data[start : start + _FILE_BYTES_MAX]
        size = _end(chunk)
    try:
        return descriptor_pb2.FileDescriptorProto.FromString(chunk[:size])
    except message.DecodeError:
        return None


@lru_cache(maxsize=4)
def embedded_files(binary: Path) -> Mapping[str, descriptor_pb2.FileDescriptorProto]:
    """Every .proto file in ``binary``, by its name (``envoy/config/core/v3/base.proto``).

    About a second for a 100 MB binary; cached. Raises DescriptorsMissing when there is none (a
    stripped or foreign binary) and OSError.
    """
    files: dict[str, descriptor_pb2.FileDescriptorProto] = {}
    with binary.open("rb") as handle, mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ) as data:
        for found in _START.finditer(data):
            name = found.group(2)[: found.group(1)[0]].decode("ascii")
            if len(name) != found.group(1)[0] or not name.endswith(".proto") or name in files:
                continue
            file = _file_at(data, found.start())
            if file is not None and (file.message_type or file.enum_type or file.service or file.dependency):
                files[name] = file
    if not files:
        raise DescriptorsMissing(f"{binary}: carries no protobuf descriptors")
    return files


@lru_cache(maxsize=4)
def envoy_pool(binary: Path) -> DescriptorPool:
    """A private pool with every embedded file whose imports are embedded too. Raises as embedded_files."""
    files = embedded_files(binary)
    pool, done = DescriptorPool(), dict[str, bool]()

    def add(name: str) -> bool:
        if name not in done:
            done[name] = False  # an import cycle is not legal; treat it as missing
            if name in files and all(add(needed) for needed in files[name].dependency):
                pool.AddSerializedFile(files[name].SerializeToString())
                done[name] = True
        return done[name]

    for name in sorted(files):
        add(name)
    return pool


def message_descriptor(full_name: str, binary: Path | None = None) -> Descriptor:
    """The message ``envoy.config.core.v3.Address`` as this Envoy knows it. Raises DescriptorsMissing."""
    try:
        return envoy_pool(binary or envoy_path()).FindMessageTypeByName(full_name)
    except KeyError:
        raise DescriptorsMissing(f"{full_name}: not in {binary or envoy_path()}") from None


def message_class(full_name: str, binary: Path | None = None) -> type[Any]:
    """A message class for json_format and parsing. Raises DescriptorsMissing."""
    return GetMessageClass(message_descriptor(full_name, binary))
