"""docs/cache.md: its examples load and parse, and it leaves out no field, header, metric or option."""

from __future__ import annotations

import argparse
import re
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from ext_proc.cache import purge
from ext_proc.cache.detectors import DETECTORS
from ext_proc.cache.directives import Ceiling, read_directives
from ext_proc.cache.eligibility import SIMILAR_CHARS_MAX
from ext_proc.cache.policy import CacheMode, Profile, Share
from ext_proc.cache.policy_file import read_cache_policy, schema
from ext_proc.cache.store import BAR_SECONDS, ENTRY_BYTES_MAX, SEEN_S
from ext_proc.phases.caching import TAGS_MAX
from ext_proc.recall.truth import PRIOR_RIGHT, State, Truth
from gateway.config.document import parse_documents
from gateway.contract import headers
from gateway.path import hop
from gateway.telemetry import names
from inference.embedders.embedder import TOKENS_MAX
from mesh.caching.pairs import read_pairs
from mesh.cli import parser

ROOT = Path(__file__).resolve().parents[3]
TEXT = (ROOT / "docs" / "cache.md").read_text()
DAY_S = 24 * 3600


def blocks(kind: str) -> list[str]:
    return re.findall(rf"(?ms)^```{kind}\n(.*?)^```$", TEXT)


COMMANDS = [line for block in blocks("sh") for line in block.splitlines()]


def fields(of: Mapping[str, Any]) -> Iterator[str]:
    """Every name of a field, at any depth."""
    for name, inner in of.items():
        if name == "properties":
            yield from inner
        if isinstance(inner, Mapping):
            yield from fields(inner)


def test_the_example_of_a_policy_loads() -> None:
    (example,) = blocks("yaml")
    policy = read_cache_policy(parse_documents(example, "example")[0])
    assert [rule.name for _, rule in policy.rules] == ["faq", "nothing-of-legal", "everyone"]
    assert policy.rules[0][1].personal_data == DETECTORS


def test_every_field_and_every_word_of_the_policy_is_in_it() -> None:
    words = {*fields(schema()), *CacheMode, *Profile, *Share}
    assert {word for word in words if not re.search(rf"\b{word}\b", TEXT)} == set()


def test_the_rows_of_pairs_are_read(tmp_path: Path) -> None:
    (rows,) = blocks("json")
    (tmp_path / "pairs.jsonl").write_text(rows)
    assert [pair.same for pair in read_pairs(tmp_path / "pairs.jsonl")] == [True, False, True]


@pytest.mark.parametrize("line", COMMANDS)
def test_every_command_is_one(line: str) -> None:
    words = shlex.split(line)
    assert words[0] == "./tidegate"
    assert callable(parser().parse_args(words[1:]).run)


def test_every_option_of_purge_is_shown() -> None:
    shown = {word for line in COMMANDS for word in shlex.split(line) if word.startswith("--")}
    assert {
        "--tenant",
        "--model",
        "--model-revision",
        "--template",
        "--policy",
        "--request",
        "--tag",
    } <= shown


def test_every_verb_is_told() -> None:
    (top,) = (action for action in parser()._actions if isinstance(action, argparse._SubParsersAction))
    cache = top.choices["cache"]
    (verbs,) = (action for action in cache._actions if isinstance(action, argparse._SubParsersAction))
    assert {verb for verb in verbs.choices if f"./tidegate cache {verb}" not in TEXT} == set()


@pytest.mark.parametrize(
    "header",
    [text for name, text in vars(headers).items() if name.startswith("CACHE") and name[-4:] != "KEPT"],
)
def test_every_header_of_the_cache_is_in_it(header: str) -> None:
    assert f"`{header}" in TEXT


def test_the_directives_are_those_that_are_read() -> None:
    rows = re.findall(r"(?m)^\| `([a-z=0-9-]+)` \| ", TEXT)
    plain = read_directives("")
    told = [row for row in rows if read_directives(row) != plain]
    assert told == ["no-store", "no-cache", "max-age=60", "exact-only", "strict-only", "only-if-cached"]
    assert {*Ceiling} == {read_directives(row).ceiling for row in told}


def test_every_metric_of_the_cache_is_in_it() -> None:
    own = [text for name, text in vars(names).items() if name.startswith(("CACHE_", "RECALL_"))]
    assert own and {name for name in own if name not in TEXT} == set()


@pytest.mark.parametrize(
    "said",
    [
        f"for {BAR_SECONDS // DAY_S} days",
        f"answers over {ENTRY_BYTES_MAX // 1024**2} MiB",
        f"questions over {SIMILAR_CHARS_MAX} characters or {TOKENS_MAX} tokens",
        f"up to {TAGS_MAX} names",
        f"more than {purge.RULES_MAX} rules",
        f"stands for {purge.RULE_MILLIS // 1000 // DAY_S} days",
        f"as {PRIOR_RIGHT:.0f} right answers",
        f"give up after {hop('recall').deadline} ms",
    ],
)
def test_numbers_are_those_of_the_code(said: str) -> None:
    assert said in " ".join(TEXT.split())


def test_a_worker_obeys_within_the_second_that_is_promised() -> None:
    assert SEEN_S == 1.0 and "obeys within a second" in " ".join(TEXT.split())


def test_the_slo_from_which_on_it_has_to_be_earned_is_that_of_the_code() -> None:
    assert Truth().state("b", 0.0046) is State.ON
    assert Truth().state("b", 0.0045) is State.PROBATION
    assert "An SLO below 0.46 % has to be earned" in TEXT
