"""Outboxes and access entries into the books: read, write, sync, anchor, drop. In this order, so that a
kill at any point loses nothing, and repeats only what the books then know."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final, Protocol

from gateway.bookkeeper.access_queue import AccessQueue
from gateway.bookkeeper.condition import Condition, wait
from gateway.bookkeeper.heartbeat import EMPTIED_MEND
from gateway.bookkeeper.outbox_events import event_of
from gateway.contract.clock import Clock
from gateway.contract.errors import LedgerEmptied, LedgerUnavailable
from gateway.contract.ids import OrgId, RegionName
from gateway.events.books import Books, BooksLocked, open_books
from gateway.events.chain import Anchor
from gateway.events.event import Event, EventType
from gateway.events.recovery import BooksDamaged
from gateway.events.segment import Limits, holds_records
from gateway.telemetry import names
from gateway.telemetry.log import EventLog
from gateway.telemetry.metrics import counter

IDLE_S: Final = 0.2
"""Pause after a round that found nothing; an event is in the books well within a second."""
READ_COUNT: Final = 256
"""Entries of one org in one round: a busy org does not make the others wait."""
ROUND_MAX: Final = 2048
"""Events in one round: about 2 MB and one sync. Far below books.IDS_KEPT, as exactness demands."""
DAMAGED_MEND: Final = (
    "run `tidegate ledger verify`; put back the segments from the archive or a backup, or move the books "
    "directory away and delete the ledger's hash tg:books:<region> to begin new books"
)

Batches = Mapping[OrgId, Sequence[tuple[str, Mapping[str, str]]]]


class Epochs(Protocol):
    """What keeping needs of gateway.budget.redis_ledger."""

    async def found_epoch(self, *, fresh: bool) -> str:
        """The epoch; made if ``fresh`` and there is none. Raises LedgerEmptied, LedgerUnavailable."""


class Outbox(Protocol):
    """What keeping needs of gateway.budget.redis_outbox. Everything raises LedgerUnavailable."""

    async def read_outbox(
        self, org: OrgId, after_id: str, count: int
    ) -> Sequence[tuple[str, Mapping[str, str]]]:
        """Entries after ``after_id``, oldest first."""

    async def drop_outbox(self, org: OrgId, ids: Sequence[str]) -> None:
        """Forget entries."""

    async def anchor(self, region: RegionName) -> Mapping[str, str] | None:
        """``count`` and ``head``."""

    async def set_anchor(self, region: RegionName, count: int, head: str) -> None:
        """Both in one step."""


_START: Final = "0-0"
"""Always from the beginning: what is sealed is dropped, so what is there is new or known to the books."""


class Keeping:
    """``run`` in a task. ``founded`` is set once the ledger is known to have an epoch."""

    def __init__(
        self,
        epochs: Epochs,
        outbox: Outbox,
        orgs: Callable[[], Sequence[OrgId]],
        access: AccessQueue,
        *,
        directory: Path,
        region: RegionName,
        clock: Clock,
        log: EventLog,
        limits: Limits | None = None,
        idle_s: float = IDLE_S,
        notice: Callable[[Sequence[Event]], None] = lambda events: None,
    ) -> None:
        """``orgs`` gives those with an outbox. ``notice`` is shown its events before they are written, some
        of them more than once. Opens nothing yet."""
        self._notice = notice
        self._epochs, self._outbox, self._orgs, self._access = epochs, outbox, orgs, access
        self._directory, self._region = directory, region
        self._clock, self._log, self._limits, self._idle_s = clock, log, limits, idle_s
        self.founded = asyncio.Event()
        self._books: Books | None = None
        self._anchored: tuple[int, str] | None = None
        self._turn = 0
        self._written = False
        self._books_condition = Condition("books", log)
        self._outbox_condition = Condition("outbox", log)
        self._sealed = counter(names.EVENTS_SEALED, "Events appended to segments", ["type"])

    async def answers(self) -> bool:
        """Whether the books are open and can be written; a health probe."""
        return self._books is not None and not self._books_condition.failing

    async def run(self, stop: asyncio.Event) -> None:
        """Rounds until ``stop``, then a last one."""
        try:
            while True:
                stopping = stop.is_set()
                busy = await self._guarded_round()
                if stopping:
                    return
                if self._books_condition.failing or self._outbox_condition.failing:
                    pauses = (self._books_condition.pause_s(), self._outbox_condition.pause_s())
                    await wait(stop, max(pauses))
                elif not busy:
                    await wait(stop, self._idle_s)
        finally:
            await self._close()

    async def _guarded_round(self) -> bool:
        """One round, whatever happens in it; whether more may be waiting."""
        self._written = False
        try:
            return await self._round()
        except BooksDamaged as error:
            self._books_condition.fails(str(error), event="books.damaged", mend=DAMAGED_MEND)
        except (BooksLocked, OSError) as error:
            self._books_condition.fails(f"{type(error).__name__}: {error}")
        except LedgerEmptied as error:
            self._outbox_condition.fails(error.code, event="books.ledger_emptied", mend=EMPTIED_MEND)
            return False
        except LedgerUnavailable as error:
            self._outbox_condition.fails(error.code)
            return False
        except Exception as error:  # noqa: BLE001  # a bug of ours must not end the sweep beside it
            self._books_condition.fails(type(error).__name__, event="books.failed", error=error)
        finally:
            self._access.away = not self._written
        await self._close()
        return False

    async def _close(self) -> None:
        if self._books is not None:
            books, self._books = self._books, None
            await asyncio.to_thread(books.close)

    async def _open(self) -> Books:
        """The books, opened if they are not. In this order: an epoch is founded only while no record
        stands, so that a crash at any point leaves either both or a ledger that may be founded."""
        if self._books is None:
            begun = await asyncio.to_thread(holds_records, self._directory)
            await self._epochs.found_epoch(fresh=not begun)
            self.founded.set()
            found = await self._outbox.anchor(self._region)
            anchor = Anchor(count=int(found["count"]), head=found["head"]) if found else None
            self._books = await asyncio.to_thread(self._opened, anchor)
            self._anchored = (anchor.count, anchor.head) if anchor else None
            if anchor is None and begun:
                self._log.warning("books.anchor_missing", count=self._books.count)
            self._log.info("books.open", count=self._books.count, head=self._books.head)
        return self._books

    def _opened(self, anchor: Anchor | None) -> Books:
        return open_books(self._directory, self._region, anchor, clock=self._clock, limits=self._limits)

    async def _round(self) -> bool:
        books = await self._open()
        access = await self._access.first(ROUND_MAX)
        batches, heard = await self._read()
        events = [
            event_of(self._region, org, entry, fields)
            for org, entries in batches.items()
            for entry, fields in entries
        ]
        self._notice(events)
        self._count(await asyncio.to_thread(books.append, [*events, *access.events]))
        self._written = True
        await self._access.written(access)
        if await self._confirm(books, batches) and heard:
            self._outbox_condition.works()
        if await asyncio.to_thread(books.seal_if_due):
            self._log.info("books.sealed", count=books.count, head=books.head)
        self._books_condition.works()
        more_access = self._access.waiting and len(access.events) > 0
        return more_access or any(len(entries) == READ_COUNT for entries in batches.values())

    async def _read(self) -> tuple[Batches, bool]:
        """What waits, a part of each org's, and whether the ledger answered. Orgs take turns in being
        first."""
        orgs, total = list(self._orgs()), 0
        batches: dict[OrgId, Sequence[tuple[str, Mapping[str, str]]]] = {}
        self._turn += 1
        first = self._turn % len(orgs) if orgs else 0
        for org in orgs[first:] + orgs[:first]:
            if total >= ROUND_MAX:
                break
            try:
                entries = await self._outbox.read_outbox(org, _START, READ_COUNT)
            except LedgerUnavailable as error:
                self._outbox_condition.fails(error.code)
                return batches, False
            if entries:
                batches[org] = entries
                total += len(entries)
        return batches, True

    async def _confirm(self, books: Books, batches: Batches) -> bool:
        """Tell the ledger what is safe on disk; whether it heard. If not, the entries come again."""
        try:
            if self._anchored != (books.count, books.head) and books.count:
                await self._outbox.set_anchor(self._region, books.count, books.head)
                self._anchored = (books.count, books.head)
            for org, entries in batches.items():
                await self._outbox.drop_outbox(org, [entry for entry, _ in entries])
        except LedgerUnavailable as error:
            self._outbox_condition.fails(error.code)
            return False
        return True

    def _count(self, events: Sequence[Event]) -> None:
        for kind, count in Counter(event.type for event in events).items():
            self._sealed.labels(type=kind.value).inc(count)
        for event in events:
            if event.type is EventType.EVENT_UNREADABLE:
                self._log.error("books.unreadable_event", id=event.id, reason=event.reason)
