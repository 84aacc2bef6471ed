"""Books that the release before wrote are still read, and go on in the version of today.

``kept/version-1`` was written by that release's own ledger and bookkeeper, ``kept/version-1.json`` is what
its ledger then held.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, Final

import orjson
import pytest

from gateway.events.chain import Anchor
from gateway.events.segment import segments_of
from tests.unit.events.written import checked, event, opened

KEPT: Final = Path(__file__).parent / "kept"


@pytest.fixture
def books(tmp_path: Path) -> Path:
    return Path(shutil.copytree(KEPT / "version-1", tmp_path / "books"))


def expected() -> dict[str, Any]:
    found: dict[str, Any] = orjson.loads((KEPT / "version-1.json").read_bytes())
    return found


def test_old_books_are_clean_to_the_last_record(books: Path) -> None:
    anchor = Anchor(count=expected()["records"], head=expected()["head"])
    report = checked(books, anchor)
    assert report.clean and report.events == anchor.count and report.head == anchor.head
    assert report.segments == 5 and report.sealed == 4


def test_old_books_go_on_in_the_new_version(books: Path) -> None:
    anchor = Anchor(count=expected()["records"], head=expected()["head"])
    writer = opened(books, anchor=anchor)
    writer.append([event(1)])
    later = Anchor(count=writer.count, head=writer.head)
    writer.close()
    assert later.count == anchor.count + 1
    assert checked(books, later).clean
    lines = segments_of(books)[-1][1].read_bytes().splitlines()
    assert b'"v":1}' in lines[0] and b'"v":2,' in lines[-1]
