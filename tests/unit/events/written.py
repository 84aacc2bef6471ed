"""Books of a few segments, written by the real writer."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from gateway.contract.clock import ManualClock
from gateway.contract.ids import RegionName
from gateway.events.books import Books, open_books
from gateway.events.chain import Anchor
from gateway.events.event import Event, EventType
from gateway.events.segment import Limits, segments_of
from gateway.events.verify import Report, verify

REGION: Final = RegionName("local")


def event(number: int, *, org: str = "acme", kind: EventType = EventType.HOLD_SETTLED) -> Event:
    """An event with every field in use, and text that needs escaping and more than one byte."""
    return Event(
        id=f"{org}/{1_800_000_000_000 + number}-0",
        type=kind,
        at_ms=1_800_000_000_000 + number,
        region=REGION,
        org=org,
        request_id=f"request-{number}",
        hold=f"h-{number}",
        attempt="1",
        policy_version="3",
        verdict="posted",
        reason="unknown" if number % 3 == 0 else "",
        amounts={"held": "1000", "used": str(number), "released": str(1000 - number)},
        accounts=("org|minute|1800000000000", "key/k1|month|1800000000000"),
        context={"model": "smollm2-135m", "team": 'a"b\\c', "note": "größe 😀\n"},
    )


def opened(directory: Path, *, anchor: Anchor | None = None, limits: Limits | None = None) -> Books:
    return open_books(directory, REGION, anchor, clock=ManualClock(), limits=limits)


def write(directory: Path, batches: int = 6, size: int = 5, *, limits: Limits | None = None) -> Anchor:
    """``batches`` x ``size`` events, a segment for every two batches; returns the anchor."""
    books = opened(directory, limits=limits or Limits(events=2 * size + 1))
    for batch in range(batches):
        books.append([event(batch * size + n) for n in range(size)])
        books.seal_if_due()
    anchor = Anchor(count=books.count, head=books.head)
    books.close()
    return anchor


def files(directory: Path) -> list[Path]:
    return [path for _, path in segments_of(directory)]


def rewrite(path: Path, data: bytes) -> None:
    """As somebody who may write it after all."""
    path.chmod(0o644)
    path.write_bytes(data)


def checked(directory: Path, anchor: Anchor | None) -> Report:
    return verify(directory, REGION, anchor)
