"""Files of question pairs: both forms are read, and a bad row is told with its line."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest

from mesh.caching.pairs import NO_CATEGORY, Pair, read_pairs
from mesh.local.refusal import Refusal


def read(tmp_path: Path, text: str) -> list[Pair]:
    file = tmp_path / "pairs.jsonl"
    file.write_text(text)
    return read_pairs(file)


def test_questions_become_messages_of_a_user(tmp_path: Path) -> None:
    rows = [{"a": "Why?", "b": "How?", "y": 0, "cat": "type", "dom": "shop"}, {"a": "x", "b": "y", "y": 1}]
    first, second = read(tmp_path, "\n\n".join(orjson.dumps(row).decode() for row in rows))
    assert first.first == ({"role": "user", "content": "Why?"},)
    assert first.then == ({"role": "user", "content": "How?"},)
    assert (first.same, first.category, first.line) == (False, "type", 1)
    assert (second.same, second.category, second.line) == (True, NO_CATEGORY, 3)


def test_conversations_are_taken_as_they_are(tmp_path: Path) -> None:
    told = [{"role": "system", "content": "s"}, {"role": "user", "content": "q"}]
    (pair,) = read(tmp_path, orjson.dumps({"messages_a": told, "messages_b": told[1:], "y": 1}).decode())
    assert (pair.first, pair.then) == (told, told[1:])


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "no pairs"),
        ("{", "line 1: "),
        ("[1]", "line 1: no JSON object"),
        ('{"a": "x", "b": "y"}', "line 1: y is neither 0 nor 1"),
        ('{"a": "x", "b": "y", "y": 1}\n{"a": "x", "y": 1}', "line 2: neither b (a string) nor messages_b"),
        ('{"a": "x", "messages_b": ["y"], "y": 1}', "line 1: messages_b is no list of messages"),
        ('{"a": "x", "messages_b": [], "y": 1}', "line 1: messages_b is no list of messages"),
        ('{"a": "x", "b": "y", "y": 2}', "line 1: y is neither 0 nor 1"),
    ],
)
def test_a_bad_file_is_refused_with_its_line(tmp_path: Path, text: str, complaint: str) -> None:
    with pytest.raises(Refusal) as refused:
        read(tmp_path, text)
    assert complaint in str(refused.value) and "pairs.jsonl" in str(refused.value)
    assert "\n" not in str(refused.value)
