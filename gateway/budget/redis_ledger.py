"""The ledger in Valkey 9 or Redis 7: each verb is one call of a function in ledger.lua.

Keys: ``tg:{<org>}:meta limits live outbox windows hold:<id> w:<window>`` share a hash tag; across
orgs ``tg:epoch`` (of the whole store) and ``tg:orgs``.

An emptied store is noticed before it decides anything: each call carries the epoch this process
knows, an org's books carry the epoch they were opened under, and books are opened only for an org
that never had any. Whoever finds the own event log empty calls ``found_epoch(fresh=True)``; for
everybody else a missing epoch is LedgerEmptied.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from redis.exceptions import ResponseError

from gateway.budget.ledger import (
    Account,
    Granted,
    HoldRequest,
    Outcome,
    Refused,
    Resolved,
    Standing,
    WindowKind,
    check_amount,
    check_hold,
)
from gateway.budget.redis_connection import connect, within
from gateway.budget.redis_lane import Lane
from gateway.contract.clock import Clock, SystemClock
from gateway.contract.errors import LedgerEmptied
from gateway.contract.ids import AccountId, HoldId, OrgId
from gateway.contract.units import Millis, Tokens, UnixMillis
from gateway.path import hop

DEADLINE: Final = hop("ledger").deadline
EPOCH_KEY: Final = "tg:epoch"
ORGS_KEY: Final = "tg:orgs"
EPOCH_AGAIN_S: Final = 1.0
"""How often a process whose epoch did not fit asks for the one in force: a closed ledger must not
also be a busy one."""
_LIBRARY: Final = Path(__file__).with_name("ledger.lua")


def org_key(org: OrgId, name: str) -> str:
    """``tg:{org}:name``; the braces put all keys of an org into one cluster slot."""
    return f"tg:{{{org}}}:{name}"


class RedisLedger:
    """See BudgetLedger. One instance a process; safe for concurrent tasks."""

    def __init__(
        self,
        client: Any,
        *,
        clock: Clock | None = None,
        deadline: Millis = DEADLINE,
        test_store_clock: Clock | None = None,
        test_library: Path = _LIBRARY,
    ) -> None:
        """``client`` as redis_connection.connect makes it. ``clock`` is this process's own (the witness
        of ``tick``), ``deadline`` bounds each call. In tests only: ``test_store_clock`` takes the place
        of the store's TIME, ``test_library`` that of ledger.lua."""
        self._client = client
        self._lane = Lane(client)
        self._clock = clock or SystemClock()
        self._deadline = deadline
        self._test_store_clock = test_store_clock
        self._library = test_library.read_text(encoding="utf-8")
        self._loaded = False
        self._epoch: str | None = None
        self._epoch_again_at = float("-inf")
        self._opened: set[OrgId] = set()
        self._lock = asyncio.Lock()

    @classmethod
    def connect(cls, url: str) -> RedisLedger:
        """A ledger at TIDEGATE_LEDGER_URL. Does no I/O. Raises ValueError for a bad URL."""
        return cls(connect(url, timeout=DEADLINE))

    async def leave(self) -> None:
        """Give back what was taken of the client, which stays open for its owner."""
        await self._lane.aclose()

    async def aclose(self) -> None:
        """Close the connections, the client's too."""
        await self.leave()
        await self._client.aclose()

    async def found_epoch(self, *, fresh: bool) -> str:
        """The store's epoch. ``fresh`` makes one where there is none: only for a caller that knows
        that no event was ever written. Raises LedgerEmptied, LedgerUnavailable."""
        async with within(self._deadline):
            if fresh:
                await self._client.set(EPOCH_KEY, secrets.token_hex(16), nx=True)
                self._epoch_again_at = float("-inf")
            return await self._epoch_in_force(asked=True)

    async def reserve(self, request: HoldRequest) -> Granted | Refused:
        """See BudgetLedger."""
        triples = _triples(request.accounts)
        amounts = (request.fixed, request.choices, request.units_wanted, request.needed, request.ttl)
        arguments = (request.hold, *amounts, request.policy_version, len(triples) // 3, *triples)
        try:
            reply = await self._call(
                "reserve", request.org, *arguments, *_flat(request.context), hold=request.hold
            )
        except _AlreadyResolved as error:
            raise ValueError(f"hold {request.hold}: already {error}") from None
        if reply[0] == "refused":
            return Refused(
                needed=Tokens(int(reply[1])), retry_after=Millis(int(reply[2])), standing=_standing(reply[3])
            )
        return Granted(
            hold=request.hold,
            amount=Tokens(int(reply[1])),
            units=Tokens(int(reply[2])),
            expires_at=UnixMillis(int(reply[3])),
            repeated=reply[4] == "1",
            policy_conflict=reply[5] == "1",
            tightest=_standing(reply[6]),
        )

    async def settle(
        self,
        org: OrgId,
        hold: HoldId,
        used: Tokens,
        *,
        unknown: bool = False,
        detail: Mapping[str, str] | None = None,
    ) -> Resolved:
        """See BudgetLedger."""
        if unknown:
            used = Tokens(0)
        check_amount(used)
        arguments = (hold, used, int(unknown), *_flat(detail or {}))
        return _resolved(await self._call("settle", org, *arguments, hold=hold))

    async def void(self, org: OrgId, hold: HoldId, *, reason: str) -> Resolved:
        """See BudgetLedger."""
        return _resolved(await self._call("void", org, hold, reason, hold=hold))

    async def expire(self, org: OrgId, *, holds_max: int = 100) -> Sequence[HoldId]:
        """See BudgetLedger."""
        return [HoldId(hold) for hold in await self._call("expire", org, holds_max)]

    async def note(self, org: OrgId, kind: str, context: Mapping[str, str]) -> None:
        """See BudgetLedger."""
        await self._call("note", org, kind, *_flat(context))

    async def standing(self, org: OrgId, accounts: Sequence[Account]) -> Sequence[Standing]:
        """See BudgetLedger."""
        if not accounts:
            return []
        triples = _triples(accounts)
        return [_standing(line) for line in await self._call("standing", org, len(triples) // 3, *triples)]

    async def tick(self, org: OrgId) -> UnixMillis:
        """See BudgetLedger."""
        return UnixMillis(int(await self._call("tick", org, self._clock.unix_ms())))

    async def orgs(self) -> Sequence[OrgId]:
        """See BudgetLedger. Asks the store for its epoch each time, so it also serves as a probe."""
        async with within(self._deadline):
            await self._epoch_in_force(asked=True)
            return sorted(OrgId(org) for org in await self._client.smembers(ORGS_KEY))

    async def _call(self, verb: str, org: OrgId, *arguments: object, hold: HoldId | None = None) -> Any:
        """One function call on the org's books, opened if they never were."""
        check_hold(org, HoldId("none") if hold is None else hold)
        async with within(self._deadline):
            try:
                return await self._function(verb, org, await self._open(org), *arguments, hold=hold)
            except _OtherEpoch:
                # The store is not the one we opened the books in. It may have been founded anew by
                # somebody entitled to; if not, opening fails and the org stays closed.
                self._forget_books()
            try:
                return await self._function(verb, org, await self._open(org), *arguments, hold=hold)
            except _OtherEpoch:
                self._forget_books()
                raise _emptied() from None

    async def _function(
        self, verb: str, org: OrgId, epoch: str, *arguments: object, hold: HoldId | None = None
    ) -> Any:
        keys = [org_key(org, name) for name in ("meta", "limits", "live", "outbox", "windows")]
        if hold is not None:
            keys.append(org_key(org, f"hold:{hold}"))
        injected = str(self._test_store_clock.unix_ms()) if self._test_store_clock else ""
        call = ("FCALL", f"tg1_{verb}", len(keys), *keys, epoch, injected, *arguments)
        try:
            if not self._loaded:
                await self._load()
            try:
                return await self._lane.call(*call)
            except ResponseError as error:
                if "Function not found" not in str(error):
                    raise
            await self._load()  # a store that started anew; nothing was done by the first call
            return await self._lane.call(*call)
        except ResponseError as error:
            code, _, rest = str(error).partition(" ")
            if code == "TGEPOCH":
                raise _OtherEpoch from None
            if code == "TGRESOLVED":
                raise _AlreadyResolved(rest) from None
            raise

    async def _load(self) -> None:
        await self._client.function_load(self._library, replace=True)
        self._loaded = True

    async def _open(self, org: OrgId) -> str:
        """The epoch, once the org's books are known to be open under it. Raises LedgerEmptied."""
        epoch = await self._epoch_in_force()
        if org in self._opened:
            return epoch
        # In this order: who opens books writes meta, then ORGS_KEY. A member without meta has lost it;
        # meta without a member is an opener that died between the two, and is completed here.
        if await self._client.get(EPOCH_KEY) != epoch:
            self._forget_books()
            raise _emptied()
        member = await self._client.sismember(ORGS_KEY, org)
        found = await self._client.hget(org_key(org, "meta"), "epoch")
        if found is None and not member:
            found = await self._function("open", org, epoch)
        if found != epoch:
            self._forget_books()
            raise _emptied()
        if not member:
            await self._client.sadd(ORGS_KEY, org)
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
            found = await self._client.get(EPOCH_KEY)
            self._epoch_again_at = self._clock.monotonic_s() + EPOCH_AGAIN_S
            if found != self._epoch:
                self._forget_books()
            if found is None:
                raise _emptied()
            self._epoch = str(found)
            return self._epoch

    def _forget_books(self) -> None:
        self._epoch = None
        self._opened.clear()


class _OtherEpoch(Exception):
    """The org's books have no epoch or another one than we sent."""


class _AlreadyResolved(Exception):
    """The text is the hold's state."""


def _emptied() -> LedgerEmptied:
    return LedgerEmptied("The budget ledger is closed until its counters are rebuilt.")


def _triples(accounts: Sequence[Account]) -> list[str | int]:
    triples: list[str | int] = []
    for account in accounts:
        for window in account.windows:
            triples += (account.id, window.kind.value, window.limit)
    return triples


def _flat(pairs: Mapping[str, str]) -> list[str]:
    return [text for pair in pairs.items() for text in pair]


def _standing(line: str) -> Standing:
    account, kind, limit, used, held, resets_at = line.split("|")
    return Standing(
        account=AccountId(account),
        kind=WindowKind(kind),
        limit=Tokens(int(limit)),
        used=Tokens(int(used)),
        held=Tokens(int(held)),
        resets_at=UnixMillis(int(resets_at)),
    )


def _resolved(reply: Sequence[str]) -> Resolved:
    outcome, first, posted, overdraft = reply
    return Resolved(
        outcome=Outcome(outcome),
        first=first == "1",
        posted=Tokens(int(posted)),
        overdraft=Tokens(int(overdraft)),
    )
