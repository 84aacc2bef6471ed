"""Orgs on the shards of a cluster: each on one, every verb, a shard that is emptied, slots that move."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from gateway.budget.ledger import Adjustment, AdjustmentKind, Granted, LeaseState, Outcome
from gateway.budget.measure import Amounts
from gateway.budget.redis_keys import CLUSTER_ORGS_KEY, EPOCH_KEY, org_key
from gateway.budget.redis_ledger import RedisLedger
from gateway.budget.redis_outbox import START, RedisOutbox
from gateway.budget.redis_restore import Restoring
from gateway.budget.redis_route import ClusterRoute, connect_cluster, route_to
from gateway.budget.window import Window, WindowKind
from gateway.contract.clock import SystemClock
from gateway.contract.errors import LedgerEmptied, LedgerUnavailable
from gateway.contract.ids import HoldId, OrgId
from gateway.contract.units import Millis
from tests.contract.budget.conftest import binary_of
from tests.contract.budget.subjects import PATIENT, account, draw_of, lend, of, used, want
from tests.harness.cluster import Cluster, cluster

ORGS = tuple(OrgId(f"org-{n}") for n in range(12))
H = HoldId("h")
LIMITED = account(minute=1000)
BERLIN = of("key/k", Window(kind=WindowKind.DAY, limit=500, zone="Europe/Berlin"))


@pytest.fixture(scope="module", params=["valkey", "redis"])
def nodes(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    with cluster(binary_of(request.param)) as started:
        yield started


@pytest.fixture
async def client(nodes: Cluster) -> AsyncIterator[Any]:
    """The driver's, for looking; the cluster is empty."""
    opened = connect_cluster(nodes.url, timeout=PATIENT)
    await opened.flushall(target_nodes=opened.PRIMARIES)
    yield opened
    await opened.aclose()


@pytest.fixture
async def ledger(nodes: Cluster, client: Any) -> AsyncIterator[RedisLedger]:
    made = RedisLedger(None, deadline=PATIENT, route=route_to(nodes.url, timeout=PATIENT))
    await made.found_epoch(fresh=True)
    yield made
    await made.aclose()


def shard(client: Any, key: str) -> str:
    """The node that has it."""
    name: str = client.get_node_from_key(key).name
    return name


async def test_every_verb_works_for_orgs_on_every_shard(ledger: RedisLedger, client: Any) -> None:
    assert len({shard(client, org_key(org, "meta")) for org in ORGS}) == 3
    for org in ORGS:
        grant = await ledger.reserve(want("h", LIMITED, BERLIN, units=400, org=org))
        assert isinstance(grant, Granted)
        assert (await ledger.extend(org, H, Millis(3_600_000))).first
        assert (await ledger.settle(org, H, used(100))).outcome is Outcome.POSTED
        await ledger.reserve(want("v", LIMITED, BERLIN, org=org))
        assert (await ledger.void(org, HoldId("v"), reason="x")).outcome is Outcome.VOIDED
        await ledger.note(org, "cache.hit", {})
        assert [one.used for one in await ledger.standing(org, (LIMITED, BERLIN))] == [100, 100, 100]
        assert await ledger.accounts(org) == ["key/k", "org"]
        await ledger.tick(org)
    assert await ledger.orgs() == sorted(ORGS)
    assert set(await client.smembers(CLUSTER_ORGS_KEY)) == set(ORGS)
    assert shard(client, CLUSTER_ORGS_KEY) == shard(client, EPOCH_KEY)


async def test_leases_and_changes_on_a_cluster(ledger: RedisLedger) -> None:
    request = lend("l", LIMITED)
    lent = await ledger.lease(request)
    assert lent is not None
    draw = draw_of(lent, "d", now=SystemClock().unix_ms())
    assert await ledger.draw(request.org, lent.lease, [draw]) is LeaseState.LIVE
    assert (await ledger.settle(request.org, draw.hold, used(5))).posted == used(5)
    assert await ledger.return_lease(request.org, lent.lease) is LeaseState.RETURNED
    frozen = Adjustment(
        id=HoldId("a"), kind=AdjustmentKind.FREEZE, account=of("org"), actor="root", reason="test"
    )
    assert all(one.frozen for one in await ledger.adjust(request.org, frozen))
    assert list(await ledger.expire(request.org)) == []


async def test_a_cluster_without_an_epoch_is_closed(ledger: RedisLedger, client: Any) -> None:
    await ledger.reserve(want("h", org=ORGS[0]))
    await client.delete(EPOCH_KEY)
    with pytest.raises(LedgerEmptied):
        await ledger.reserve(want("h", org=ORGS[1]))


async def test_an_emptied_shard_closes_its_orgs_only(
    ledger: RedisLedger, nodes: Cluster, client: Any
) -> None:
    for org in ORGS:
        await ledger.reserve(want("h", org=org))
    apart = [org for org in ORGS if shard(client, org_key(org, "meta")) != shard(client, EPOCH_KEY)]
    lost = shard(client, org_key(apart[0], "meta"))
    await client.flushall(target_nodes=client.get_node(node_name=lost))
    late = RedisLedger(None, deadline=PATIENT, route=route_to(nodes.url, timeout=PATIENT))
    for org in ORGS:
        late._session.forget_books()
        late._session._epoch_again_at = float("-inf")
        if shard(client, org_key(org, "meta")) == lost:
            with pytest.raises(LedgerEmptied):
                await late.reserve(want("i", org=org))
        else:
            assert isinstance(await late.reserve(want("i", org=org)), Granted)
    await late.aclose()


async def test_the_shard_of_the_epoch_emptied_opens_nobody(
    ledger: RedisLedger, nodes: Cluster, client: Any
) -> None:
    for org in ORGS:
        await ledger.reserve(want("h", org=org))
    await client.flushall(target_nodes=client.get_node_from_key(EPOCH_KEY))
    late = RedisLedger(None, deadline=PATIENT, route=route_to(nodes.url, timeout=PATIENT))
    for org in ORGS:
        with pytest.raises(LedgerEmptied):
            await late.reserve(want("i", org=org))
    await late.aclose()


async def test_a_slot_that_moved_is_followed(ledger: RedisLedger, nodes: Cluster, client: Any) -> None:
    org = ORGS[0]
    await ledger.reserve(want("h", org=org, units=300))
    slot = client.keyslot(org_key(org, "meta"))
    owner = shard(client, org_key(org, "meta"))
    ids = {node.port: node.command("CLUSTER", "MYID").split("\r\n")[1] for node in nodes.nodes}
    source = next(node for node in nodes.nodes if owner.endswith(f":{node.port}"))
    target = next(node for node in nodes.nodes if node is not source)
    target.command("CLUSTER", "SETSLOT", slot, "IMPORTING", ids[source.port])
    source.command("CLUSTER", "SETSLOT", slot, "MIGRATING", ids[target.port])
    for key in await client.keys(org_key(org, "*").replace("{", "[{]"), target_nodes=client.PRIMARIES):
        source.command("MIGRATE", "127.0.0.1", target.port, key, 0, 5000)
    with pytest.raises(LedgerUnavailable):
        await ledger.reserve(want("i", org=org, units=300))
    for node in (target, source, *nodes.nodes):
        node.command("CLUSTER", "SETSLOT", slot, "NODE", ids[target.port])
    moved = await ledger.reserve(want("i", org=org, units=1000))
    assert isinstance(moved, Granted)
    assert moved.units == 700


async def test_who_took_over_from_a_silent_node_is_found_though_calls_give_up_before_the_driver() -> None:
    with cluster() as nodes:
        # As a worker's (ext_proc/worker_ledger.py): the driver would wait longer than the ledger does.
        ledger = RedisLedger(None, route=route_to(nodes.url, timeout=PATIENT))
        await ledger.found_epoch(fresh=True)
        looking = connect_cluster(nodes.url, timeout=PATIENT)
        await looking.initialize()
        org = next(org for org in ORGS if shard(looking, org_key(org, "meta")) != shard(looking, EPOCH_KEY))
        assert isinstance(await ledger.reserve(want("h", org=org)), Granted)
        slot, owner = looking.keyslot(org_key(org, "meta")), shard(looking, org_key(org, "meta"))
        silent = next(node for node in nodes.nodes if owner.endswith(f":{node.port}"))
        heir, other = (node for node in nodes.nodes if node is not silent)
        name = heir.command("CLUSTER", "MYID").split("\r\n")[1]
        silent.process.send_signal(signal.SIGSTOP)
        with pytest.raises(LedgerUnavailable):
            await ledger.reserve(want("i", org=org))
        for node in (heir, other):
            node.command("CLUSTER", "SETSLOT", slot, "NODE", name)
        async with asyncio.timeout(20):
            while not await _is_emptied(ledger, org):
                pass
        await looking.aclose()
        await ledger.aclose()


async def _is_emptied(ledger: RedisLedger, org: OrgId) -> bool:
    """Whether the call came to a store, which has not got the org's books."""
    try:
        await ledger.reserve(want("j", org=org))
    except LedgerEmptied:
        return True
    except LedgerUnavailable:
        return False
    raise AssertionError("the heir has no books")


async def test_books_come_back_to_a_cluster(ledger: RedisLedger, nodes: Cluster, client: Any) -> None:
    for org in ORGS[:4]:
        await ledger.reserve(want("h", BERLIN, org=org, units=100))
    restoring = Restoring.connect(nodes.url)
    before = [await restoring.snapshot(org) for org in ORGS[:4]]
    await client.flushall(target_nodes=client.PRIMARIES)
    await restoring.begin()
    for books in before:
        await restoring.write(books)
        assert await restoring.expire(books.org) == []
    await restoring.open()
    assert [await restoring.snapshot(org) for org in ORGS[:4]] == before
    ledger._session._epoch_again_at = float("-inf")
    settled = await ledger.settle(ORGS[0], H, Amounts())
    assert settled.outcome is Outcome.POSTED
    await restoring.aclose()


async def test_the_outbox_is_read_from_a_cluster(ledger: RedisLedger, nodes: Cluster) -> None:
    await ledger.note(ORGS[3], "cache.hit", {"n": "1"})
    outbox = RedisOutbox.connect(nodes.url)
    found = await outbox.read_outbox(ORGS[3], START, 10)
    assert [entry["c.n"] for _, entry in found] == ["1"]
    await outbox.drop_outbox(ORGS[3], [found[0][0]])
    assert await outbox.outbox_length(ORGS[3]) == 0
    await outbox.aclose()


@pytest.mark.parametrize("url", ["redis+cluster://", "redis+cluster://host", "redis+cluster://host:1/3"])
def test_a_bad_cluster_url_is_named(url: str) -> None:
    with pytest.raises(ValueError, match="store URL"):
        RedisLedger.connect(url)


async def test_a_cluster_that_is_not_there(nodes: Cluster) -> None:
    route = ClusterRoute(
        connect_cluster("redis+cluster://127.0.0.1:1", timeout=Millis(100)), timeout=Millis(100)
    )
    nobody = RedisLedger(None, route=route)
    with pytest.raises(LedgerUnavailable):
        await nobody.found_epoch(fresh=True)
    await nobody.aclose()
