"""What an embedder is: a text's unit vector, or one of three reasons why there is none.

Every reason means the same to a cache: go on without the semantic step. They differ for whoever reads the
metrics.
"""

from __future__ import annotations

from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float32]
"""Of shape (dimensions,), of length 1, read-only: who keeps one shares it."""

TOKENS_MAX: Final = 64
"""Of a text, with the tokenizer's own marks. A longer prompt is hardly ever asked again in other words, and
its vector would cost more than the 8 ms that a look-up may take."""
CHARACTERS_PER_TOKEN_MAX: Final = 16
"""English has 4 to 5. What has more is refused without being tokenized, so that refusing costs nothing."""


class NotEmbedded(Exception):
    """Root of the reasons for having no vector. Never raised itself; a caller's text is in none of them."""


class TooLong(NotEmbedded):
    """More than ``tokens_max`` tokens. The text is not cut: half a question is another question."""


class EmbedderUnavailable(NotEmbedded):
    """Could not ask, or what came back is no vector of this embedder."""


class Overloaded(NotEmbedded):
    """As many texts wait as may; another would be late anyway."""


class Embedder(Protocol):
    """Vectors of two embedders are comparable exactly if their ``identity`` is equal."""

    @property
    def identity(self) -> str:
        """A name and a digest of everything that changes vectors: ``minilm-l6-int8:0123456789abcdef``."""

    @property
    def dimensions(self) -> int:
        """Numbers in a vector."""

    @property
    def languages(self) -> frozenset[str]:
        """ISO 639-1 codes of the languages whose vectors mean something; empty for any."""

    @property
    def tokens_max(self) -> int:
        """Longer texts are refused."""

    async def embed(self, text: str) -> Vector:
        """The unit vector of ``text``. Raises NotEmbedded.

        Does not block the event loop. How long to wait is the caller's to say (``asyncio.timeout``).
        """

    async def close(self) -> None:
        """Lets go of threads and connections; who still waits gets EmbedderUnavailable."""


def refuse_long(text: str, tokens_max: int) -> None:
    """Raises TooLong for a text that need not be tokenized to be known as too long."""
    if len(text) > tokens_max * CHARACTERS_PER_TOKEN_MAX:
        raise TooLong(f"more than {tokens_max} tokens")


def unit_vector(values: NDArray[np.floating], dimensions: int) -> Vector:
    """``values`` of shape (dimensions,) with length 1.

    Raises EmbedderUnavailable: another shape, a number that is not finite, or nothing but zeros, which
    points nowhere.
    """
    if values.shape != (dimensions,):
        raise EmbedderUnavailable(f"a vector of shape {values.shape} instead of ({dimensions},)")
    wide = values.astype(np.float64)
    if not np.isfinite(wide).all():
        raise EmbedderUnavailable("a vector with a number that is not finite")
    largest = np.abs(wide).max()
    if largest == 0:
        raise EmbedderUnavailable("a vector of zeros")
    # Divided by its largest first: the squares of large numbers overflow, those of small ones vanish.
    wide /= largest
    unit: Vector = (wide / np.sqrt(np.square(wide).sum())).astype(np.float32)
    unit.setflags(write=False)
    return unit
