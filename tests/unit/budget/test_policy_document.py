"""docs/budgets.md: its examples load, and it leaves out no field of the schema."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from gateway.budget.calendar import window_bounds
from gateway.budget.measure import Measure
from gateway.budget.outbox import window_of
from gateway.budget.policy import budget_policy_from, schema
from gateway.budget.window import Enforcement, WindowKind, window_id
from gateway.config.document import Document, parse_documents
from gateway.contract.ids import AccountId
from gateway.contract.units import UnixMillis
from gateway.models.catalogue import read_catalogue
from gateway.models.catalogue import schema as catalogue_schema

TEXT = (Path(__file__).resolve().parents[3] / "docs" / "budgets.md").read_text()
EXAMPLES = re.findall(r"(?ms)^```yaml\n(.*?)^```$", TEXT)
COUNTERS = re.findall(r"(?m)^\| `([^`]+\\\|\d+)` \|", TEXT)


def fields(schema: Mapping[str, Any]) -> Iterator[str]:
    """Every name of a field, at any depth."""
    for name, inner in schema.items():
        if name == "properties":
            yield from inner
        if isinstance(inner, Mapping):
            yield from fields(inner)


def read(text: str) -> Any:
    document: Document = parse_documents(text, "example")[0]
    return (read_catalogue if "models" in document.data else budget_policy_from)(document)


@pytest.mark.parametrize("example", EXAMPLES)
def test_every_example_loads(example: str) -> None:
    assert read(example)


def test_it_has_examples_of_both_files() -> None:
    assert sorted(example.split(":")[0] for example in EXAMPLES) == ["models", "version", "version"]


def test_every_field_and_every_word_is_in_it() -> None:
    prices = catalogue_schema()["$defs"]["model"]["properties"]["prices"]
    words = {*fields(schema()), *fields(prices), *Measure, *Enforcement, *WindowKind, "unlimited"}
    left_out = {word for word in words - {WindowKind.ROLLING} if not re.search(rf"\b{word}\b", TEXT)}
    assert not left_out


@pytest.mark.parametrize("name", COUNTERS)
def test_the_names_of_counters_are_such_as_the_ledger_gives(name: str) -> None:
    account, *measured, span, start = name.replace("\\|", "|").split("|")
    measure = Measure(measured[0]) if measured else Measure.TOKENS
    window = window_of(f"{measure},{span},1,hard,0")
    begins, _ = window_bounds(window, UnixMillis(int(start)))
    assert window_id(AccountId(account), measure, span, begins) == name.replace("\\|", "|")


def test_it_shows_counters_of_six_kinds() -> None:
    assert len(COUNTERS) == 6
