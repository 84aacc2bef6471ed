"""Every code that a look-up can end with has words, and no words are for a code that there is not."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from types import ModuleType

import pytest

from ext_proc import lookups
from ext_proc.cache.eligibility import Ineligible
from ext_proc.cache.question import Guard
from ext_proc.cache.store import HitKind
from ext_proc.phases import admit, caching, search
from ext_proc.recall import decision, recaller
from mesh.caching.reasons import EXACT_ONLY, GUARDS, HITS, NOT_LOOKED_UP, SEARCHED, in_words, reasons_table

SOURCES = (search, caching, admit, lookups, recaller, decision)
TAKING = {"_missed", "_without", "append"}
"""Whose first argument is a code."""
NAMED = {"reason", "_reason", "said"}
"""Names that hold one."""
NO_REASON = {"found", "hit", "", "found and served"}


def texts(node: ast.expr | None) -> Iterator[str]:
    """The constants that ``node`` can be."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    for part in ("body", "orelse") if isinstance(node, ast.IfExp) else ():
        yield from texts(getattr(node, part))
    for value in node.values if isinstance(node, ast.BoolOp) else ():
        yield from texts(value)
    for value in node.elts if isinstance(node, ast.Tuple) else ():
        yield from texts(value)


def name_of(node: ast.expr) -> str:
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def codes_in(module: ModuleType) -> Iterator[str]:
    """Literals that stand where a code does."""
    for node in ast.walk(ast.parse(inspect.getsource(module))):
        if isinstance(node, ast.Call):
            for keyword in node.keywords:
                if keyword.arg == "reason":
                    yield from texts(keyword.value)
            if name_of(node.func) in TAKING and node.args:
                yield from texts(node.args[0])
        elif isinstance(node, ast.Assign):
            targets = node.targets[0]
            names = [name_of(one) for one in (targets.elts if isinstance(targets, ast.Tuple) else [targets])]
            if NAMED & set(names):
                yield from texts(node.value)
        elif isinstance(node, ast.FunctionDef) and node.name == "_verdict":
            for inner in ast.walk(node):
                if isinstance(inner, ast.Return):
                    yield from texts(inner.value)


PRODUCED = {code for module in SOURCES for code in codes_in(module)} - NO_REASON
TABLES = {**HITS, **NOT_LOOKED_UP, **EXACT_ONLY, **SEARCHED}


@pytest.mark.parametrize("code", sorted({*PRODUCED, *map(str, Ineligible), *map(str, HitKind)}))
def test_every_code_has_words(code: str) -> None:
    assert code in TABLES


def test_the_source_is_read() -> None:
    assert {"absent", "no_cache", "damaged", "gone", "recall_off", "personal_data", "differs"} <= PRODUCED


def test_there_are_no_words_for_nothing() -> None:
    assert set(TABLES) == {*PRODUCED, *map(str, Ineligible), *map(str, HitKind)}
    assert set(GUARDS) == set(map(str, Guard))


def test_a_guard_says_what_it_saw() -> None:
    assert in_words("guard.number") == "the nearest stored question and this one have other numbers"


@pytest.mark.parametrize("code", ["brand_new", "guard.brand_new"])
def test_what_a_newer_gateway_says_stays_as_it_is(code: str) -> None:
    assert in_words(code) == code


def test_the_table_of_the_document_has_every_code() -> None:
    rows = reasons_table().splitlines()[2:]
    assert [row.split("`")[1] for row in rows] == [*TABLES, *(f"guard.{code}" for code in GUARDS)]
