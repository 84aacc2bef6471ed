"""An org's books out of a store as values, and back into a store that has none.

    restoring = Restoring.connect(url)
    await restoring.begin()                       # refused where there are books
    for books in rebuilt: await restoring.write(books)
    while await restoring.expire(org): ...        # what is overdue is charged, and its event appended
    await restoring.open()                        # only now does anybody decide on them

Until ``open`` the store has no epoch, so everybody is closed, whenever this ends; ``begin`` then clears what
an earlier one left. Works on a single store and on a cluster.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, Final

from gateway.budget.calendar import window_bounds
from gateway.budget.certainty import Certainty
from gateway.budget.ledger import TOMBSTONE_TTL, WINDOW_KEPT, LeaseState, Outcome
from gateway.budget.measure import Amounts
from gateway.budget.outbox import CONTEXT, prefixed, unprefixed, window_of, window_text
from gateway.budget.rebuilt import (
    RebuiltBooks,
    RebuiltCounter,
    RebuiltHold,
    RebuiltLease,
    RebuiltOverride,
)
from gateway.budget.redis_connection import within
from gateway.budget.redis_keys import EPOCH_KEY, new_epoch, org_key
from gateway.budget.redis_library import library_text
from gateway.budget.redis_route import Route, route_to
from gateway.budget.window import Enforcement, Window
from gateway.contract.clock import Clock, SystemClock
from gateway.contract.ids import AccountId, HoldId, OrgId
from gateway.contract.units import Millis, UnixMillis

RESTORING_KEY: Final = f"{{{EPOCH_KEY}}}:restoring"
"""There while a restore is under way: what lies in the store is its own, and may be cleared."""
STEP: Final = Millis(10_000)
"""Of one command; nobody is served meanwhile."""
SCAN: Final = Millis(60 * STEP)
"""Of a look at all keys of the store."""
TOGETHER_MAX: Final = 1000
"""Commands under way at once."""
SCAN_COUNT: Final = 1000
_LIVE_LEASES: Final = (LeaseState.LIVE, LeaseState.RECALLED)


class NotEmpty(Exception):
    """The store has books; nothing was changed."""


class Restoring:
    """Raises LedgerUnavailable, never a driver's error."""

    def __init__(self, route: Route, *, clock: Clock | None = None) -> None:
        """``clock`` stamps the new epoch's term."""
        self._route = route
        self._client = route.client
        self._epoch = new_epoch((clock or SystemClock()).unix_ms())

    @classmethod
    def connect(cls, url: str, *, clock: Clock | None = None) -> Restoring:
        """At TIDEGATE_LEDGER_URL. Does no I/O. Raises ValueError for a bad URL."""
        return cls(route_to(url, timeout=STEP), clock=clock)

    async def leave(self) -> None:
        """Give back what was taken of the route's client."""
        await self._route.leave()

    async def aclose(self) -> None:
        """Close the connections."""
        await self._route.aclose()

    async def begin(self) -> None:
        """Clear what another restore left. Raises NotEmpty."""
        async with within(STEP):
            founded = await self._client.get(EPOCH_KEY) is not None
            begun = await self._client.get(RESTORING_KEY) is not None
        if founded:
            raise NotEmpty("the ledger has an epoch: it was not emptied")
        found = await self._keys("tg:[{]*}:*")
        if found and not begun:
            raise NotEmpty("the ledger has books of orgs, though it has no epoch: empty the store first")
        async with within(STEP):
            await self._client.set(RESTORING_KEY, self._epoch)
            await self._client.delete(self._route.orgs_key)
            await self._route.load(library_text())
        for key in found:
            async with within(STEP):
                await self._client.delete(key)

    async def write(self, books: RebuiltBooks) -> None:
        """One org's books. Raises ValueError for an id that is none."""
        commands = [*_counters(books), *_holds(books), *_leases(books), *_limits(books)]
        meta = org_key(books.org, "meta")
        commands.append(("HSET", meta, "clock_ms", books.clock_ms, "epoch", self._epoch))
        for first in range(0, len(commands), TOGETHER_MAX):
            async with within(STEP):
                await asyncio.gather(
                    *(self._route.call(meta, *one) for one in commands[first : first + TOGETHER_MAX])
                )
        async with within(STEP):
            await self._client.sadd(self._route.orgs_key, books.org)

    async def expire(self, org: OrgId, *, holds_max: int = 100) -> Sequence[HoldId]:
        """As BudgetLedger's, on books that are not open yet."""
        meta = org_key(org, "meta")
        async with within(STEP):
            gone = await self._route.call(meta, "FCALL", "tg2_expire", 1, meta, self._epoch, "", holds_max)
        return [HoldId(name) for name in gone]

    async def open(self) -> str:
        """Found the epoch: from now on the ledger decides. Returns it."""
        async with within(STEP):
            await self._client.set(EPOCH_KEY, self._epoch)
            await self._client.delete(RESTORING_KEY)
        return self._epoch

    async def snapshot(self, org: OrgId) -> RebuiltBooks:
        """The org's books as they are; for one that has none, empty. Of resolved holds only those that a
        settle may still correct: of the others the ledger keeps their outcome alone. Not one step: what moves
        meanwhile may be seen half."""
        hashes = {
            name: await self._hashes(org, name) for name in ("w:*", "hold:*", "lease:*", "limits", "meta")
        }
        live = await self._scores(org, "live")
        limits = hashes["limits"].get("limits", {})
        overrides = {name: text for name, text in limits.items() if name.startswith("!")}
        return RebuiltBooks(
            org=org,
            clock_ms=UnixMillis(int(hashes["meta"].get("meta", {}).get("clock_ms", 0))),
            counters=_counters_of(hashes["w:*"]),
            holds={
                HoldId(name.removeprefix("hold:")): _hold_of(record, live.get(name.removeprefix("hold:")))
                for name, record in hashes["hold:*"].items()
                if record["state"] == Outcome.LIVE or _certainty(record) < Certainty.EXACT
            },
            leases={
                HoldId(name.removeprefix("lease:")): _lease_of(record)
                for name, record in hashes["lease:*"].items()
                if record["state"] != LeaseState.RETURNED
            },
            overrides={AccountId(name[1:]): _override_of(text) for name, text in overrides.items()},
            limits={
                AccountId(name): (int(text.partition(":")[0]), _windows_of(text))
                for name, text in limits.items()
                if name not in overrides and "|" not in name
            },
            adjusted={HoldId(name): at for name, at in (await self._scores(org, "adjusted")).items()},
        )

    async def _hashes(self, org: OrgId, pattern: str) -> dict[str, dict[str, str]]:
        """Hashes of an org by the name of their key."""
        prefix, found = org_key(org, ""), {}
        for key in await self._keys(org_key(org, pattern).replace("{", "[{]")):
            async with within(STEP):
                fields = await self._client.hgetall(key)
            if fields:
                found[key.removeprefix(prefix)] = fields
        return found

    async def _scores(self, org: OrgId, name: str) -> dict[str, UnixMillis]:
        async with within(STEP):
            pairs = await self._client.zrange(org_key(org, name), 0, -1, withscores=True)
        return {member: UnixMillis(int(score)) for member, score in pairs}

    async def _keys(self, pattern: str) -> list[str]:
        """A scan is many commands."""
        async with within(SCAN):
            return [str(key) async for key in self._client.scan_iter(match=pattern, count=SCAN_COUNT)]


Command = tuple[Any, ...]


def _key_of(org: OrgId, window: str) -> tuple[str, str | None, Window, UnixMillis]:
    """Its key, the field of a rolling window's bucket, its kind of window and when it begins."""
    account, *middle, start = window.split("|")
    measure, span = ("tokens", *middle)[-2:]
    shape = window_of(f"{measure},{span},0,{Enforcement.HARD},0")
    key = org_key(org, f"w:{account}|{measure}|{span}")
    begins = UnixMillis(int(start))
    return (key, start, shape, begins) if shape.seconds else (f"{key}|{start}", None, shape, begins)


def _counters(books: RebuiltBooks) -> list[Command]:
    commands: list[Command] = []
    for window, counter in books.counters.items():
        key, bucket, shape, begins = _key_of(books.org, window)
        ends = window_bounds(shape, begins)[1]
        kept = 0 if bucket is not None else WINDOW_KEPT
        if ends and ends + kept <= books.clock_ms and counter.held == 0:
            continue
        if bucket is not None:
            text = f"{counter.used} {counter.held} {counter.leased} {counter.credit}"
            commands.append(("HSET", key, bucket, text))
        else:
            fields = ("used", counter.used, "held", counter.held, "leased", counter.leased)
            commands.append(("HSET", key, *fields, "credit", counter.credit))
        if ends:
            # A hold of it may have been charged just now without certainty.
            drop_at = ends if bucket is not None else max(ends, books.clock_ms) + WINDOW_KEPT
            commands.append(("ZADD", org_key(books.org, "windows"), drop_at, window))
    return commands


def _parts(amounts: Amounts) -> str:
    return " ".join(map(str, amounts.numbers()[1:]))


def _holds(books: RebuiltBooks) -> list[Command]:
    commands: list[Command] = []
    for name, hold in books.holds.items():
        key, context = org_key(books.org, f"hold:{name}"), prefixed(CONTEXT, hold.context)
        fields = {
            "state": hold.outcome.value,
            "amount": hold.amounts.tokens,
            "parts": _parts(hold.amounts),
            "posted": hold.posted.tokens,
            "posted_parts": _parts(hold.posted),
            "expires": hold.ends_at,
            "version": hold.version,
            "windows": " ".join(hold.windows),
            # Its event does not say how much it may produce: a repeated reserve is refused.
            "units": "",
            "conflict": "0",
            "tightest": "",
            "blind": int(hold.certainty),
        }
        if "lease" in hold.context:
            fields["lease"] = hold.context["lease"]
        if hold.outcome is Outcome.LIVE:
            del fields["posted_parts"], fields["blind"]
            commands.append(("ZADD", org_key(books.org, "live"), hold.ends_at, name))
        else:
            fields["forget_at"] = hold.ends_at
            context = context if hold.certainty < Certainty.EXACT else {}
        commands.append(("HSET", key, *_flat(fields), *_flat(context)))
        if hold.outcome is not Outcome.LIVE:
            # By the store's own clock, which may be far from the log's: a broom, as in ledger_holds.lua.
            lasts = max(0, hold.ends_at - books.clock_ms) + TOMBSTONE_TTL
            commands.append(("PEXPIRE", key, lasts))
    return commands


def _leases(books: RebuiltBooks) -> list[Command]:
    commands: list[Command] = []
    for name, lease in books.leases.items():
        key = org_key(books.org, f"lease:{name}")
        fields = {
            "state": lease.state.value,
            "windows": " ".join(lease.windows),
            "rest": " ".join(map(str, lease.rest.numbers())),
            "requests": lease.requests,
            "granted": lease.granted_at,
            "expires": lease.ends_at,
            "version": lease.version,
        }
        if lease.state in _LIVE_LEASES:
            commands.append(("ZADD", org_key(books.org, "leases"), lease.ends_at, name))
        else:
            fields["forget_at"] = lease.ends_at
        commands.append(("HSET", key, *_flat(fields), *_flat(prefixed(CONTEXT, lease.context))))
    return commands


def _limits(books: RebuiltBooks) -> list[Command]:
    fields = {
        account: f"{version}:{';'.join(map(window_text, windows))}"
        for account, (version, windows) in books.limits.items()
    }
    for account, override in books.overrides.items():
        text = ";".join(map(window_text, override.windows))
        fields[AccountId(f"!{account}")] = f"{int(override.frozen)}:{text}"
    commands: list[Command] = []
    if fields:
        commands.append(("HSET", org_key(books.org, "limits"), *_flat(fields)))
    for name, forget_at in books.adjusted.items():
        commands.append(("ZADD", org_key(books.org, "adjusted"), forget_at, name))
    return commands


def _flat(fields: Mapping[Any, Any]) -> list[Any]:
    return [value for pair in fields.items() for value in pair]


def _counters_of(hashes: Mapping[str, Mapping[str, str]]) -> dict[str, RebuiltCounter]:
    found: dict[str, RebuiltCounter] = {}
    for key, fields in hashes.items():
        window = key.removeprefix("w:").replace("|tokens|", "|", 1)
        if "|rolling-" in window:
            for start, text in fields.items():
                used, held, leased, credit = map(int, text.split())
                found[f"{window}|{start}"] = RebuiltCounter(
                    used=used, held=held, leased=leased, credit=credit
                )
        else:
            names = ("used", "held", "leased", "credit")
            found[window] = RebuiltCounter(**{name: int(fields.get(name, 0)) for name in names})
    return found


def _certainty(record: Mapping[str, str]) -> Certainty:
    return Certainty.stored(record.get("blind"))


def _hold_of(record: Mapping[str, str], live_until: UnixMillis | None) -> RebuiltHold:
    amounts = Amounts.of_numbers(map(int, [record["amount"], *record.get("parts", "0 0 0").split()]))
    certainty, posted = _certainty(record), Amounts()
    if certainty is Certainty.UNKNOWN:
        posted = amounts
    elif certainty is Certainty.PROVISIONAL:
        posted = Amounts.of_numbers(map(int, [record["posted"], *record["posted_parts"].split()]))
    correctable = certainty < Certainty.EXACT
    return RebuiltHold(
        windows=tuple(record["windows"].split()),
        amounts=amounts,
        version=int(record["version"]),
        context=unprefixed(CONTEXT, record),
        outcome=Outcome(record["state"]),
        posted=posted,
        certainty=certainty,
        ends_at=UnixMillis(int(record["forget_at"])) if correctable else live_until or UnixMillis(0),
    )


def _lease_of(record: Mapping[str, str]) -> RebuiltLease:
    state = LeaseState(record["state"])
    return RebuiltLease(
        windows=tuple(record["windows"].split()),
        rest=Amounts.of_numbers(map(int, record["rest"].split())),
        requests=int(record["requests"]),
        version=int(record["version"]),
        context=unprefixed(CONTEXT, record),
        state=state,
        granted_at=UnixMillis(int(record["granted"])),
        ends_at=UnixMillis(int(record["expires" if state in _LIVE_LEASES else "forget_at"])),
    )


def _override_of(text: str) -> RebuiltOverride:
    return RebuiltOverride(windows=_windows_of(text), frozen=text.startswith("1:"))


def _windows_of(text: str) -> tuple[Window, ...]:
    listed = text.partition(":")[2]
    return tuple(map(window_of, listed.split(";"))) if listed else ()
