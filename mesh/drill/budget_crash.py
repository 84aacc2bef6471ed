"""Drill ``budget-crash``: filters, bookkeeper and ledger die under load; do the books close to the token?"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any, Final

import orjson

from gateway.bookkeeper.verify import read_anchor
from gateway.budget.ledger import BudgetLedger
from gateway.budget.measure import Measure
from gateway.budget.redis_ledger import RedisLedger
from gateway.budget.redis_outbox import RedisOutbox
from gateway.budget.window import UNLIMITED, Account, Window, WindowKind
from gateway.config.environment import inherited
from gateway.contract.clock import Clock
from gateway.contract.errors import LedgerUnavailable
from gateway.contract.ids import AccountId, OrgId, RegionName
from gateway.events.event import Event
from gateway.events.reading import Reader
from gateway.events.verify import verify
from inference.twin import truth
from mesh.drill.catalogue import KILLS_SHARE, STALL_S, STORE_KILLS, STORE_STALLS, STUCK_S
from mesh.drill.crash import QUICK_BELOW, Toll, toll_of
from mesh.drill.drill import Aborted, Figures, Setup
from mesh.drill.judge import AccountBooks, Ending, Reconciled, Seen, book_figures
from mesh.drill.load import RUSH, RUSH_EVERY, Clients, asks
from mesh.drill.nursery import Plan
from mesh.drill.planted import planted_library
from mesh.drill.stage import LEDGER, Caller, Stage
from mesh.local.layout import CHECKOUT
from mesh.local.region import REGION
from mesh.local.up import DEFAULT_MODEL

CONCURRENCY: Final = 64
HOLD_TTL_MS: Final = 5_000
"""Of the drill's holds: longer than its answers, and the sweep comes in mid-drill."""
TOKENS_EACH: Final = 25
"""Of an average request, to size the budgets: four of five run out in the middle."""
RUSH_KEY: Final = "rush-"
RUSH_KEYS_MAX: Final = 16
RUSH_ROOM: Final = 500
"""Of 64 requests at once for some 2,000 tokens."""
STEADY_S: Final = 30.0
STEADY_KEYS: Final = 5
"""Those that are asked before anything counts: not the ones that many are to find untouched."""
USE_UP_S: Final = 120.0
QUIET_S: Final = 90.0
"""For holds to be resolved and events to be written, once the load is over: the holds' lives, the leases'
and their grace."""
LOOK_S: Final = 0.25
COMMAND_S: Final = 120.0


def callers_for(requests: int) -> tuple[Caller, ...]:
    """A key without limit beside one that runs out, an org that runs out under two keys, a tiny one; and keys
    with room for a few requests, on which all clients fall at once."""
    each = requests * TOKENS_EACH // 5
    rushes = min(RUSH_KEYS_MAX, max(1, requests // (RUSH * RUSH_EVERY)))
    return (
        Caller(org="drill-open", key="open", limit=-1, org_limit=-1),
        Caller(org="drill-open", key="tight", limit=max(200, each * 2 // 5), org_limit=-1),
        Caller(org="drill-shared", key="share-a", limit=-1, org_limit=max(300, each)),
        Caller(org="drill-shared", key="share-b", limit=max(200, each * 3 // 5), org_limit=max(300, each)),
        Caller(org="drill-tiny", key="tiny", limit=max(150, each // 10), org_limit=-1),
        *(
            Caller(org="drill-rush", key=f"{RUSH_KEY}{number}", limit=RUSH_ROOM, org_limit=-1)
            for number in range(rushes)
        ),
    )


class BudgetCrash:
    """One run."""

    def __init__(self, setup: Setup, clock: Clock) -> None:
        """Starts nothing."""
        self._setup, self._clock = setup, clock
        self._callers = callers_for(setup.requests)
        work = setup.work
        self._plan = Plan(
            seed=setup.seed,
            requests=setup.requests,
            journal=work / "journal.jsonl",
            deaths=work / "deaths.jsonl",
            calm=work / "calm",
            metrics=work / "state" / "metrics",
            lua=planted_library(setup.canary, work) if setup.canary else None,
            ttl_ms=HOLD_TTL_MS,
            leases=setup.leases,
        )
        self._stage = Stage(
            work,
            self._callers,
            self._plan,
            clock,
            engine_options=("--tokens-per-s", "200", "--answer-tokens", "4-40"),
            leases=setup.leases,
        )
        self._faults = Counter[str]()

    async def perform(self) -> Figures:
        """See Drill."""
        began = self._clock.monotonic_s()
        async with self._stage.running() as stage:
            self._setup.say(f"the gateway answers at {stage.base_url}")
            clients = Clients(stage.base_url, stage.api_keys, DEFAULT_MODEL, CONCURRENCY)
            await self._steady(clients)
            await self._load(clients)
            self._plan.calm.touch()
            ledger, outbox = RedisLedger.connect(stage.ledger_url), RedisOutbox.connect(stage.ledger_url)
            try:
                await self._quiet(ledger, outbox)
                await self._use_up(clients)
                await self._quiet(ledger, outbox)
                first = await self._reconcile()
                await self._quiet(ledger, outbox)
                second = await self._reconcile()
                books = await self._books(ledger)
                replayed = await self._command("replaying")
            finally:
                await ledger.aclose()
                await outbox.aclose()
            anchor = await read_anchor(stage.ledger_url, RegionName(REGION))
            report = verify(stage.layout.books, RegionName(REGION), anchor)
        seconds = self._clock.monotonic_s() - began
        figures = self._figures(clients.seen, books, first, second)
        differing = len(replayed["differences"])
        return {
            **figures,
            "replay_differs": differing,
            "books_clean": report.clean,
            "seconds": round(seconds, 1),
        }

    async def _steady(self, clients: Clients) -> None:
        """Keys are answered once before anything counts. Raises Aborted."""
        for caller in self._callers[:STEADY_KEYS]:
            asked = asks(self._setup.seed, [caller.key], kind="steady")
            try:
                async with asyncio.timeout(STEADY_S):
                    seen = await clients.once(next(asked))
                    while seen.ending is not Ending.ANSWERED:
                        await asyncio.sleep(LOOK_S)
                        seen = await clients.once(next(asked))
            except TimeoutError:
                raise Aborted(f"{caller.key} was not answered within {STEADY_S:.0f} s") from None

    async def _load(self, clients: Clients) -> None:
        """Raises Aborted when nothing moves any more."""
        enough = asyncio.Event()
        async with asyncio.TaskGroup() as tasks:
            keys = [caller.key for caller in self._callers]
            rush = [key for key in keys if key.startswith(RUSH_KEY)]
            others = [key for key in keys if key not in rush]
            if (
                self._setup.leases
            ):  # what refuses nothing comes every other time, for most leases are made there
                others = [key for other in others[1:] for key in (others[0], other)]
            asked = asks(self._setup.seed, others, rush=rush, busy=self._setup.leases)
            tasks.create_task(clients.run(asked, enough))
            tasks.create_task(self._break_store(clients))
            await self._watch(clients, enough)

    async def _use_up(self, clients: Clients) -> None:
        """Nothing dies any more and every hold has ended: ask on each limited key until it refuses. Room that
        should not be there is used now, so that it shows."""
        self._setup.say("using up what the budgets still have")

        async def one(key: str) -> None:
            for ask in asks(self._setup.seed, [key], kind="last"):
                # The smallest prompt there is: the budget refuses it only when next to nothing is left.
                seen = await clients.once(replace(ask, chat=False, words=1, leaves_after_s=0.0))
                if seen.ending is Ending.OVER_BUDGET:
                    return

        limited = [caller.key for caller in self._callers if max(caller.limit, caller.org_limit) >= 0]
        try:
            async with asyncio.timeout(USE_UP_S), asyncio.TaskGroup() as tasks:
                for key in limited:
                    tasks.create_task(one(key))
        except TimeoutError:
            raise Aborted(f"a budget was not used up within {USE_UP_S:.0f} s") from None

    async def _watch(self, clients: Clients, enough: asyncio.Event) -> None:
        moved_s, before, told = self._clock.monotonic_s(), len(clients.seen), 0
        while True:
            await asyncio.sleep(LOOK_S)
            count, toll = len(clients.seen), self._toll()
            done = count >= self._setup.requests and toll.kills >= self._setup.requests // KILLS_SHARE
            if done and min(toll.kills_by_label.values()) > 0:
                enough.set()
                return
            now_s = self._clock.monotonic_s()
            if count != before:
                moved_s, before = now_s, count
            elif now_s - moved_s > STUCK_S:
                raise Aborted(f"no request ended for {STUCK_S:.0f} s")
            tenth = 10 * count // self._setup.requests
            if tenth > told:
                told = tenth
                self._setup.say(f"{count} requests, {toll.kills} kills")

    async def _break_store(self, clients: Clients) -> None:
        """Kills and stalls of the ledger's Valkey, spread over the requests by the seed."""
        random = Random(f"{self._setup.seed}/store")
        whole = self._setup.requests >= QUICK_BELOW
        faults = ["kill"] * (STORE_KILLS if whole else 1) + ["stall"] * (STORE_STALLS if whole else 1)
        random.shuffle(faults)
        share = self._setup.requests / (len(faults) + 1)
        for place, fault in enumerate(faults, 1):
            due = int(share * (place + random.uniform(-0.3, 0.3)))
            while len(clients.seen) < due:  # noqa: ASYNC110  # many tasks end requests; a look is enough
                await asyncio.sleep(LOOK_S)
            seconds = random.uniform(*STALL_S)
            while not await self._broken(fault, seconds):  # noqa: ASYNC110  # it comes back from the one before
                await asyncio.sleep(LOOK_S)
            self._faults[fault] += 1

    async def _broken(self, fault: str, seconds: float) -> bool:
        return self._stage.kill(LEDGER) if fault == "kill" else await self._stage.freeze(LEDGER, seconds)

    async def _quiet(self, ledger: BudgetLedger, outbox: RedisOutbox) -> None:
        """Until nothing is held and every event is in the books; who waits in vain finds out by the figures.
        The bookkeeper's dying is over, so it comes to its end."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(QUIET_S):
                while not await self._is_quiet(ledger, outbox):  # noqa: ASYNC110  # other processes' work
                    await asyncio.sleep(LOOK_S)

    async def _is_quiet(self, ledger: BudgetLedger, outbox: RedisOutbox) -> bool:
        try:
            held = [books.held for books in await self._books(ledger)]
            waiting = [await outbox.outbox_length(OrgId(org)) for org in self._orgs()]
        except LedgerUnavailable:
            return False
        return not any(held) and not any(waiting)

    def _orgs(self) -> list[str]:
        return sorted({caller.org for caller in self._callers})

    async def _books(self, ledger: BudgetLedger) -> list[AccountBooks]:
        found: list[AccountBooks] = []
        for org in self._orgs():
            of_org = [caller for caller in self._callers if caller.org == org]
            limits = {"org": of_org[0].org_limit} | {f"key/{one.key}": one.limit for one in of_org}
            window = Window(kind=WindowKind.LIFETIME, limit=UNLIMITED)
            accounts = [Account(id=AccountId(name), windows=(window,)) for name in limits]
            standings = await ledger.standing(OrgId(org), accounts)
            found += [
                AccountBooks(
                    org=org,
                    account=one.account,
                    limit=limits[one.account],
                    used=one.used,
                    held=one.held,
                )
                for one in standings
                if one.measure is Measure.TOKENS and one.kind is WindowKind.LIFETIME
            ]
        return found

    async def _reconcile(self) -> dict[str, Any]:
        """The product's own command, on the engine's own word. Raises Aborted."""
        engine, policy = self._stage.engine_url, str(self._stage.layout.policy)
        return await self._command("reconcile", "--idle", "--engine", engine, "--policy", policy)

    async def _command(self, name: str, *arguments: str) -> dict[str, Any]:
        """What a command of gateway.bookkeeper says of these books. Raises Aborted when it says nothing."""
        command = [sys.executable, "-P", "-m", f"gateway.bookkeeper.{name}", "--json", *arguments]
        command += ["--books", str(self._stage.layout.books), "--region", REGION]
        process = await asyncio.create_subprocess_exec(
            *command,
            *("--ledger", self._stage.ledger_url),
            env={**inherited(), "PYTHONPATH": str(CHECKOUT)},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            async with asyncio.timeout(COMMAND_S):
                out, err = await process.communicate()
        except TimeoutError:
            raise Aborted(f"{name} did not end within {COMMAND_S:.0f} s") from None
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        if not out.startswith(b"{"):
            raise Aborted(f"{name} failed: {(err or out).decode().strip()}")
        report: dict[str, Any] = orjson.loads(out)
        return report

    def _toll(self) -> Toll:
        return toll_of(_lines(self._plan.journal), _lines(self._plan.deaths))

    def _events(self) -> Iterator[Event]:
        for record in Reader(self._stage.layout.books, RegionName(REGION)):
            yield record.event

    def _figures(
        self,
        seen: Sequence[Seen],
        books: Sequence[AccountBooks],
        first: Mapping[str, Any],
        second: Mapping[str, Any],
    ) -> dict[str, Any]:
        toll = self._toll()
        reconciled = Reconciled(
            unknown={one["id"]: one["tokens"] for one in second["unknown"]},
            unknown_windows={one["id"]: (one["org"], tuple(one["windows"])) for one in second["unknown"]},
            waste=dict(_summed(second["waste"])),
        )
        attempts = truth.read(self._stage.truth)
        found = book_figures(attempts, self._events(), books, reconciled, seen, toll)
        endings = Counter(one.ending for one in seen)
        lost = Counter(one.code for one in seen if one.ending is Ending.LOST)
        return {
            "requests": len(seen),
            "requests_asked": self._setup.requests,
            "leases_on": self._setup.leases,
            "answered": endings[Ending.ANSWERED],
            "left": endings[Ending.LEFT],
            "refused_budget": endings[Ending.OVER_BUDGET],
            "refused_closed": endings[Ending.CLOSED],
            "lost": endings[Ending.LOST],
            "lost_by_code": dict(sorted(lost.items())),
            "kills": toll.kills,
            "bookkeeper_kills": toll.bookkeeper_kills,
            "kills_by_label": toll.kills_by_label,
            "lost_taps": len(toll.lost_taps),
            "store_kills": self._faults["kill"],
            "store_stalls": self._faults["stall"],
            "holds": found.holds,
            "leases": found.leases,
            "drawn": found.drawn,
            "untold": found.untold,
            "produced": found.produced,
            "used": found.used,
            "overspent": found.overspent,
            "drift": found.drift,
            "unknown": found.unknown,
            "unknown_most": found.unknown_most,
            "unexplained": found.unexplained,
            "waste": found.waste,
            "leaked_holds": found.leaked_holds,
            "reconciled": {
                name: first[name] for name in ("released", "settled", "corrected", "leases_returned")
            },
            "changed_again": second["changed"],
        }


def _lines(path: Path) -> list[bytes]:
    return path.read_bytes().splitlines() if path.exists() else []


def _summed(waste: Sequence[Mapping[str, Any]]) -> Counter[str]:
    found = Counter[str]()
    for one in waste:
        found[one["request"]] += one["tokens"]
    return found
