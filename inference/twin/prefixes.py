"""What a radix cache would have of a prompt. Pure.

Like SGLang's (page size 1) it remembers prompts and their answers by the token, reports the longest known
prefix as ``cached_tokens``, never the last token of a prompt (its logits are needed), and forgets the least
recently used. Unlike it, it forgets sixteen tokens at a time, and looks for the last few of a prefix only
among the newest continuations.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import Final

from inference.twin.words import BYTES_PER_TOKEN

BLOCK_TOKENS: Final = 16
_BLOCK_BYTES: Final = BLOCK_TOKENS * BYTES_PER_TOKEN
_BRANCHES_KEPT: Final = 8
"""Continuations of a prefix within which a part of a block is found."""


class PrefixCache:
    """Prefixes of prompts, within ``blocks_max`` blocks."""

    def __init__(self, blocks_max: int = 32768) -> None:
        """``blocks_max`` times BLOCK_TOKENS is the size of the pretended KV cache."""
        self._children: OrderedDict[tuple[int, bytes], int] = OrderedDict()
        self._branches: dict[int, deque[bytes]] = {}
        self._blocks_max = blocks_max
        self._next = 1

    def admit(self, key: bytes, salt: str) -> int:
        """Cached tokens of the prompt ``key`` (all but the last at most), which is known from now on.

        ``salt`` parts the cache as SGLang's ``cache_salt`` does.
        """
        children, cached, hit = self._children, 0, True
        node = self._child(0, b"salt" + salt.encode())
        for start in range(0, len(key), _BLOCK_BYTES):
            block = key[start : start + _BLOCK_BYTES]
            place = (node, block)
            child = children.get(place)
            if child is not None:
                children.move_to_end(place)
                if hit:
                    cached += len(block) // BYTES_PER_TOKEN
            else:
                if hit:
                    cached, hit = cached + self._part(node, block), False
                child = self._child(node, block)
            node = child
        while len(self._children) > self._blocks_max:
            (parent, block), forgotten = self._children.popitem(last=False)
            self._branches.pop(forgotten, None)
            if block in self._branches.get(parent, ()):
                self._branches[parent].remove(block)
        return max(0, min(cached, len(key) // BYTES_PER_TOKEN - 1))

    def _child(self, node: int, block: bytes) -> int:
        place = (node, block)
        child = self._children.get(place)
        if child is None:
            child = self._children[place] = self._next
            self._next += 1
            self._branches.setdefault(node, deque(maxlen=_BRANCHES_KEPT)).append(block)
        else:
            self._children.move_to_end(place)
        return child

    def _part(self, node: int, block: bytes) -> int:
        """Tokens that ``block`` shares with the start of a known continuation."""
        return max((_shared(block, other) for other in self._branches.get(node, ())), default=0)

    def __len__(self) -> int:
        """Blocks held."""
        return len(self._children)


def _shared(one: bytes, other: bytes) -> int:
    size = min(len(one), len(other))
    differing = int.from_bytes(one[:size]) ^ int.from_bytes(other[:size])
    return (size - (differing.bit_length() + 7) // 8) // BYTES_PER_TOKEN
