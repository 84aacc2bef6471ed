"""Check books: every byte of every segment, and their end against the ledger's anchor.

Reads only, takes no lock, and may run beside the bookkeeper: read the anchor first, then the files, which
may meanwhile have grown beyond it. Needs memory for one line.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Final

from gateway.contract.ids import RegionName
from gateway.events.base import BadBase, Base, kept_segments, read_base, read_checkpoint
from gateway.events.chain import LINE_BYTES_MAX, Anchor, BrokenLine, Record, genesis, read_line
from gateway.events.event import EventType
from gateway.events.segment import segment_path

PROBLEMS_KEPT: Final = 100
"""Beyond this many the list says nothing new; they are still counted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One place where the books are not what was written. ``line`` counts from 1, ``byte`` (where the line
    begins) from 0."""

    file: str
    line: int
    byte: int
    kind: str
    """broken_line, sequence, missing_segment, not_opened, unsealed, after_seal, missing_tail, other_head or
    base."""
    text: str


@dataclass(slots=True, kw_only=True)
class Report:
    """What was found. ``events`` counts whole records, those of the books themselves too."""

    region: RegionName
    anchor: Anchor | None
    events: int = 0
    segments: int = 0
    sealed: int = 0
    head: str = ""
    archived: int = 0
    """Records before the first kept segment, which were archived and removed: only their head is checked."""
    torn_bytes: int = 0
    """A last line in the making (or one that a kill tore): not yet part of the books."""
    problems: list[Problem] = field(default_factory=list)
    problems_total: int = 0

    @property
    def clean(self) -> bool:
        """Nothing is wrong."""
        return self.problems_total == 0

    def add(self, problem: Problem) -> None:
        """Count a problem and keep it if there is room."""
        self.problems_total += 1
        if len(self.problems) < PROBLEMS_KEPT:
            self.problems.append(problem)


def verify(directory: Path, region: RegionName, anchor: Anchor | None) -> Report:
    """Read the books of ``region`` in ``directory``. With ``anchor`` a missing tail and a chain that was
    rewritten whole are found too. Raises OSError."""
    return _Walk(region, anchor).over(directory)


class _Walk:
    """Follows the chain. After a problem it goes on from what the line itself says, so that one changed
    byte is one problem and not one for each line behind it."""

    def __init__(self, region: RegionName, anchor: Anchor | None) -> None:
        self.report = Report(region=region, anchor=anchor, head=genesis(region))
        self._count = 0
        self._head = self.report.head
        self._trusted = True
        """The line before was whole, so its hash is what ``prev`` must be."""
        self._anchor_met = anchor is None

    def over(self, directory: Path) -> Report:
        base = self._begin(directory)
        report, segments, expected = self.report, kept_segments(directory, base), base.segment
        for number, path in segments:
            if number != expected:
                name = segment_path(directory, expected).name
                text = f"missing, as is every segment up to {path.name}"
                self._problem(name, 1, 0, "missing_segment", text)
            expected = number + 1
            self._segment(path, last=path == segments[-1][1])
        report.segments = len(segments)
        report.head = self._head
        self._against_anchor(segments[-1][1].name if segments else directory.name)
        return report

    def _begin(self, directory: Path) -> Base:
        base = Base(segment=1, count=0, head=self._head)
        try:
            base = read_base(directory, self.report.region)
            read_checkpoint(directory, base)
        except BadBase as error:
            name, _, text = str(error).partition(": ")
            self._problem(name, 1, 0, "base", text)
        self.report.archived = self._count = base.count
        self._head, anchor = base.head, self.report.anchor
        self._anchor_met = anchor is None or (anchor.count == base.count and anchor.head == base.head)
        return base

    def _segment(self, path: Path, *, last: bool) -> None:
        name, byte, line_number, kind = path.name, 0, 0, None
        with path.open("rb") as file:
            while line := _line(file):
                line_number += 1
                if kind is EventType.BOOKS_SEALED:
                    self._problem(
                        name, line_number, byte, "after_seal", "something stands after books.sealed"
                    )
                if last and not line.endswith(b"\n") and len(line) <= LINE_BYTES_MAX:
                    self.report.torn_bytes = len(line)
                    break
                record = self._record(name, line_number, byte, line)
                kind = record.event.type if record else None
                if record and (line_number == 1) != (kind is EventType.BOOKS_OPENED):
                    text = "books.opened is the first line of a segment, once"
                    self._problem(name, line_number, byte, "not_opened", text)
                byte = file.tell()
        if kind is EventType.BOOKS_SEALED:
            self.report.sealed += 1
        elif not last:
            text = "no books.sealed at the end, though another segment follows"
            self._problem(name, max(1, line_number), byte, "unsealed", text)

    def _record(self, name: str, line_number: int, byte: int, line: bytes) -> Record | None:
        try:
            record = read_line(line)
        except BrokenLine as error:
            self._problem(name, line_number, byte, "broken_line", str(error))
            self._count += 1  # most likely it was this record
            self._trusted = False
            return None
        if record.seq != self._count + 1:
            self._problem(name, line_number, byte, "sequence", _gap(self._count + 1, record.seq))
        elif self._trusted and record.prev != self._head:
            text = f"record {record.seq} does not follow the record before"
            self._problem(name, line_number, byte, "sequence", text)
        if record.event.region != self.report.region:
            self._problem(name, line_number, byte, "sequence", "an event of another region")
        self.report.events += 1
        self._count, self._head, self._trusted = record.seq, record.hash, True
        anchor = self.report.anchor
        if anchor is not None and record.seq == anchor.count:
            self._anchor_met = True
            if record.hash != anchor.head:
                text = f"record {anchor.count} is not the one the ledger remembers"
                self._problem(name, line_number, byte, "other_head", text)
        return record

    def _against_anchor(self, name: str) -> None:
        anchor = self.report.anchor
        if anchor is None or self._anchor_met:
            return
        if anchor.count > self._count:
            text = f"records {self._count + 1} to {anchor.count}, which the ledger remembers, are missing"
            self._problem(name, 1, 0, "missing_tail", text)
        elif anchor.count == 0:
            self._problem(name, 1, 0, "other_head", "the ledger remembers another beginning")

    def _problem(self, name: str, line: int, byte: int, kind: str, text: str) -> None:
        self.report.add(Problem(file=name, line=line, byte=byte, kind=kind, text=text))


def _line(file: BinaryIO) -> bytes:
    """The next line; one that is far too long is taken as a whole, so that the next one counts again."""
    line = file.readline(LINE_BYTES_MAX + 1)
    rest = line if len(line) > LINE_BYTES_MAX else b"\n"
    while rest and not rest.endswith(b"\n"):
        rest = file.readline(LINE_BYTES_MAX)
    return line


def _gap(expected: int, found: int) -> str:
    if found > expected + 1:
        return f"records {expected} to {found - 1} are missing or elsewhere"
    if found == expected + 1:
        return f"record {expected} is missing or elsewhere"
    return f"record {found} comes again or too late; {expected} was next"
