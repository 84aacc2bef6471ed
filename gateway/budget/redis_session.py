"""Calls of the library on an org's books: under which epoch they are open, and that they are.

An emptied store is noticed before it decides anything: each call carries the epoch this process knows, an
org's books carry the epoch they were opened under, and books are opened only for an org that never had any.
Whoever finds the own event log empty calls ``found_epoch(fresh=True)``; for everybody else a missing epoch is
LedgerEmptied, as are a fenced one and one of an older term than this process has met (redis_keys.py): a
primary that was replaced is not written to.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

from redis.exceptions import ResponseError

from gateway.budget.ledger import ACCOUNTS_MAX, OVERRIDES_MAX, WINDOWS_MAX
from gateway.budget.redis_connection import within
from gateway.budget.redis_keys import EPOCH_KEY, is_fenced, new_epoch, org_key, term_of
from gateway.budget.redis_library import zone_text
from gateway.budget.redis_route import Route
from gateway.contract.clock import Clock
from gateway.contract.errors import LedgerEmptied
from gateway.contract.ids import OrgId
from gateway.contract.units import Millis

EPOCH_AGAIN_S: Final = 1.0
"""How often a process whose epoch did not fit asks for the one in force: a closed ledger must not
also be a busy one."""
_ZONES_MAX: Final = WINDOWS_MAX + ACCOUNTS_MAX * OVERRIDES_MAX
"""Zones that one call can find untold: each of its windows may have one."""
_PREFIX: Final = "tg2_"


class AlreadyResolved(Exception):
    """The text is the hold's state."""


class WindowRefused(Exception):
    """An adjustment does not fit the account's windows; ``none`` or ``many``."""


class _OtherEpoch(Exception):
    """The org's books have no epoch or another one than we sent."""


class _ZoneUntold(Exception):
    """The text is the zone whose offsets the org needs."""


class Session:
    """One a process; safe for concurrent tasks."""

    def __init__(
        self,
        route: Route,
        *,
        clock: Clock,
        deadline: Millis,
        library: str,
        test_store_clock: Clock | None = None,
    ) -> None:
        """``clock`` stamps new epochs and spaces questions for one; ``deadline`` bounds each call. In tests
        only: ``test_store_clock`` takes the place of the store's TIME."""
        self.route = route
        self._clock = clock
        self._deadline = deadline
        self._library = library
        self._test_store_clock = test_store_clock
        self._loaded = False
        self._epoch: str | None = None
        self._term = 0
        self._epoch_again_at = float("-inf")
        self._opened: set[OrgId] = set()
        self._lock = asyncio.Lock()

    async def found_epoch(self, *, fresh: bool) -> str:
        """The store's epoch; with ``fresh`` made where there is none. Raises LedgerEmptied,
        LedgerUnavailable."""
        async with within(self._deadline):
            if fresh:
                epoch = new_epoch(max(self._clock.unix_ms(), self._term))
                await self.route.client.set(EPOCH_KEY, epoch, nx=True)
                self._epoch_again_at = float("-inf")
            return await self._epoch_in_force(asked=True)

    async def orgs(self) -> list[OrgId]:
        """Sorted. Asks the store for its epoch each time, so it also serves as a probe. Raises LedgerEmptied,
        LedgerUnavailable."""
        async with within(self._deadline):
            await self._epoch_in_force(asked=True)
            return sorted(OrgId(org) for org in await self.route.client.smembers(self.route.orgs_key))

    async def call(
        self, verb: str, org: OrgId, *arguments: object, record: str = "", confirmed: bool = False
    ) -> Any:
        """One function call on the org's books, opened if they never were. ``record``: the name of the key of
        the hold or lease it is about. Raises AlreadyResolved, WindowRefused, LedgerEmptied,
        LedgerUnavailable; ValueError for a zone nobody knows."""
        async with within(self._deadline):
            try:
                return await self._told(verb, org, arguments, record, confirmed)
            except _OtherEpoch:
                # The store is not the one we opened the books in. It may have been founded anew by
                # somebody entitled to; if not, opening fails and the org stays closed.
                self.forget_books()
            try:
                return await self._told(verb, org, arguments, record, confirmed)
            except _OtherEpoch:
                self.forget_books()
                raise _emptied() from None

    def forget_books(self) -> None:
        """Ask for the epoch again, and whether books are open."""
        self._epoch = None
        self._opened.clear()

    async def _told(
        self, verb: str, org: OrgId, arguments: tuple[object, ...], record: str, confirmed: bool
    ) -> Any:
        """The call; the store is told the offsets of a zone it does not know, and asked again."""
        for _ in range(_ZONES_MAX):
            epoch = await self._open(org)
            try:
                return await self._function(verb, org, epoch, *arguments, record=record, confirmed=confirmed)
            except _ZoneUntold as untold:
                zone = str(untold)
                await self._function("zone", org, epoch, zone, zone_text(zone))
        raise ValueError(f"windows: more than {_ZONES_MAX} time zones")

    async def _function(
        self, verb: str, org: OrgId, epoch: str, *arguments: object, record: str = "", confirmed: bool = False
    ) -> Any:
        meta = org_key(org, "meta")
        keys = (2, meta, org_key(org, record)) if record else (1, meta)
        injected = str(self._test_store_clock.unix_ms()) if self._test_store_clock else ""
        call = ("FCALL", _PREFIX + verb, *keys, epoch, injected, *arguments)
        try:
            if not self._loaded:
                await self._load()
            try:
                return await self.route.call(meta, *call, confirmed=confirmed)
            except ResponseError as error:
                if "Function not found" not in str(error):
                    raise
            await self._load()  # a store that started anew; nothing was done by the first call
            return await self.route.call(meta, *call, confirmed=confirmed)
        except ResponseError as error:
            code, _, rest = str(error).partition(" ")
            raised = _RAISED.get(code)
            if raised is None:
                raise
            raise raised(rest) from None

    async def _load(self) -> None:
        await self.route.load(self._library)
        self._loaded = True

    async def _open(self, org: OrgId) -> str:
        """The epoch, once the org's books are known to be open under it. Raises LedgerEmptied."""
        epoch = await self._epoch_in_force()
        if org in self._opened:
            return epoch
        # In this order: who opens books writes meta, then the set of orgs. A member without meta has lost it;
        # meta without a member is an opener that died between the two, and is completed here.
        client = self.route.client
        if await client.get(EPOCH_KEY) != epoch:
            self.forget_books()
            raise _emptied()
        member = await client.sismember(self.route.orgs_key, org)
        found = await client.hget(org_key(org, "meta"), "epoch")
        if found is None and not member:
            found = await self._function("open", org, epoch)
        if found != epoch:
            self.forget_books()
            raise _emptied()
        if not member:
            await client.sadd(self.route.orgs_key, org)
        self._opened.add(org)
        return epoch

    async def _epoch_in_force(self, *, asked: bool = False) -> str:
        """The epoch we know, read lazily and, after it proved wrong, at most once in EPOCH_AGAIN_S;
        ``asked``: read it now in any case."""
        if self._epoch is not None and not asked:
            return self._epoch
        async with self._lock:
            if self._epoch is not None and not asked:
                return self._epoch
            if not asked and self._clock.monotonic_s() < self._epoch_again_at:
                raise _emptied()
            found = await self.route.client.get(EPOCH_KEY)
            self._epoch_again_at = self._clock.monotonic_s() + EPOCH_AGAIN_S
            if found != self._epoch:
                self.forget_books()
            if found is None or is_fenced(found) or term_of(found) < self._term:
                raise _emptied()
            self._epoch, self._term = str(found), term_of(found)
            return self._epoch


_RAISED: Final = {
    "TGEPOCH": _OtherEpoch,
    "TGRESOLVED": AlreadyResolved,
    "TGWINDOW": WindowRefused,
    "TGZONE": _ZoneUntold,
}


def _emptied() -> LedgerEmptied:
    return LedgerEmptied("The budget ledger is closed until its counters are rebuilt.")
