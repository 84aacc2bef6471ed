"""Pairs of questions that a judge has seen, so that each is judged once. Pure."""

from __future__ import annotations

import hashlib
import re
from typing import Final

import orjson

from ext_proc.recall.judging import Verdict
from gateway.contract.ids import OrgId

PAIRS_MAX: Final = 20_000
"""About 3 MB; at 60 a minute what was judged in the last five hours of nothing but near misses."""
VERSION: Final = 1
_DIGEST: Final = re.compile(r"[0-9a-f]{32}")


class JudgedPairs:
    """Digests of pairs with their verdicts; the oldest goes first."""

    def __init__(self, *, most: int = PAIRS_MAX) -> None:
        """Nothing judged yet."""
        self._verdicts: dict[str, Verdict] = {}
        self._most = most

    def __len__(self) -> int:
        """Pairs known."""
        return len(self._verdicts)

    def verdict(self, org: OrgId, asked: str, entry: str) -> Verdict | None:
        """None: not judged, as far as is known."""
        return self._verdicts.get(_digest(org, asked, entry))

    def add(self, org: OrgId, asked: str, entry: str, verdict: Verdict) -> None:
        """It was judged."""
        digest = _digest(org, asked, entry)
        self._verdicts.pop(digest, None)
        if len(self._verdicts) >= self._most:
            del self._verdicts[next(iter(self._verdicts))]
        self._verdicts[digest] = verdict

    def to_json(self) -> bytes:
        """For ``from_json``."""
        return orjson.dumps({"version": VERSION, "pairs": self._verdicts})

    @classmethod
    def from_json(cls, data: bytes, *, most: int = PAIRS_MAX) -> JudgedPairs:
        """Raises ValueError for anything that ``to_json`` does not write."""
        document = orjson.loads(data)
        pairs = document.get("pairs") if isinstance(document, dict) else None
        if not isinstance(pairs, dict) or document.get("version") != VERSION or len(pairs) > most:
            raise ValueError("not judged pairs of this version")
        judged = cls(most=most)
        for digest, verdict in pairs.items():
            if _DIGEST.fullmatch(digest) is None:
                raise ValueError("pairs: not a digest")
            judged._verdicts[digest] = Verdict(verdict)
        return judged


def _digest(org: OrgId, asked: str, entry: str) -> str:
    return hashlib.blake2b("\0".join((org, asked, entry)).encode(), digest_size=16).hexdigest()
