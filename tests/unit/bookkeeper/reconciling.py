"""Books, engines and a ledger for tests of reconciling: what the memory ledger appended becomes events."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from gateway.bookkeeper.outbox_events import event_of
from gateway.bookkeeper.reconcile_engines import EngineRecord, EngineView
from gateway.bookkeeper.reconcile_run import Report, reconcile
from gateway.budget.ledger import Granted, HoldRequest, LeaseRequest
from gateway.budget.measure import Amounts, Price
from gateway.budget.memory_ledger import MemoryLedger
from gateway.budget.window import Account, Window, WindowKind
from gateway.contract.clock import ManualClock
from gateway.contract.ids import AccountId, HoldId, OrgId, RegionName
from gateway.contract.units import Millis, Tokens, UnixMillis
from gateway.events.event import Event, EventType
from gateway.models.catalogue import Prices

ORG = OrgId("acme")
REGION = RegionName("r")
NOW = 1_790_000_000_000
LIMIT = 100_000
ACCOUNT = Account(id=AccountId("org"), windows=(Window(kind=WindowKind.MONTH, limit=LIMIT),))
PRICE = Price(prompt=20_000, completion=80_000)


@dataclass
class Told:
    """An engine whose record is what a test says."""

    records: Sequence[EngineRecord] = ()
    complete: bool = True

    async def read(self) -> EngineView:
        attempts: dict[str, list[EngineRecord]] = {}
        for record in self.records:
            attempts.setdefault(record.rid, []).append(record)
        return EngineView(attempts=attempts, complete=self.complete)


def attempt(
    rid: str, prompt: int, completion: int, *, over: bool = True, finished: bool = False, at: int = NOW
) -> EngineRecord:
    return EngineRecord(
        rid=rid,
        prompt_tokens=Tokens(prompt),
        completion_tokens=Tokens(completion),
        cached_tokens=Tokens(0),
        over=over,
        finished=finished,
        started_ms=UnixMillis(at),
    )


def access(rid: str, *, upstream: str = "", code: int = 200, at: int = NOW, **context: str) -> Event:
    return Event(
        id=f"access/{rid}/{at}",
        type=EventType.ACCESS,
        at_ms=at,
        region=REGION,
        org=ORG,
        request_id=rid,
        hold=rid,
        attempt="1" if upstream else "",
        verdict=str(code),
        context={**({"upstream": upstream} if upstream else {}), **context} or None,
    )


@dataclass
class World:
    """A ledger, its clock, an engine, and the access log."""

    time: ManualClock = field(default_factory=lambda: ManualClock(NOW))
    engine: Told = field(default_factory=Told)
    log: list[Event] = field(default_factory=list)
    prices: dict[tuple[str, str], Prices] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.ledger = MemoryLedger(self.time)

    async def hold(self, rid: str, *, prompt: int = 10, units: int = 90) -> Granted:
        granted = await self.ledger.reserve(
            HoldRequest(
                hold=HoldId(rid),
                org=ORG,
                accounts=(ACCOUNT,),
                fixed=Tokens(prompt),
                units_wanted=Tokens(units),
                choices=1,
                units_min=Tokens(1),
                price=PRICE,
                ttl=Millis(900_000),
                policy_version=1,
                context={"request_id": rid, "model": "m", "revision": "1"},
            )
        )
        assert isinstance(granted, Granted)
        return granted

    async def lease(self, name: str, tokens: int) -> None:
        leased = await self.ledger.lease(
            LeaseRequest(
                lease=HoldId(name),
                org=ORG,
                accounts=(ACCOUNT,),
                wanted=Amounts.of(tokens // 2, tokens // 2, micro_usd=1_000),
                wanted_requests=4,
                least=Amounts(tokens=Tokens(1)),
                share=1,
                ttl=Millis(5_000),
                policy_version=1,
            )
        )
        assert leased is not None

    async def expire_all(self) -> None:
        """An hour later, the clock confirmed on the way, everything overdue is charged."""
        for _ in range(120):
            self.time.advance_ms(30_000)
            await self.ledger.tick(ORG)
        await self.ledger.expire(ORG)

    def events(self) -> Iterator[Event]:
        for number, entry in enumerate(self.ledger.outbox, 1):
            yield event_of(REGION, ORG, f"{entry['at_ms']}-{number}", entry)
        yield from self.log

    async def reconcile(self, *, idle: bool = False) -> Report:
        return await reconcile(
            self.ledger, self.events(), [self.engine], self.time, idle=idle, prices=self.prices
        )

    async def used_and_held(self) -> tuple[int, int]:
        (standing,) = await self.ledger.standing(ORG, [ACCOUNT])
        return standing.used, standing.held
