"""Whatever is done to the books behind the writer's back is found."""

from __future__ import annotations

import dataclasses
import random
import shutil
from pathlib import Path

import pytest

from gateway.contract.ids import RegionName
from gateway.events import verify as verifying
from gateway.events.chain import LINE_BYTES_MAX, Anchor, genesis, hash_of, line_of, read_line
from gateway.events.codec import encode
from gateway.events.verify import Report, verify
from tests.unit.events.written import REGION, checked, event, files, rewrite, write

FLIPS = 200


@pytest.fixture
def anchor(tmp_path: Path) -> Anchor:
    return write(tmp_path)


def kinds(report: Report) -> set[str]:
    return {problem.kind for problem in report.problems}


def test_written_books_are_clean(tmp_path: Path, anchor: Anchor) -> None:
    report = checked(tmp_path, anchor)
    assert report.clean and report.problems == []
    # 30 events, 3 segments, each with its first and its last line
    assert (report.events, report.segments, report.sealed) == (36, 3, 3)
    assert (report.events, report.head) == (anchor.count, anchor.head)


def test_no_books_are_clean_until_the_ledger_remembers_some(tmp_path: Path) -> None:
    assert checked(tmp_path / "none", None).clean
    assert checked(tmp_path, Anchor(count=0, head=genesis(REGION))).clean
    assert kinds(checked(tmp_path, Anchor(count=3, head="ab" * 32))) == {"missing_tail"}
    assert kinds(checked(tmp_path, Anchor(count=0, head="ab" * 32))) == {"other_head"}


def test_every_flipped_bit_is_found(tmp_path: Path) -> None:
    """200 random ones over sealed and unsealed segments, and at the places that are special."""
    anchor = write(tmp_path, batches=5)
    paths = files(tmp_path)
    assert paths[-1].stat().st_mode & 0o222, "the last one is unsealed"
    chance = random.Random(20261121)
    places = [(path, chance.randrange(path.stat().st_size)) for path in chance.choices(paths, k=FLIPS)]
    for path in paths:
        data = path.read_bytes()
        first_end = data.index(b"\n")
        marks = [data.index(mark) + len(mark) for mark in (b'"hash":"', b'"prev":"', b'"seq":')]
        places += [(path, at) for at in (0, first_end, first_end + 1, *marks, len(data) - 1)]
    missed = []
    for path, at in places:
        whole = path.read_bytes()
        flipped = bytearray(whole)
        flipped[at] ^= 1 << chance.randrange(8)
        rewrite(path, bytes(flipped))
        report = checked(tmp_path, anchor)
        if report.clean or not report.problems[0].text:
            missed.append((path.name, at, flipped[at]))
        rewrite(path, whole)
    assert missed == []
    assert checked(tmp_path, anchor).clean


def test_a_flip_is_told_with_its_place(tmp_path: Path, anchor: Anchor) -> None:
    path = files(tmp_path)[1]
    lines = path.read_bytes().splitlines(keepends=True)
    at = sum(map(len, lines[:4])) + lines[4].index(b'"smollm2') + 3
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    rewrite(path, bytes(data))
    [problem] = checked(tmp_path, anchor).problems
    assert (problem.file, problem.line, problem.byte) == (path.name, 5, sum(map(len, lines[:4])))
    assert problem.kind == "broken_line" and "hash" in problem.text


@pytest.mark.parametrize("segment", [0, 1, 2])
@pytest.mark.parametrize("line", [0, 1, 6, -1])
@pytest.mark.parametrize("change", ["drop", "double", "swap"])
def test_lines_dropped_doubled_swapped(
    tmp_path: Path, anchor: Anchor, segment: int, line: int, change: str
) -> None:
    path = files(tmp_path)[segment]
    lines = path.read_bytes().splitlines(keepends=True)
    at = line % len(lines)
    match change:
        case "drop":
            del lines[at]
        case "double":
            lines.insert(at, lines[at])
        case _:
            other = at + 1 if at + 1 < len(lines) else at - 1
            lines[at], lines[other] = lines[other], lines[at]
    rewrite(path, b"".join(lines))
    report = checked(tmp_path, anchor)
    assert not report.clean
    if change != "drop" or segment < 2 or line != -1:
        assert report.problems[0].file in {path.name, f"{segment + 2:08d}.jsonl"}


@pytest.mark.parametrize("lines_lost", [1, 2, 5])
def test_missing_tail_is_found_by_the_anchor(tmp_path: Path, lines_lost: int) -> None:
    anchor = write(tmp_path, batches=5)
    path = files(tmp_path)[-1]
    lines = path.read_bytes().splitlines(keepends=True)
    rewrite(path, b"".join(lines[:-lines_lost]))
    assert checked(tmp_path, None).clean, "the chain alone cannot know how long it was"
    [problem] = checked(tmp_path, anchor).problems
    assert problem.kind == "missing_tail" and str(anchor.count) in problem.text


def test_missing_segments(tmp_path: Path, anchor: Anchor) -> None:
    whole = files(tmp_path)
    for number, kind in ((0, "missing_segment"), (1, "missing_segment"), (2, "missing_tail")):
        copy = tmp_path / f"copy-{number}"
        copy.mkdir()
        for path in whole:
            shutil.copy(path, copy)
        files(copy)[number].unlink()
        assert kind in kinds(checked(copy, anchor))
        assert checked(copy, None).clean == (number == 2)


def test_a_tail_beyond_the_anchor_is_fine(tmp_path: Path, anchor: Anchor) -> None:
    for count in (1, anchor.count // 2):
        earlier = files(tmp_path)
        lines = b"".join(path.read_bytes() for path in earlier).splitlines(keepends=True)
        head = lines[count - 1].split(b'"hash":"')[1][:64].decode()
        assert checked(tmp_path, Anchor(count=count, head=head)).clean
        assert kinds(checked(tmp_path, Anchor(count=count, head="ab" * 32))) == {"other_head"}


def test_a_chain_rewritten_whole_is_found_by_the_anchor(tmp_path: Path) -> None:
    write(tmp_path, batches=1)
    path = files(tmp_path)[0]
    whole = path.read_bytes().splitlines(keepends=True)
    anchor = Anchor(count=len(whole), head=read_line(whole[-1]).hash)
    forged, prev = [], genesis(REGION)
    for seq, line in enumerate(whole, start=1):
        true = read_line(line).event
        amounts = {**true.amounts, "used": "0"} if true.amounts else None
        new, prev = line_of(seq, prev, dataclasses.replace(true, amounts=amounts))
        forged.append(new)
    rewrite(path, b"".join(forged))
    assert checked(tmp_path, None).clean, "a chain without a witness proves nothing"
    assert kinds(checked(tmp_path, anchor)) == {"other_head"}


def test_unsealed_in_the_middle_and_lines_after_the_seal(tmp_path: Path, anchor: Anchor) -> None:
    first, second, third = files(tmp_path)
    sealed_lines = first.read_bytes().splitlines(keepends=True)
    rewrite(first, b"".join(sealed_lines[:-1]))
    assert {"unsealed", "sequence"} <= kinds(checked(tmp_path, anchor))
    rewrite(first, b"".join(sealed_lines))
    for appended in (sealed_lines[3], b"torn"):
        whole = third.read_bytes()
        rewrite(third, whole + appended)
        assert "after_seal" in kinds(checked(tmp_path, anchor))
        rewrite(third, whole)
    rewrite(second, b"")
    assert "unsealed" in kinds(checked(tmp_path, anchor))


def test_a_line_in_the_making_is_no_problem(tmp_path: Path) -> None:
    """The bookkeeper writes while we read; its last line may be half there."""
    anchor = write(tmp_path, batches=5)
    path = files(tmp_path)[-1]
    path.write_bytes(path.read_bytes() + b'{"event":{"acc')
    report = checked(tmp_path, anchor)
    assert report.clean and report.torn_bytes == 14


def test_another_regions_books_are_not_ours(tmp_path: Path, anchor: Anchor) -> None:
    report = verify(tmp_path, RegionName("eu"), None)
    assert not report.clean and report.problems_total > len(files(tmp_path))


def test_problems_are_bounded_and_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    anchor = write(tmp_path)
    monkeypatch.setattr(verifying, "PROBLEMS_KEPT", 3)
    for path in files(tmp_path):
        rewrite(path, path.read_bytes().replace(b'"posted"', b'"Posted"'))
    report = checked(tmp_path, anchor)
    assert len(report.problems) == 3 and report.problems_total == 30


def test_a_line_without_end_costs_one_problem_and_no_memory(tmp_path: Path, anchor: Anchor) -> None:
    path = files(tmp_path)[0]
    lines = path.read_bytes().splitlines(keepends=True)
    lines[2] = b"x" * (3 * LINE_BYTES_MAX) + b"\n"
    rewrite(path, b"".join(lines))
    [problem] = checked(tmp_path, anchor).problems
    assert (problem.line, problem.kind) == (3, "broken_line")


def test_the_chain_is_what_its_description_says() -> None:
    body = encode(event(1))
    assert hash_of("00" * 32, body) != hash_of("01" + "00" * 31, body) != genesis(REGION)
