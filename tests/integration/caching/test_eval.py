"""``tidegate cache eval`` with the real embedder, on a handful of pairs."""

from __future__ import annotations

import json
from pathlib import Path

import orjson
import pytest

from mesh.cli import main
from mesh.commands import cache
from tests.harness.embedders import EMBEDDERS

HISTORY = [{"role": "user", "content": "I live in Norway."}, {"role": "assistant", "content": "Nice!"}]
QUESTION = {"role": "user", "content": "How do I renew my passport?"}
PAIRS = (
    {"a": "How do I reset my password?", "b": "How do I reset my password?", "y": 1, "cat": "same"},
    {"a": "How do I reset my password?", "b": "hello, how do I reset my password", "y": 1, "cat": "form"},
    {"a": "Can I return shoes after 20 days?", "b": "Can I return shoes after 200 days?", "y": 0, "cat": "n"},
    {"a": "Cancel my subscription", "b": "Don't cancel my subscription", "y": 0, "cat": "negation"},
    {"messages_a": [QUESTION], "messages_b": [*HISTORY, QUESTION], "y": 0, "cat": "history"},
    {"messages_a": [*HISTORY, QUESTION], "messages_b": [*HISTORY, QUESTION], "y": 1, "cat": "history"},
)


@pytest.fixture
def state(tmp_path: Path) -> list[str]:
    """Options for a state directory with the checkout's prepared model."""
    (tmp_path / "state").mkdir()
    EMBEDDERS.mkdir(parents=True, exist_ok=True)
    (tmp_path / "state" / "embedders").symlink_to(EMBEDDERS)
    return ["--state", str(tmp_path / "state")]


def written(directory: Path, *rows: object) -> Path:
    file = directory / "pairs.jsonl"
    file.write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in rows))
    return file


@pytest.mark.parametrize("profile", cache.PROFILES)
def test_the_file_has_the_figures_and_the_tables_say_the_same(
    tmp_path: Path, state: list[str], capsys: pytest.CaptureFixture[str], profile: str
) -> None:
    words = ["--pairs", str(written(tmp_path, *PAIRS)), "--profile", profile]
    assert main(["cache", "eval", *state, *words, "--json", str(tmp_path / "out.json")]) == 0
    found = json.loads((tmp_path / "out.json").read_text())
    counts = {name: found[name] for name in ("pairs", "should_hit", "hits", "should_miss", "false_hits")}
    assert counts == {"pairs": 6, "should_hit": 3, "hits": 3, "should_miss": 3, "false_hits": 0}
    assert 0 < found["p50_ms"] <= found["p99_ms"]
    reasons = [(row["hit"], row["reason"]) for row in found["rows"]]
    assert reasons == [
        (True, "exact"),
        (True, "canonical"),
        (False, "guard.number"),
        (False, "guard.negation"),
        (False, "no_candidate"),
        (True, "exact"),
    ]
    printed = capsys.readouterr().out
    assert "should hit\t3\t3\t100.00%" in printed and "negation\t0\t0\t1\t0" in printed


def test_a_pair_that_no_request_can_have_is_told_with_its_line(
    tmp_path: Path, state: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    bad = {"messages_a": [{"role": "nobody", "content": "x"}], "messages_b": [QUESTION], "y": 0}
    assert main(["cache", "eval", *state, "--pairs", str(written(tmp_path, PAIRS[0], bad))]) == 1
    line = capsys.readouterr().err
    assert "pairs.jsonl: line 2: Invalid value" in line and line.count("\n") == 1


def test_a_place_that_cannot_be_written_is_told_before_the_work(
    tmp_path: Path, state: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--pairs", str(written(tmp_path, *PAIRS)), "--json", str(tmp_path / "none" / "out.json")]
    assert main(["cache", "eval", *state, *words]) == 1
    assert capsys.readouterr().err.startswith(f"tidegate: no directory {tmp_path}")
