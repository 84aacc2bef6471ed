"""The purge document as a worker knows it: read twice a second, and again before it is used too old.

One document for the whole cache, in the cache Valkey, sealed. Its generation is part of every record's seal.
So a document that was evicted, flushed, damaged or put back to an earlier state costs every entry, and brings
none back: whoever finds it so draws a new generation. Changes are compare-and-set, so that none is lost.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections import deque
from collections.abc import Callable
from typing import Final, Protocol

from ext_proc.cache import purge
from ext_proc.cache.entry import Sealer
from ext_proc.cache.purge import Document
from ext_proc.cache.store import SEEN_S, CacheUnavailable
from gateway.contract.clock import Clock
from gateway.contract.units import UnixMillis

POLL_S: Final = 0.5
"""Twice within SEEN_S, so that one late poll costs nothing."""
TRIES: Final = 8
"""Of a change that others overtake; changes are rare, a person's or a bucket's."""
LEFT_MAX: Final = 64
"""Generations remembered as left: enough to know one that comes back, after a fail-over to a late replica."""


class DocumentPlace(Protocol):
    """Where the document is. Raises CacheUnavailable."""

    async def read(self) -> bytes | None:
        """None where there is none."""

    async def swap(self, old: bytes | None, new: bytes) -> bool:
        """Write ``new`` if ``old`` is there still."""

    async def now(self) -> UnixMillis:
        """The store's time."""


class Marks:
    """One for each process; safe for concurrent tasks."""

    def __init__(self, place: DocumentPlace, sealer: Sealer, clock: Clock) -> None:
        """Knows nothing yet."""
        self._place = place
        self._sealer = sealer
        self._clock = clock
        self._document: Document | None = None
        self._known_at = 0.0
        self._left: deque[str] = deque(maxlen=LEFT_MAX)
        self._polling = asyncio.Lock()

    @property
    def fresh(self) -> Document | None:
        """The document, if it is at most SEEN_S old."""
        if self._document is None or self._clock.monotonic_s() - self._known_at > SEEN_S:
            return None
        return self._document

    async def known(self) -> Document:
        """The document, at most SEEN_S old. Raises CacheUnavailable."""
        found = self.fresh
        if found is not None:
            return found
        async with self._polling:
            return self.fresh or (await self._read())[1]

    async def ask(self) -> Document:
        """The document as it is now. Raises CacheUnavailable."""
        async with self._polling:
            return (await self._read())[1]

    async def run(self) -> None:
        """Poll until cancelled. A poll that fails is no harm: whoever needs the document asks for it."""
        while True:
            with contextlib.suppress(CacheUnavailable):
                async with self._polling:
                    await self._read()
            await asyncio.sleep(POLL_S)

    async def change(self, step: Callable[[Document, UnixMillis], Document]) -> Document:
        """The document after ``step``, written. ``step`` may run several times. Raises CacheUnavailable."""
        for _ in range(TRIES):
            async with self._polling:
                asked_at = self._clock.monotonic_s()
                data, document = await self._read()
                changed = step(document, await self._place.now())
                if changed is document or await self._place.swap(data, self._sealed(changed)):
                    self._learn(changed, asked_at)
                    return changed
        raise CacheUnavailable("the purge document changes too often")

    async def _read(self) -> tuple[bytes, Document]:
        """What is there, made new where it was lost."""
        for _ in range(TRIES):
            asked_at = self._clock.monotonic_s()
            data = await self._place.read()
            document = None if data is None else self._opened(data)
            if data is None or document is None:
                document = Document(generation=new_generation())
                sealed = self._sealed(document)
                if not await self._place.swap(data, sealed):
                    continue  # another worker was first: read its document
                data = sealed
            self._learn(document, asked_at)
            return data, document
        raise CacheUnavailable("the purge document changes too often")

    def _opened(self, data: bytes) -> Document | None:
        """None for what is not to be believed: foreign, damaged, or older than what was known before."""
        opened = self._sealer.open_document(data)
        document = None if opened is None else purge.from_bytes(opened)
        if document is None or document.generation in self._left:
            return None
        known = self._document
        if known is not None and known.generation == document.generation and document.number < known.number:
            return None
        return document

    def _learn(self, document: Document, asked_at: float) -> None:
        if self._document is not None and self._document.generation != document.generation:
            self._left.append(self._document.generation)
        self._document, self._known_at = document, asked_at

    def _sealed(self, document: Document) -> bytes:
        return self._sealer.seal_document(purge.to_bytes(document))


def new_generation() -> str:
    """16 hex digits that no generation has had."""
    return secrets.token_hex(8)
