"""What a radix cache would have of a prompt. Pure.

Like SGLang's it remembers prompts, reports the longest known prefix as ``cached_tokens``, never the
last token of a prompt (its logits are needed), and forgets the least recently used. Unlike it, it
works in blocks and does not keep generated tokens.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from typing import Final

from inference.twin.words import BYTES_PER_TOKEN

BLOCK_TOKENS: Final = 8
_BLOCK_BYTES: Final = BLOCK_TOKENS * BYTES_PER_TOKEN


class PrefixCache:
    """Prefixes of prompts, within ``blocks_max`` blocks."""

    def __init__(self, blocks_max: int = 65536) -> None:
        """``blocks_max`` times eight tokens is the size of the pretended KV cache."""
        self._known: OrderedDict[bytes, int] = OrderedDict()
        self._blocks_max = blocks_max

    def admit(self, prompt: bytes, salt: str, tokens: int) -> int:
        """Cached tokens of ``prompt`` (0 to ``tokens`` - 1), which is known from now on.

        ``salt`` parts the cache as SGLang's ``cache_salt`` does.
        """
        running = hashlib.blake2b(salt.encode() + b"\0", digest_size=12)
        cached, hit = 0, True
        for start in range(0, len(prompt), _BLOCK_BYTES):
            running.update(prompt[start : start + _BLOCK_BYTES])
            mark = running.digest()
            covered = min(tokens, start // BYTES_PER_TOKEN + BLOCK_TOKENS)
            if start + _BLOCK_BYTES >= len(prompt):
                mark, covered = mark + b"end", tokens
            hit = hit and mark in self._known
            if hit:
                cached = covered
            self._known[mark] = covered
            self._known.move_to_end(mark)
        while len(self._known) > self._blocks_max:
            self._known.popitem(last=False)
        return max(0, min(cached, tokens - 1))

    def __len__(self) -> int:
        """Blocks held."""
        return len(self._known)
