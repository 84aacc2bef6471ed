"""A record opens where it was sealed, whole and unchanged, and nowhere else; bars are read with care."""

from __future__ import annotations

from dataclasses import replace

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from ext_proc.cache.entry import (
    LINEAGE_BYTES_MAX,
    Record,
    RecordKind,
    Sealer,
    TooLong,
    digest_of,
    is_barred,
)
from ext_proc.cache.store import BARS_MAX, ENTRY_BYTES_MAX, Lineage
from gateway.contract.ids import OrgId
from gateway.contract.units import UnixMillis

SEALER = Sealer(b"k" * 32)
HERE = (OrgId("acme"), "a" * 64, "e1")
RECORD = Record(
    kind=RecordKind.VALUE,
    body=b'{"a":1}' * 200,
    number=3,
    stored_at=UnixMillis(1_700_000_000_000),
    expires_at=UnixMillis(1_700_000_060_000),
    lineage=Lineage(
        request_id="r",
        model="chat",
        revision="é",
        template="t",
        policy_version="1",
        tags=("x", "y"),
        admitted_at=UnixMillis(5),
    ),
)


@pytest.mark.parametrize("kind", list(RecordKind))
@pytest.mark.parametrize("body", [b"", b"x" * 511, b"x" * 512, bytes(range(256)) * 8, b"x" * ENTRY_BYTES_MAX])
def test_what_is_sealed_opens(kind: RecordKind, body: bytes) -> None:
    record = replace(RECORD, kind=kind, body=body)
    sealed = SEALER.seal(*HERE, record)
    assert SEALER.open(*HERE, sealed) == record
    assert SEALER.open(*HERE, sealed + b"b" * 64) == replace(record, bars=b"b" * 64)
    assert len(sealed) < len(body) + 200


def test_a_record_opens_only_where_it_was_sealed() -> None:
    sealed = SEALER.seal(*HERE, RECORD)
    assert SEALER.open(OrgId("other"), HERE[1], HERE[2], sealed) is None
    assert SEALER.open(HERE[0], "b" * 64, HERE[2], sealed) is None
    assert SEALER.open(HERE[0], HERE[1], "e2", sealed) is None
    assert SEALER.open(OrgId("acm"), "e" + HERE[1], HERE[2], sealed) is None
    assert Sealer(b"x" * 32).open(*HERE, sealed) is None


@given(st.data())
def test_no_changed_byte_is_ever_answered(data: st.DataObject) -> None:
    sealed = bytearray(SEALER.seal(*HERE, RECORD))
    place = data.draw(st.integers(0, len(sealed) - 1))
    sealed[place] ^= data.draw(st.integers(1, 255))
    assert SEALER.open(*HERE, bytes(sealed)) is None
    assert SEALER.open(*HERE, bytes(sealed[:place])) is None


@given(st.binary(max_size=300))
def test_anything_else_does_not_open(data: bytes) -> None:
    assert SEALER.open(*HERE, data) is None
    assert SEALER.open_document(data) is None


def test_a_body_that_swells_is_not_unpacked(monkeypatch: pytest.MonkeyPatch) -> None:
    swollen = zstandard.ZstdCompressor().compress(b"x" * (ENTRY_BYTES_MAX + 1))
    for claimed in (ENTRY_BYTES_MAX + 1, 10):
        body = b"y" * claimed
        with monkeypatch.context() as writes:
            writes.setattr(Sealer, "_packed", lambda *_: (1, swollen))
            sealed = SEALER.seal(*HERE, replace(RECORD, body=body))
        assert SEALER.open(*HERE, sealed) is None


def test_a_lineage_is_bounded() -> None:
    long = replace(RECORD, lineage=Lineage(tags=("x" * LINEAGE_BYTES_MAX,)))
    with pytest.raises(TooLong):
        SEALER.seal(*HERE, long)


def test_a_document_is_sealed_apart_from_records() -> None:
    sealed = SEALER.seal_document(b"{}")
    assert SEALER.open_document(sealed) == b"{}"
    assert SEALER.open_document(sealed + b" ") is None
    assert SEALER.open_document(SEALER.seal(*HERE, RECORD)) is None
    assert SEALER.open(*HERE, sealed) is None


def test_bars() -> None:
    key, other = "01" * 32, "02" * 32
    assert not is_barred(b"", key)
    assert is_barred(digest_of(other) + digest_of(key), key)
    assert not is_barred(digest_of(other), key)
    assert not is_barred(b"\x00" * 16 + digest_of(key) + b"\x00" * 16, key), "between two digests"
    assert is_barred(digest_of(other)[:-1], key), "damaged"
    assert not is_barred(digest_of(other) * BARS_MAX, key)
    assert is_barred(digest_of(other) * (BARS_MAX + 1), key), "more than it may hold"
