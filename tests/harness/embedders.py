"""Embedders for tests: MiniLM, prepared once per checkout, and a toy model of a few numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

from inference.embedders.source import Form, ModelSource, Pooling, sha256_of
from tests.harness.engines import TOOLS

EMBEDDERS: Final = TOOLS / "embedders"
"""The prepared models of this checkout: whoever opens MiniLM here pays for making it once."""
WORDS: Final = ("[UNK]", "alpha", "beta", "gamma", "delta")
DIMENSIONS: Final = 8
TOKENS_MAX: Final = 32
OPSET: Final = 17


def toy_source(
    directory: Path,
    *,
    pooling: Pooling = Pooling.MEAN,
    prefix: str = "",
    inputs: tuple[str, ...] = ("input_ids",),
    requantise: bool = False,
) -> ModelSource:
    """A table of one vector per word, in ``directory``. Pooling none: the mean is taken inside the model."""
    model, tokenizer = directory / "toy.onnx", directory / "toy.tokenizer.json"
    table = np.random.default_rng(7).standard_normal((len(WORDS), DIMENSIONS)).astype(np.float32)
    nodes = [helper.make_node("Gather", ["table", "input_ids"], ["tokens"])]
    shape: list[int | str] = [1, "length", DIMENSIONS]
    name = "tokens"
    if pooling is Pooling.NONE:
        nodes.append(helper.make_node("ReduceMean", ["tokens"], ["text"], axes=[1], keepdims=0))
        name, shape = "text", [1, DIMENSIONS]
    graph = helper.make_graph(
        nodes,
        "toy",
        [helper.make_tensor_value_info(one, TensorProto.INT64, [1, "length"]) for one in inputs],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(table, "table")],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8)
    onnx.save(made, model)
    words = Tokenizer(WordLevel({word: at for at, word in enumerate(WORDS)}, unk_token=WORDS[0]))
    words.pre_tokenizer = Whitespace()
    words.save(str(tokenizer))
    return ModelSource(
        name="toy",
        model=model,
        model_sha256=sha256_of(model),
        tokenizer=tokenizer,
        tokenizer_sha256=sha256_of(tokenizer),
        form=Form(pooling=pooling, dimensions=DIMENSIONS, tokens_max=TOKENS_MAX, prefix=prefix),
        languages=frozenset(),
        requantise=requantise,
    )
