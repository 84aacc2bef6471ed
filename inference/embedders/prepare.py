"""Makes the model that the embedder runs: ``python -m inference.embedders.prepare DIRECTORY``.

Without ``--model`` it is MiniLM out of its packages; nothing is ever downloaded. ONNX Runtime's basic
optimisation folds int8 weights for fp32 maths back into fp32, then dynamic quantisation per channel makes
integer matrix products of them: half the time per text, the same size on disk.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import numpy as np
import onnx
import onnxruntime
from onnxruntime.quantization import QuantType, quantize_dynamic
from onnxruntime.quantization.quant_utils import add_pre_process_metadata

from gateway.config.durable_file import replace_durably
from inference.embedders.embedder import TOKENS_MAX, NotEmbedded, Vector
from inference.embedders.minilm import minilm_source
from inference.embedders.onnx_model import OnnxModel, session_options
from inference.embedders.prepared import PreparedFiles, PreparedModel, files_of, read_prepared
from inference.embedders.source import (
    Form,
    ModelSource,
    Pooling,
    SourceUnusable,
    identity_of,
    sha256_of,
)

MODEL_BYTES_MAX: Final = 2**31 - 1
"""A larger protobuf message cannot be read."""
COSINE_MIN: Final = 0.95
"""Of a probe's vector before and after re-quantising; MiniLM keeps 0.977. Below, a model does not bear it."""
PROBES: Final = (
    "How do I reset my password?",
    "What is the refund policy for an order that arrived damaged?",
    "Convert 12 kilometres to miles.",
)
_BESIDE: Final = ".preparing."
_PUBLIC: Final = 0o644
"""Made at set-up, read by whatever user runs the process: published weights are no secret."""


def prepare(source: ModelSource, directory: Path) -> PreparedModel:
    """The prepared model of ``source``, made in ``directory`` unless it stands there undamaged.

    One process makes it, others wait for that one; a stop in the middle leaves nothing that is taken for
    whole. Raises SourceUnusable.
    """
    files = files_of(source, directory)
    found = read_prepared(files)
    if found is not None:
        return found
    try:
        with _exclusive(files):
            found = read_prepared(files)
            return found if found is not None else _made(source, files)
    except OSError as error:
        raise SourceUnusable(
            f"cannot write to {directory} ({error.strerror})", "make it writable, with 300 MB free"
        ) from None


@contextmanager
def _exclusive(files: PreparedFiles) -> Iterator[None]:
    """Nobody else prepares in that directory; what a killed one left is cleared away. Raises OSError."""
    files.directory.mkdir(parents=True, exist_ok=True)
    with (files.directory / ".preparing").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for left in files.directory.glob(f"{_BESIDE}*"):
            shutil.rmtree(left)
        for half in files.directory.glob(f".{files.stem}.*"):
            half.unlink()
        yield


def _made(source: ModelSource, files: PreparedFiles) -> PreparedModel:
    weights = _checked(source.model, source.model_sha256)
    tokenizer = _checked(source.tokenizer, source.tokenizer_sha256)
    before = _probed(weights, tokenizer, source.form)
    if source.requantise:
        with tempfile.TemporaryDirectory(prefix=_BESIDE, dir=files.directory) as workshop:
            weights = _requantised(weights, Path(workshop))
        cosine = float((before * _probed(weights, tokenizer, source.form)).sum(axis=1).min())
        if cosine < COSINE_MIN:
            raise SourceUnusable(
                f"re-quantising changes the vectors of {source.name} (cosine {cosine:.3f})",
                "use the model as it is (--as-is)",
            )
    sums = files.sums_of(weights, tokenizer).encode()
    for path, data in ((files.model, weights), (files.tokenizer, tokenizer), (files.sums, sums)):
        replace_durably(path, data, mode=_PUBLIC)
    digest = hashlib.sha256(weights).hexdigest()
    return PreparedModel(model=weights, model_sha256=digest, tokenizer=tokenizer)


def _checked(path: Path, sha256: str) -> bytes:
    """The contents of ``path``. Raises SourceUnusable: unreadable, too large, or not those of ``sha256``."""
    try:
        if path.stat().st_size > MODEL_BYTES_MAX:
            raise SourceUnusable(f"{path} is larger than 2 GiB", "use a smaller model")
        data = path.read_bytes()
    except OSError as error:
        raise SourceUnusable(f"{path} cannot be read ({error.strerror})", "put the file there") from None
    found = hashlib.sha256(data).hexdigest()
    if found != sha256:
        raise SourceUnusable(
            f"{path} has the SHA-256 {found} instead of {sha256}", "install the pinned version again"
        )
    return data


def _probed(weights: bytes, tokenizer: bytes, form: Form) -> Vector:
    """Vectors of PROBES, one a row. Raises SourceUnusable: the model does not give what ``form`` says."""
    model = OnnxModel(weights, tokenizer, form)
    try:
        return np.stack([model.vector(text) for text in PROBES])
    except NotEmbedded as error:
        mend = "check pooling, dimensions and tokens_max"
        raise SourceUnusable(f"the model does not embed ({error})", mend) from None
    except Exception as error:  # the bindings' errors have no root of their own
        raise SourceUnusable("the model fails on a text", "check that tokenizer and model fit") from error


def _requantised(weights: bytes, workshop: Path) -> bytes:
    """``weights`` with int8 weights for integer matrix products."""
    folded, fast = workshop / "folded.onnx", workshop / "fast.onnx"
    options = session_options()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(folded)
    onnxruntime.InferenceSession(weights, options, providers=["CPUExecutionProvider"])
    graph = onnx.load(folded)
    # Folded and optimised is what the quantiser's own pre-processing would do; without the mark it warns.
    add_pre_process_metadata(graph)
    onnx.save(graph, folded)
    quantize_dynamic(
        folded,
        fast,
        per_channel=True,
        # 7 bits: products of 8 overflow on processors without VNNI, where the same text would then have
        # another vector under the same identity. It costs 0.001 of cosine to the original.
        reduce_range=True,
        weight_type=QuantType.QInt8,
        op_types_to_quantize=["MatMul", "Gather", "Gemm"],
        extra_options={"MatMulConstBOnly": True, "DefaultTensorType": onnx.TensorProto.FLOAT},
    )
    return fast.read_bytes()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m inference.embedders.prepare", description=__doc__)
    parser.add_argument("directory", type=Path, help="where the prepared model is kept")
    own = parser.add_argument_group("a model of your own")
    own.add_argument("--model", type=Path, help="ONNX file, all in one")
    own.add_argument("--tokenizer", type=Path, help="its tokenizer.json (default: beside the model)")
    own.add_argument("--name", help="a-z, 0-9, dots and hyphens (default: the file's)")
    own.add_argument("--pooling", type=Pooling, default=Pooling.MEAN, choices=list(Pooling))
    own.add_argument("--dimensions", type=int, help="numbers in a vector")
    own.add_argument("--tokens-max", type=int, default=TOKENS_MAX, help="longer texts are refused")
    own.add_argument("--prefix", default="", help="put before every text")
    own.add_argument("--language", action="append", default=[], help="ISO 639-1 (repeat; default: any)")
    own.add_argument("--as-is", action="store_true", help="do not re-quantise")
    own.add_argument("--model-sha256", help="refuse another file")
    own.add_argument("--tokenizer-sha256", help="refuse another file")
    return parser


def _source(arguments: argparse.Namespace) -> ModelSource:
    """Raises SourceUnusable, ValueError."""
    if arguments.model is None:
        return minilm_source()
    if arguments.dimensions is None:
        raise ValueError("--model needs --dimensions")
    tokenizer = arguments.tokenizer or arguments.model.with_name("tokenizer.json")
    return ModelSource(
        name=arguments.name or arguments.model.stem.lower(),
        model=arguments.model,
        model_sha256=arguments.model_sha256 or sha256_of(arguments.model),
        tokenizer=tokenizer,
        tokenizer_sha256=arguments.tokenizer_sha256 or sha256_of(tokenizer),
        form=Form(
            pooling=arguments.pooling,
            dimensions=arguments.dimensions,
            tokens_max=arguments.tokens_max,
            prefix=arguments.prefix,
        ),
        languages=frozenset(arguments.language),
        requantise=not arguments.as_is,
    )


def main(argv: Sequence[str] | None = None) -> int:
    """0: it is there, and its identity is printed; 1: it cannot be had, the last line of stderr says why."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    try:
        source = _source(arguments)
        prepared = prepare(source, arguments.directory)
    except ValueError as error:
        parser.error(str(error))
    except SourceUnusable as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{identity_of(source, prepared.model_sha256)} is ready in {arguments.directory}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
