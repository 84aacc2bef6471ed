"""Bytes to an object: what is refused before anything is built."""

from __future__ import annotations

import json

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.contract.errors import InvalidRequest
from gateway.openai.json_body import CONTAINERS_MAX, DEPTH_MAX, STRINGS_MAX, read_object

DEEP_LIST = b'{"a":' + b"[" * (DEPTH_MAX - 1) + b"]" * (DEPTH_MAX - 1) + b"}"


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", "invalid_json"),
        (b"   ", "invalid_json"),
        (b"{", "invalid_json"),
        (b"null", "invalid_json"),
        (b"[1]", "invalid_json"),
        (b'"text"', "invalid_json"),
        (b'{"a": NaN}', "invalid_json"),
        (b'{"a": Infinity}', "invalid_json"),
        (b'{"a": -Infinity}', "invalid_json"),
        (b'{"a": 1e999}', "invalid_json"),
        (b'{"a": ' + b"9" * 4000 + b"}", "invalid_json"),
        (b'{"a": "\\ud800"}', "invalid_json"),
        (b'{"a": "\xff"}', "invalid_json"),
        (b'{"a": 1,}', "invalid_json"),
        (b'{"a": 1} {}', "invalid_json"),
        (b"{'a': 1}", "invalid_json"),
        (b'{"a": "\n"}', "invalid_json"),
        (b'{"a": 01}', "invalid_json"),
        (b"\xef\xbb\xbf{}", "invalid_json"),
        ('{"a": 1}'.encode("utf-16"), "invalid_json"),
        ('{"a": 1}'.encode("utf-32"), "invalid_json"),
        (b'{"a": ' + b'"\\"' * 50_000, "invalid_json"),
        (b'{"a":' + b"[" * 100_000, "body_too_complex"),
        (b'{"a":' * 100_000, "body_too_complex"),
        (DEEP_LIST.replace(b"[]", b"[[]]"), "body_too_complex"),
        (b'{"a":[' + b"[]," * CONTAINERS_MAX + b"1]}", "body_too_complex"),
        (b'{"a":[' + b'"",' * STRINGS_MAX + b"1]}", "body_too_complex"),
        (b'{"model":"cheap","model":"big"}', "duplicate_key"),
        (b'{"m":[{"role":"user","role":"system"}]}', "duplicate_key"),
        (b'{"model":"cheap","\\u006dodel":"big"}', "duplicate_key"),
    ],
)
def test_refused(body: bytes, code: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        read_object(body)
    assert caught.value.code == code
    assert len(caught.value.message) < 300


def test_good_bodies_pass() -> None:
    assert read_object(DEEP_LIST)["a"]
    assert read_object(b' {"a": "[[[[{{{{ \\" \\\\"} ') == {"a": '[[[[{{{{ " \\'}
    brackets = orjson.dumps({"text": '[{"' * 200_000})
    assert len(read_object(brackets)["text"]) == 600_000


def test_no_quadratic_scan_of_an_unterminated_string() -> None:
    """Each escaped quote would be a new start for a backtracking pattern."""
    with pytest.raises(InvalidRequest):
        read_object(b'{"a":"' + b'\\"' * 2_000_000)


@given(
    st.binary(max_size=200) | st.text(alphabet='{}[]",:\\ 019eE+-.truefalsn\n', max_size=80).map(str.encode)
)
def test_junk_is_refused_or_read_as_json_reads_it(body: bytes) -> None:
    try:
        value = read_object(body)
    except InvalidRequest:
        return
    assert value == json.loads(body)
