"""Vectors of length 1, texts too long to be counted, sources out of their bounds, identities."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from inference.embedders.embedder import (
    CHARACTERS_PER_TOKEN_MAX,
    EmbedderUnavailable,
    TooLong,
    refuse_long,
    unit_vector,
)
from inference.embedders.minilm import packaged_file
from inference.embedders.prepared import files_of
from inference.embedders.source import Form, ModelSource, Pooling, SourceUnusable, identity_of, sha256_of

FORM = Form(pooling=Pooling.MEAN, dimensions=3)
SOURCE = ModelSource(
    name="mine",
    model=Path("/nowhere/model.onnx"),
    model_sha256="a" * 64,
    tokenizer=Path("/nowhere/tokenizer.json"),
    tokenizer_sha256="b" * 64,
    form=FORM,
    languages=frozenset(),
    requantise=True,
)


@pytest.mark.parametrize("scale", [1e-44, 1e-20, 1.0, 1e20, 3e38])
def test_a_vector_of_any_length_gets_length_1(scale: float) -> None:
    vector = unit_vector(np.array([scale, 0, -scale], dtype=np.float32), 3)
    assert vector.dtype == np.float32
    assert vector == pytest.approx([0.5**0.5, 0, -(0.5**0.5)], abs=1e-6)
    with pytest.raises(ValueError, match="read-only"):
        vector[0] = 0


@pytest.mark.parametrize(
    "values", [[1, 2], [1, 2, 3, 4], [[1, 2, 3]], [0, 0, 0], [1, np.nan, 0], [1, 0, np.inf]]
)
def test_what_is_no_vector_is_refused(values: list[float]) -> None:
    with pytest.raises(EmbedderUnavailable):
        unit_vector(np.array(values, dtype=np.float64), 3)


def test_a_text_is_refused_by_its_characters_alone_where_that_is_enough() -> None:
    refuse_long("x" * 4 * CHARACTERS_PER_TOKEN_MAX, 4)
    with pytest.raises(TooLong):
        refuse_long("x" * (4 * CHARACTERS_PER_TOKEN_MAX + 1), 4)


@pytest.mark.parametrize(
    "wrong", [{"dimensions": 0}, {"dimensions": 8193}, {"tokens_max": 0}, {"prefix": "x" * 257}]
)
def test_a_form_has_bounds(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        replace(FORM, **wrong)  # type: ignore[arg-type]  # any field's type


@pytest.mark.parametrize("name", ["", "../up", "a/b", "Big", "a b", "x" * 65])
def test_a_name_is_a_file_name(name: str) -> None:
    with pytest.raises(ValueError, match="name"):
        replace(SOURCE, name=name)


CHANGES = [
    replace(SOURCE, tokenizer_sha256="c" * 64),
    replace(SOURCE, form=replace(FORM, pooling=Pooling.CLS)),
    replace(SOURCE, form=replace(FORM, prefix="query: ")),
    replace(SOURCE, form=replace(FORM, tokens_max=32)),
    replace(SOURCE, form=replace(FORM, dimensions=4)),
    replace(SOURCE, name="yours"),
]


@pytest.mark.parametrize("changed", CHANGES)
def test_what_changes_vectors_changes_the_identity_and_the_file_name(changed: ModelSource) -> None:
    assert identity_of(changed, "d" * 64) != identity_of(SOURCE, "d" * 64)
    assert files_of(changed, Path("x")) != files_of(SOURCE, Path("x"))


def test_other_weights_are_another_identity_and_another_file() -> None:
    assert identity_of(SOURCE, "d" * 64) != identity_of(SOURCE, "e" * 64)
    assert files_of(replace(SOURCE, model_sha256="e" * 64), Path("x")) != files_of(SOURCE, Path("x"))
    assert files_of(replace(SOURCE, requantise=False), Path("x")) != files_of(SOURCE, Path("x"))


def test_where_the_files_lie_changes_nothing() -> None:
    moved = replace(SOURCE, model=Path("/else/m.onnx"), tokenizer=Path("/else/t.json"))
    assert identity_of(moved, "d" * 64) == identity_of(SOURCE, "d" * 64)
    assert files_of(moved, Path("x")) == files_of(SOURCE, Path("x"))


def test_another_quantiser_makes_another_file(monkeypatch: pytest.MonkeyPatch) -> None:
    now = files_of(SOURCE, Path("x"))
    monkeypatch.setattr("importlib.metadata.version", lambda name: "0.0.0")
    assert files_of(SOURCE, Path("x")) != now


def test_a_missing_package_or_file_is_named_with_its_mend() -> None:
    with pytest.raises(SourceUnusable, match=r"absent_package is not installed; install absent==1"):
        packaged_file("absent_package", "absent==1", "model.onnx")
    with pytest.raises(SourceUnusable, match=r"numpy has no file model.onnx; install numpy==1"):
        packaged_file("numpy", "numpy==1", "model.onnx")
    with pytest.raises(SourceUnusable, match=r"/nowhere/model.onnx cannot be read .*; put the file there"):
        sha256_of(SOURCE.model)
