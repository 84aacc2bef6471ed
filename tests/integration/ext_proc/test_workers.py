"""Two real workers with a real ledger and a real cache, spoken to as Envoy does: admit on one, tap on the
other, since nothing may be shared but the admission record."""

from __future__ import annotations

import asyncio
import itertools
import re
import signal
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import orjson
import pytest
import redis.asyncio

from gateway.budget.admission import AdmissionRecord, CacheStatus
from gateway.budget.redis_connection import connect
from gateway.budget.redis_ledger import RedisLedger
from gateway.contract.ids import HoldId, OrgId
from gateway.contract.units import Millis
from gateway.telemetry.metrics import exposition
from tests.harness.gateway import UNTIL_S
from tests.harness.valkey import StoreProcess, cache_store, ledger_store
from tests.integration.ext_proc.worker import (
    EOF,
    Worker,
    admit,
    request_headers,
    response_body,
    response_headers,
    stream,
    write_policy,
)
from tests.unit.ext_proc.engine_answers import WHOLE, words
from tests.unit.ext_proc.streams import ACCOUNTS

ACME = OrgId("acme")
PATIENT = Millis(5000)
"""A test's own ledger calls are not about deadlines."""
LOOKED_UP_MAX = 100
"""Times, for a hit."""


def ledger_at(url: str) -> RedisLedger:
    return RedisLedger(connect(url, timeout=PATIENT), deadline=PATIENT)


class Site:
    """Stores, workers, and the books."""

    def __init__(self, directory: Path, ledger: StoreProcess, cache: StoreProcess) -> None:
        self.directory = directory
        self.ledger_store = ledger
        self.cache_store = cache
        self.first, self.second = self.worker("a"), self.worker("b")
        self.ledger = ledger_at(ledger.url)

    def worker(self, name: str) -> Worker:
        return Worker(self.directory, name, ledger_url=self.ledger_store.url, cache_url=self.cache_store.url)

    async def start(self) -> None:
        await self.ledger.found_epoch(fresh=True)
        await asyncio.gather(self.first.ready(), self.second.ready())
        await self.ledger.aclose()

    async def counts(self) -> tuple[int, int]:
        """Used and held of the org's month."""
        standings = await self.ledger.standing(ACME, ACCOUNTS)
        return standings[1].used, standings[1].held


@pytest.fixture(scope="module")
def running() -> Iterator[Site]:
    with (
        tempfile.TemporaryDirectory(prefix="tg-proc-") as directory,
        ledger_store() as ledger,
        cache_store() as cache,
    ):
        write_policy(Path(directory))
        made = Site(Path(directory), ledger, cache)
        try:
            asyncio.run(made.start())
            yield made
        finally:
            made.first.kill()
            made.second.kill()


@pytest.fixture
async def site(running: Site) -> AsyncIterator[Site]:
    running.ledger = ledger_at(running.ledger_store.url)
    yield running
    await running.ledger.aclose()


async def until(ask: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(UNTIL_S):
        while not await ask():  # noqa: ASYNC110  # the ledger is another process and tells nobody
            await asyncio.sleep(0.01)


async def test_admitted_by_one_worker_settled_by_the_other_and_then_repeated(site: Site) -> None:
    used, held = await site.counts()
    decision, record = await missed(site)
    assert await site.counts() == (used, held + record.amount)
    async with stream(site.second, "tap") as answer:
        await answer.send(response_headers(decision))
        await answer.send(response_body(WHOLE))
        assert (await answer.read()).WhichOneof("response") == "response_headers"
        forwarded = (await answer.read()).response_body.response.body_mutation.body
        assert forwarded.endswith(b"data: [DONE]\n\n")
        assert await site.counts() == (used + 18, held), "settled before [DONE] was released"
        await answer.ask(response_body(b"", end=True))
        assert await answer.read() is EOF
    await until(lambda: stored(site))
    for worker in (site.first, site.second):
        hit = await answered_at_once(site, worker)
        assert orjson.loads(hit.body)["choices"][0]["message"]["content"] == "hello"
    assert await site.counts() == (used + 18, held), "a hit costs nothing"


async def missed(site: Site) -> tuple[Any, AdmissionRecord]:
    """The decision after a look-up that found nothing. One that took longer than the cache's 25 ms counts as
    none: its hold is given back."""
    for number in range(LOOKED_UP_MAX):
        decision = await admit(site.first, f"r-crossed-{number}", stream=True)
        written = decision.dynamic_metadata.fields["tidegate.admit"].struct_value.fields
        record = AdmissionRecord.from_fields({name: value.string_value for name, value in written.items()})
        if record.cache is CacheStatus.MISS:
            return decision, record
        await site.ledger.void(ACME, HoldId(f"r-crossed-{number}"), reason="test")
    raise AssertionError(record)


async def answered_at_once(site: Site, worker: Worker) -> Any:
    """The hit; as ``missed``."""
    for number in range(LOOKED_UP_MAX):
        name = f"r-hit-{worker.socket.stem}-{number}"
        reply = await admit(worker, name)
        if reply.immediate_response.status.code == 200:
            return reply.immediate_response
        await site.ledger.void(ACME, HoldId(name), reason="test")
    raise AssertionError(reply)


async def test_both_workers_are_counted_together(site: Site) -> None:
    await asyncio.gather(
        *(
            admit(worker, f"r-count-{worker.socket.stem}", model="nope")
            for worker in (site.first, site.second)
        )
    )
    shown = exposition(str(site.directory / "metrics")).decode()
    counted = re.search(
        r'tidegate_admissions_total{code="model_not_found",verdict="refused"} ([0-9.]+)', shown
    )
    assert counted is not None
    assert float(counted[1]) >= 2
    assert "tidegate_ledger_duration_seconds_bucket" in shown


async def stored(site: Site) -> bool:
    """Whether the cache has an entry beside the org's epoch."""
    client = redis.asyncio.from_url(site.cache_store.url)
    try:
        return bool(await client.dbsize() > 1)
    finally:
        await client.aclose()


async def test_a_client_that_leaves_in_mid_stream_pays_what_was_seen(site: Site) -> None:
    used, held = await site.counts()
    decision = await admit(site.first, "r-left", temperature=1, stream=True)
    async with stream(site.second, "tap") as answer:
        await answer.send(response_headers(decision))
        await answer.send(response_body(words("a", "b")))
        await answer.read()
        await answer.read()
    await until(lambda: is_at(site, used + 18, held))


async def is_at(site: Site, used: int, held: int) -> bool:
    return await site.counts() == (used, held)


async def test_a_peer_that_ends_before_the_decision_meets_an_error(site: Site) -> None:
    async with stream(site.first, "admit") as asked:
        await asked.ask(request_headers("r-half"))
        await asked.call.done_writing()
        with pytest.raises(grpc.aio.AioRpcError):
            await asked.read()
        assert await asked.call.code() is grpc.StatusCode.INTERNAL


async def test_a_frozen_ledger_closes_in_time_and_leaves_nothing_held(site: Site) -> None:
    used, held = await site.counts()
    site.ledger_store.freeze()
    try:
        async with asyncio.timeout(2):
            reply = (await admit(site.first, "r-frozen", temperature=1)).immediate_response
    finally:
        site.ledger_store.thaw()
    assert reply.status.code == 503
    assert orjson.loads(reply.body)["error"]["code"] == "budget_unavailable"
    await until(lambda: is_at(site, used, held))


async def test_a_dead_cache_is_a_miss(site: Site) -> None:
    site.cache_store.kill()
    try:
        decision = await admit(site.first, "r-uncached", seed=77)
    finally:
        site.cache_store.start()
    assert decision.WhichOneof("response") == "request_body"
    async with stream(site.second, "tap") as answer:
        await answer.send(response_headers(decision, 400, "application/json"))
        await answer.send(response_body(b'{"object":"error","message":"no","code":400}', end=True))
        written = (await answer.read()).response_headers.response.header_mutation.set_headers
        assert {option.header.key: option.header.raw_value for option in written}[":status"] == b"400"
        assert b"invalid_request_error" in (await answer.read()).response_body.response.body_mutation.body
        assert await answer.read() is EOF


async def test_a_budget_is_never_overspent_whichever_worker_is_asked(site: Site) -> None:
    names = [f"r-many-{number}" for number in range(40)]

    async def status(number: int) -> int:
        worker = (site.first, site.second)[number % 2]
        reply = await admit(worker, f"r-many-{number}", temperature=1, max_tokens=600)
        return int(reply.immediate_response.status.code)

    statuses = await asyncio.gather(*map(status, range(len(names))))
    # 503: the ledger took longer than the 50 ms of a reservation, on a busy machine.
    assert set(statuses) <= {0, 429, 503} and 429 in statuses
    while await status(len(names)) != 429:
        names.append(f"r-many-{len(names)}")
    used, held = await site.counts()
    assert used + held <= 10_000
    assert held > 9_000
    for name in names:
        await site.ledger.void(ACME, HoldId(name), reason="test")


async def test_a_killed_tap_leaves_the_hold_to_the_sweep_and_a_stopped_one_settles(site: Site) -> None:
    used, held = await site.counts()
    workers = site.worker("killed"), site.worker("stopped")
    try:
        await asyncio.gather(*(worker.ready() for worker in workers))
        for number, worker in enumerate(workers):
            decision = await admit(site.first, f"r-end-{number}", temperature=1, stream=True, max_tokens=50)
            async with stream(worker, "tap") as answer:
                await answer.send(response_headers(decision))
                await answer.ask(response_body(words("a")))
                await answer.read()
                if number == 0:
                    worker.kill()
                    continue
                worker.process.send_signal(signal.SIGTERM)
                await answer.ask(response_body(WHOLE[len(words("hel", "lo")) :]))
                await answer.ask(response_body(b"", end=True))
        assert await asyncio.to_thread(workers[1].process.wait, 30) == 0, workers[1].log()
    finally:
        for worker in workers:
            worker.kill()
    after = await site.counts()
    assert after[0] == used + 18
    assert after[1] > held
    await site.ledger.void(ACME, HoldId("r-end-0"), reason="test")
    assert await site.counts() == (used + 18, held)


async def test_a_changed_cache_policy_is_in_force_without_a_restart(site: Site) -> None:
    file, numbers = site.directory / "cache.yaml", itertools.count()

    async def looked_up() -> bool:
        """Whether a sampled request was: by the policy without a file none is."""
        name = f"r-policy-{next(numbers)}"
        # Each asks something else: one that asks the same would wait for the first one's answer.
        decision = await admit(site.first, name, temperature=1, messages=[{"role": "user", "content": name}])
        await site.ledger.void(ACME, HoldId(name), reason="test")
        written = decision.dynamic_metadata.fields["tidegate.admit"].struct_value.fields
        return bool(written["cache"].string_value == CacheStatus.MISS.value)

    async def bypassed() -> bool:
        return not await looked_up()

    assert await bypassed()
    try:
        file.write_text("version: 1\nrules: [{name: every, mode: all}]\n")
        await until(looked_up)
        file.write_text("version: 2\nrules: [{name: every, mode: most}]\n")
        await until(lambda: refused(site))
        await until(looked_up)
    finally:
        file.unlink()
    await until(bypassed)


async def refused(site: Site) -> bool:
    """Whether a worker has told that it does not take cache.yaml."""
    return "cache.yaml:2: rules[0].mode: 'most' is not allowed" in site.first.log()
