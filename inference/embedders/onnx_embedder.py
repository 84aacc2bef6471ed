"""The embedder that runs an ONNX model in threads of its own process."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Final

from inference.embedders.embedder import EmbedderUnavailable, NotEmbedded, Vector, refuse_long
from inference.embedders.onnx_model import OnnxModel
from inference.embedders.prepared import ensure_prepared
from inference.embedders.source import ModelSource, identity_of
from inference.embedders.worker_threads import WorkerThreads

THREADS: Final = 2
"""ONNX Runtime lets go of the interpreter; more threads than cores would only make each text later."""
QUEUE_MAX: Final = 16
"""Texts that wait, 2 to 8 ms each on two threads: the last of them has used up the 20 ms of a look-up."""


class OnnxEmbedder:
    """Implements Embedder. A text whose waiter was cancelled is dropped when its turn comes."""

    def __init__(
        self, model: OnnxModel, source: ModelSource, *, identity: str, threads: int, queue_max: int
    ) -> None:
        """Starts the threads; ``close`` ends them."""
        self._model, self._source, self._identity = model, source, identity
        self._workers = WorkerThreads(count=threads, queue_max=queue_max)

    @property
    def identity(self) -> str:
        """See Embedder."""
        return self._identity

    @property
    def dimensions(self) -> int:
        """See Embedder."""
        return self._source.form.dimensions

    @property
    def languages(self) -> frozenset[str]:
        """See Embedder."""
        return self._source.languages

    @property
    def tokens_max(self) -> int:
        """See Embedder."""
        return self._source.form.tokens_max

    def count_tokens(self, text: str) -> int:
        """Of ``text`` with prefix and marks, in 0.1 ms. Raises TooLong: far too long to be counted."""
        return self._model.count_tokens(text)

    async def embed(self, text: str) -> Vector:
        """The unit vector of ``text``. Raises NotEmbedded."""
        refuse_long(text, self.tokens_max)
        return await asyncio.wrap_future(self._workers.submit(lambda: self._vector(text)))

    def _vector(self, text: str) -> Vector:
        try:
            return self._model.vector(text)
        except NotEmbedded:
            raise
        except Exception as error:  # the bindings' errors have no root of their own
            raise EmbedderUnavailable("the model failed") from error

    async def close(self) -> None:
        """See Embedder."""
        await asyncio.to_thread(self._workers.close)


def open_embedder(
    source: ModelSource, directory: Path, *, threads: int = THREADS, queue_max: int = QUEUE_MAX
) -> OnnxEmbedder:
    """The embedder of ``source``, its prepared model kept in ``directory`` and made first if it is not there.

    Blocks: for the start of a process. Raises SourceUnusable.
    """
    prepared = ensure_prepared(source, directory)
    model = OnnxModel(prepared.model, prepared.tokenizer, source.form)
    identity = identity_of(source, prepared.model_sha256)
    return OnnxEmbedder(model, source, identity=identity, threads=threads, queue_max=queue_max)
