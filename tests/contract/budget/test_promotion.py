"""The primary is lost under load and its replica promoted: what was confirmed is there, the old one is
fenced."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from gateway.budget.ledger import Adjustment, AdjustmentKind, Granted, Outcome
from gateway.budget.redis_connection import connect
from gateway.budget.redis_keys import EPOCH_KEY, org_key, term_of
from gateway.budget.redis_ledger import RedisLedger
from gateway.budget.redis_promotion import promote
from gateway.budget.window import Account
from gateway.contract.errors import LedgerEmptied, LedgerUnavailable
from gateway.contract.ids import HoldId, OrgId
from gateway.contract.units import Millis
from mesh.cli import main
from tests.contract.budget.conftest import binary_of
from tests.contract.budget.subjects import ORG, PATIENT, account, used, want
from tests.harness.valkey import StoreProcess, replicated_store

MUCH = account(minute=10**12, month=10**12)
H = HoldId("h")
CONFIRMED_FIRST = 200
"""Settles before the primary is killed."""


@dataclass(slots=True)
class Pair:
    """``url`` leads to the primary, as a service's name would; ``points_to`` moves it."""

    primary: StoreProcess
    replica: StoreProcess
    link: Path
    ledgers: list[RedisLedger] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"unix://{self.link}"

    def points_to(self, store: StoreProcess) -> None:
        self.link.unlink(missing_ok=True)
        self.link.symlink_to(store.socket)

    def ledger(self, url: str, *, replicas: int = 1, deadline: Millis = PATIENT) -> RedisLedger:
        """Another process's; closed with the test."""
        made = RedisLedger(connect(url, timeout=deadline), deadline=deadline, replicas=replicas)
        self.ledgers.append(made)
        return made


@pytest.fixture(params=["valkey", "redis"])
async def pair(request: pytest.FixtureRequest) -> AsyncIterator[Pair]:
    with replicated_store(binary_of(request.param)) as (primary, replica):
        made = Pair(primary, replica, primary.directory / "now.sock")
        made.points_to(primary)
        yield made
        for ledger in made.ledgers:
            await ledger.aclose()


async def load(ledger: RedisLedger, worker: int, confirmed: dict[HoldId, int], enough: asyncio.Event) -> None:
    """Reserve and settle until the store is lost."""
    n = 0
    while True:
        n += 1
        hold, tokens = HoldId(f"w{worker}-{n}"), n % 7
        try:
            await ledger.reserve(want(hold, MUCH, units=10))
            await ledger.settle(ORG, hold, used(tokens))
        except LedgerUnavailable:
            return
        confirmed[hold] = tokens
        if len(confirmed) >= CONFIRMED_FIRST:
            enough.set()


async def test_no_confirmed_settle_is_lost_with_the_primary(pair: Pair) -> None:
    ledger = pair.ledger(pair.url)
    await ledger.found_epoch(fresh=True)
    confirmed: dict[HoldId, int] = {}
    enough = asyncio.Event()
    workers = [asyncio.create_task(load(ledger, n, confirmed, enough)) for n in range(8)]
    await enough.wait()
    pair.primary.kill()
    await asyncio.gather(*workers)

    done = await promote(pair.replica.url, pair.primary.url)
    pair.points_to(pair.replica)
    assert (done.orgs, done.fenced) == (1, False)
    heir = pair.ledger(pair.url, replicas=0)
    for hold, tokens in confirmed.items():
        again = await heir.settle(ORG, hold, used(99))
        assert (again.outcome, again.first, again.posted.tokens) == (Outcome.POSTED, False, tokens), hold
    assert (await heir.standing(ORG, (MUCH,)))[1].used >= sum(confirmed.values())

    # It is started again with its old books and epoch, and the name leads to it: neither who wants
    # confirmations nor who has met its successor writes there.
    pair.primary.start()
    stranger = pair.ledger(pair.primary.url, deadline=Millis(400))
    with pytest.raises(LedgerUnavailable):
        await stranger.reserve(want("stray", MUCH))
    pair.replica.kill()
    pair.points_to(pair.primary)
    with pytest.raises(LedgerUnavailable):
        await heir.orgs()  # meets the broken connection
    with pytest.raises(LedgerEmptied):
        await heir.orgs()
    with pytest.raises(LedgerEmptied):
        await heir.reserve(want("i", MUCH))


async def test_a_worker_goes_on_at_the_new_primary(pair: Pair) -> None:
    worker = pair.ledger(pair.url, replicas=0)
    first = await worker.found_epoch(fresh=True)
    await worker.reserve(want("h", MUCH, units=10))
    done = await promote(pair.replica.url, pair.primary.url)
    assert done.fenced
    assert term_of(done.epoch) > term_of(first)
    with pytest.raises(LedgerEmptied):
        await worker.settle(ORG, H, used(3))
    pair.points_to(pair.replica)
    pair.primary.kill()
    with pytest.raises(LedgerUnavailable):
        await worker.found_epoch(fresh=False)  # meets the broken connection
    assert await worker.found_epoch(fresh=False) == done.epoch
    settled = await worker.settle(ORG, H, used(3))
    assert (settled.first, settled.posted.tokens) == (True, 3)


async def test_as_a_command(pair: Pair, capsys: pytest.CaptureFixture[str]) -> None:
    ledger = pair.ledger(pair.url, replicas=0)
    await ledger.found_epoch(fresh=True)
    await ledger.reserve(want("h", MUCH))
    words = ["ledger", "promote", "--replica", pair.replica.url, "--old", pair.primary.url, "--json"]
    assert await asyncio.to_thread(main, words) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["orgs"], told["fenced"]) == (1, True)
    assert await asyncio.to_thread(main, [*words[:4], "--old", pair.replica.url]) == 0, "its own primary now"
    capsys.readouterr()
    assert await asyncio.to_thread(main, ["ledger", "promote", "--replica", "unix:///nowhere"]) == 1
    assert "see that --replica answers" in capsys.readouterr().err


async def test_a_fenced_primary_is_closed_to_all(pair: Pair) -> None:
    ledger = pair.ledger(pair.url, replicas=0)
    await ledger.found_epoch(fresh=True)
    for org in ("acme", "beta"):
        await ledger.reserve(want("h", MUCH, org=OrgId(org)))
    await promote(pair.replica.url, pair.primary.url)
    newcomer = pair.ledger(pair.primary.url, replicas=0)
    for one in (ledger, newcomer):
        with pytest.raises(LedgerEmptied):
            await one.reserve(want("i", MUCH))
    client = connect(pair.primary.url, timeout=PATIENT)
    assert await client.hget(org_key(ORG, "meta"), "epoch") != await client.get(EPOCH_KEY)
    await client.aclose()


async def test_the_old_primary_joins_as_the_replica_that_confirms(pair: Pair) -> None:
    ledger = pair.ledger(pair.url, replicas=0)
    await ledger.found_epoch(fresh=True)
    await ledger.reserve(want("h", MUCH, units=10))
    await promote(pair.replica.url, pair.primary.url)
    strict = pair.ledger(pair.replica.url, deadline=Millis(400))
    with pytest.raises(LedgerUnavailable):
        await strict.reserve(want("i", MUCH))
    client = connect(pair.primary.url, timeout=PATIENT)
    await client.execute_command("REPLICAOF", "127.0.0.1", pair.replica.port)
    while (await client.info("replication"))["master_link_status"] != "up":
        pass  # each round asks the store
    await client.aclose()
    # The first try was done and not confirmed; the same id again is the same hold.
    patient = pair.ledger(pair.replica.url)
    again = await patient.reserve(want("i", MUCH))
    assert isinstance(again, Granted)
    assert again.repeated


async def test_what_is_repeated_is_confirmed_anew(pair: Pair) -> None:
    """A repeated call over another connection waits for what the first one wrote."""
    ledger = pair.ledger(pair.url, replicas=0)
    await ledger.found_epoch(fresh=True)
    await ledger.reserve(want("h", MUCH, units=10))
    freeze = Adjustment(
        id=HoldId("a"),
        kind=AdjustmentKind.FREEZE,
        account=Account(id=MUCH.id, windows=()),
        actor="op",
        reason="leak",
    )
    pair.replica.freeze()
    hasty = [pair.ledger(pair.url, deadline=Millis(400)) for _ in range(3)]
    for one in hasty[:2]:
        with pytest.raises(LedgerUnavailable):
            await one.settle(ORG, H, used(3))
    with pytest.raises(LedgerUnavailable):
        await hasty[2].void(ORG, H, reason="x")
    for one in [pair.ledger(pair.url, deadline=Millis(400)) for _ in range(2)]:
        with pytest.raises(LedgerUnavailable):
            await one.adjust(ORG, freeze)
    pair.replica.thaw()
    assert all(one.frozen for one in await pair.ledger(pair.url).adjust(ORG, freeze))
    again = await pair.ledger(pair.url).settle(ORG, H, used(3))
    assert (again.first, again.posted.tokens) == (False, 3)


async def test_only_a_replica_with_books_is_promoted(pair: Pair) -> None:
    with pytest.raises(LedgerEmptied):
        await promote(pair.replica.url, pair.primary.url)
    await pair.ledger(pair.url, replicas=0).found_epoch(fresh=True)
    with pytest.raises(ValueError, match="confused"):
        await promote(pair.primary.url, pair.replica.url)
    with pytest.raises(LedgerUnavailable):
        await promote(f"unix://{pair.link}.none")
