"""Damage to books, and whether verify names it: flipped bytes; records that are gone, doubled or swapped."""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator
from pathlib import Path

from gateway.contract.ids import RegionName
from gateway.events.chain import Anchor
from gateway.events.segment import segments_of
from gateway.events.verify import Problem, verify

DAMAGES = ("flip", "tail", "drop", "double", "swap")


class Damaged:
    """One copy of some books, damaged again and again, and mended after each time."""

    def __init__(self, books: Path, copy: Path, region: RegionName, anchor: Anchor, seed: int) -> None:
        shutil.copytree(books, copy)
        self._copy, self._region, self._anchor = copy, region, anchor
        self._random = random.Random(seed)
        self._files = [path for _, path in segments_of(copy)]
        self._sizes = [path.stat().st_size for path in self._files]
        for path in self._files:
            path.chmod(0o644)

    def unnoticed(self, damage: str, times: int) -> list[str]:
        """Do it so often; what verify did not find, or named another place for."""
        return [text for _ in range(times) if (text := self._once(damage))]

    def clean(self) -> bool:
        return verify(self._copy, self._region, self._anchor).clean

    def _once(self, damage: str) -> str:
        path = self._random.choices(self._files, self._sizes)[0]
        good = path.read_bytes()
        lines = good.splitlines(keepends=True)
        place = self._random.randrange(len(good))
        at = self._random.randrange(len(lines) - 1)
        if damage == "flip":
            at = good.count(b"\n", 0, place)
            bad = good[:place] + bytes([good[place] ^ self._random.randrange(1, 256)]) + good[place + 1 :]
        elif damage == "tail":
            path = self._files[-1]
            good = path.read_bytes()
            lines = good.splitlines(keepends=True)
            at = self._random.randrange(len(lines))
            bad = b"".join(lines[:at])
        elif damage == "drop":
            bad = b"".join(lines[:at] + lines[at + 1 :])
        elif damage == "double":
            bad = b"".join(lines[: at + 1] + lines[at:])
        else:
            bad = b"".join([*lines[:at], lines[at + 1], lines[at], *lines[at + 2 :]])
        path.write_bytes(bad)
        found = verify(self._copy, self._region, self._anchor).problems
        path.write_bytes(good)
        named = any(_names(problem, path, at + 1, last=path == self._files[-1]) for problem in found)
        return "" if named else f"{damage} in {path.name}, line {at + 1}, byte {place}: {found[:3]}"


def _names(problem: Problem, path: Path, line: int, *, last: bool) -> bool:
    """The line itself, or the one that meets the hole; of a tail that is missing, the file."""
    if problem.kind == "missing_tail":
        return last and problem.file == path.name
    return problem.file == path.name and abs(problem.line - line) <= 1


def every(damaged: Damaged, times: int) -> Iterator[tuple[str, list[str]]]:
    """Each kind of damage so often, and what of it went unnoticed."""
    for damage in DAMAGES:
        yield damage, damaged.unnoticed(damage, times)
