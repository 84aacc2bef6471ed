"""Parts of the semantic cache that make it as hard as can be to keep tenants apart."""

from __future__ import annotations

import random
from typing import Final

import numpy as np

from ext_proc.cache.question import Level
from ext_proc.recall.words import CANDIDATES_MAX, Ask, Candidate, Forget, Remember, Reply, Served
from gateway.contract.ids import OrgId
from inference.embedders.embedder import Vector

_DIMENSIONS: Final = 8
HEARD_MAX: Final = 100_000


class CollidingEmbedder:
    """See Embedder. Every text has the same vector, so that whoever searches finds everybody."""

    identity: Final = "colliding:0"
    dimensions: Final = _DIMENSIONS
    languages: Final = frozenset[str]()
    tokens_max: Final = 64

    async def embed(self, text: str) -> Vector:
        """One for all."""
        vector = np.full(_DIMENSIONS, 1 / np.sqrt(_DIMENSIONS), np.float32)
        vector.setflags(write=False)
        return vector

    async def close(self) -> None:
        """Nothing is held."""


class GossipingRecall:
    """See Recall. It answers every question with what other orgs have stored, and calls it the same text."""

    def __init__(self, rng: random.Random) -> None:
        """Knows nothing yet."""
        self._rng = rng
        self._heard: list[tuple[OrgId, str]] = []
        self.told = 0
        """Entries of other orgs that it has named."""

    async def find(self, ask: Ask) -> Reply:
        """Entries of others."""
        drawn = self._rng.sample(self._heard, min(len(self._heard), 4 * CANDIDATES_MAX))
        others = [entry for org, entry in drawn if org != ask.org][:CANDIDATES_MAX]
        self.told += len(others)
        found = tuple(
            Candidate(
                entry=entry,
                similarity=1.0,
                level=Level.CANONICAL,
                bucket=f"{ask.org}/{ask.model}/canonical/1.00",
            )
            for entry in others
        )
        return Reply(candidates=found, reason="found" if found else "no_candidate")

    async def expect(self, ask: Ask) -> None:
        """It waits for nothing."""

    async def remember(self, remember: Remember) -> None:
        """Tell everybody from now on."""
        if len(self._heard) < HEARD_MAX:
            self._heard.append((remember.org, remember.entry))

    async def forget(self, forget: Forget) -> None:
        """It forgets nothing."""

    async def served(self, served: Served) -> None:
        """Nobody verifies."""
