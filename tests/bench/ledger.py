"""``./tidegate bench ledger``: what reserve and settle cost on a real Valkey, by the way they take there, and
what the budget adds to a request's way.

Ways, all with the same calls of the library: ``lane``, one connection of a process, the product's; ``pool``,
redis-py's own pool, a connection for each call; ``pipeline``, redis-py's pipeline of all calls that wait;
``leases``, the lane behind worker leases. Slices of the ways alternate; medians over the rounds.

The road: the whole path with and without leases, slices alternating, and how long admit and tap waited for
the ledger, by their own metrics.
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import httpx
import uvloop

from gateway.budget.leasing_ledger import LeasingLedger
from gateway.budget.ledger import BudgetLedger, Granted, HoldRequest
from gateway.budget.measure import Amounts
from gateway.budget.policy import LeasePolicy
from gateway.budget.redis_connection import connect
from gateway.budget.redis_ledger import RedisLedger
from gateway.budget.redis_route import SingleRoute
from gateway.budget.window import Account, Window, WindowKind
from gateway.contract.clock import SystemClock
from gateway.contract.ids import AccountId, HoldId, OrgId
from gateway.contract.units import Millis, Tokens
from tests.bench.load import SCENARIOS, compiled, run_slice
from tests.bench.targets import MODEL, ROOT, Upstream
from tests.harness.gateway import Gateway, overlay
from tests.harness.valkey import ledger_store

WAYS: Final = ("lane", "pool", "pipeline", "leases")
ACCOUNTS: Final = (1, 6)
CONCURRENCY: Final = (1, 32)
ROUNDS: Final = 3
ORG: Final = OrgId("bench")
PATIENT: Final = Millis(5_000)
"""A slow answer is a figure here, not a failure."""
LEASES: Final = LeasePolicy(enabled=True)
ROAD: Final = ("json c=32", "json c=1")


class PoolRoute(SingleRoute):
    """A connection of redis-py's pool for each call."""

    async def call(self, key: str, *command: Any, confirmed: bool = False) -> Any:
        """See Route."""
        return await self.client.execute_command(*command)


class PipelineRoute(SingleRoute):
    """All calls that wait, in one pipeline of redis-py's."""

    def __init__(self, client: Any) -> None:
        """Nothing waits."""
        super().__init__(client)
        self._waiting: list[tuple[tuple[Any, ...], asyncio.Future[Any]]] = []
        self._carrier: asyncio.Task[None] | None = None

    async def call(self, key: str, *command: Any, confirmed: bool = False) -> Any:
        """See Route."""
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting.append((command, answer))
        if self._carrier is None:
            self._carrier = asyncio.create_task(self._carry())
        return await answer

    async def _carry(self) -> None:
        while self._waiting:
            batch, self._waiting = self._waiting, []
            pipeline = self.client.pipeline(transaction=False)
            for command, _ in batch:
                pipeline.execute_command(*command)
            replies = await pipeline.execute(raise_on_error=False)
            for (_, answer), reply in zip(batch, replies, strict=True):
                if isinstance(reply, Exception):
                    answer.set_exception(reply)
                else:
                    answer.set_result(reply)
        self._carrier = None


@dataclass(slots=True)
class Slice:
    """Seconds of each call, and how long the slice took."""

    reserve_s: list[float] = field(default_factory=list)
    settle_s: list[float] = field(default_factory=list)
    took_s: float = 0.0

    def figures(self) -> dict[str, float]:
        """Microseconds, and reserve-and-settle pairs a second."""
        return {
            "pairs_per_s": len(self.settle_s) / self.took_s,
            **{
                f"{verb}_{name}_us": _quantile(seconds, part) * 1e6
                for verb, seconds in (("reserve", self.reserve_s), ("settle", self.settle_s))
                for name, part in (("p50", 0.5), ("p99", 0.99))
            },
        }


def _quantile(seconds: list[float], part: float) -> float:
    ordered = sorted(seconds)
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))]


def _medians(rounds: list[dict[str, float]]) -> dict[str, float]:
    return {name: statistics.median(one[name] for one in rounds) for name in rounds[0]}


def accounts(count: int) -> tuple[Account, ...]:
    """With the windows that the base's policy gives them, far from their limits."""
    names = ("org", "team/t", "user/u", "key/k", "model/m", "key/l")[:count]
    windows = tuple(Window(kind=kind, limit=10**12) for kind in (WindowKind.MINUTE, WindowKind.MONTH))
    return tuple(Account(id=AccountId(name), windows=windows) for name in names)


async def loaded(ledger: BudgetLedger, count: int, concurrency: int, seconds: float, name: str) -> Slice:
    """Reserve and settle, ``concurrency`` at a time."""
    found, until = Slice(), time.perf_counter() + seconds
    who = accounts(count)

    async def one(number: int) -> None:
        sent = 0
        while time.perf_counter() < until:
            sent += 1
            request = HoldRequest(
                hold=HoldId(f"{name}-{number}-{sent}"),
                org=ORG,
                accounts=who,
                fixed=Tokens(50),
                choices=1,
                units_wanted=Tokens(200),
                units_min=Tokens(1),
                ttl=Millis(60_000),
                policy_version=1,
                context={"request_id": f"{name}-{number}-{sent}", "model": "m", "key": "k"},
            )
            began = time.perf_counter()
            granted = await ledger.reserve(request)
            reserved = time.perf_counter()
            assert isinstance(granted, Granted)
            await ledger.settle(ORG, request.hold, Amounts.of(40, 100), detail={"finish_reason": "stop"})
            found.reserve_s.append(reserved - began)
            found.settle_s.append(time.perf_counter() - reserved)

    began = time.perf_counter()
    await asyncio.gather(*(one(number) for number in range(concurrency)))
    found.took_s = time.perf_counter() - began
    return found


async def _one_slice(url: str, way: str, count: int, concurrency: int, seconds: float, name: str) -> Slice:
    client = connect(url, timeout=PATIENT)
    routes: dict[str, Callable[[Any], SingleRoute]] = {"pool": PoolRoute, "pipeline": PipelineRoute}
    store = RedisLedger(None, route=routes.get(way, SingleRoute)(client), deadline=PATIENT)
    await store.found_epoch(fresh=True)
    if way != "leases":
        await loaded(store, count, concurrency, 0.1, f"{name}-w")
        found = await loaded(store, count, concurrency, seconds, name)
    else:
        leasing = LeasingLedger(store, SystemClock(), lambda: LEASES)
        running = asyncio.create_task(leasing.run())
        await loaded(leasing, count, concurrency, 0.1, f"{name}-w")
        found = await loaded(leasing, count, concurrency, seconds, name)
        running.cancel()
        await asyncio.wait((running,))
        await leasing.leave()
    await store.aclose()
    return found


def store_figures(seconds: float) -> list[dict[str, Any]]:
    """One row for each number of accounts, concurrency and way."""
    slices: dict[tuple[int, int, str], list[dict[str, float]]] = {}

    async def measure(url: str) -> None:
        for round_number in range(ROUNDS):
            for count in ACCOUNTS:
                for concurrency in CONCURRENCY:
                    for way in WAYS:
                        name = f"{round_number}-{count}-{concurrency}-{way}"
                        found = await _one_slice(url, way, count, concurrency, seconds, name)
                        slices.setdefault((count, concurrency, way), []).append(found.figures())

    with ledger_store() as store:
        run(measure(store.url))
    return [
        {
            "accounts": count,
            "concurrency": concurrency,
            "way": way,
            **_medians(rounds),
        }
        for (count, concurrency, way), rounds in slices.items()
    ]


def run(work: Awaitable[None]) -> None:
    """On the loop that the filters run on."""

    async def main() -> None:
        await work

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())


def _ledger_us(gateway: Gateway) -> dict[str, tuple[float, float]]:
    """By verb: microseconds that filters waited for the ledger so far, and how often."""
    found: dict[str, tuple[float, float]] = {}
    text = httpx.get(f"{gateway.operators_url}/metrics").text
    for verb in ("reserve", "settle"):
        labels = f'{{outcome="ok",verb="{verb}"}}'
        pair = [
            float(line.rpartition(" ")[2])
            for part in ("sum", "count")
            for line in text.splitlines()
            if line.startswith(f"tidegate_ledger_duration_seconds_{part}{labels}")
        ]
        found[verb] = (pair[0] * 1e6, pair[1]) if len(pair) == 2 else (0.0, 0.0)
    return found


def road_figures(seconds: float) -> list[dict[str, Any]]:
    """One row for each load, with and without leases."""
    build = ROOT / ".tidegate" / "bench"
    loadgen, mock = compiled("loadgen", build), compiled("mock_openai", build)
    base = (ROOT / "tests" / "bench" / "overlay" / "budgets.yaml").read_text(encoding="utf-8")
    rows: dict[tuple[str, str], list[dict[str, float]]] = {}
    gateways: dict[str, Gateway] = {}
    with tempfile.TemporaryDirectory(prefix="tidegate-bench-") as directory:
        work_dir, upstream = Path(directory), Upstream(mock)
        try:
            for name, more in (("per request", ""), ("leases", "\nleases: {enabled: true}\n")):
                mesh = overlay(work_dir / f"mesh-{len(gateways)}", {"budgets.yaml": base + more})
                engine = f"http://127.0.0.1:{upstream.port}"
                gateways[name] = Gateway(work_dir / f"state-{len(gateways)}", engine=engine, mesh=mesh)
            for _ in range(ROUNDS):
                for scenario in (one for one in SCENARIOS if one.name in ROAD):
                    for name, gateway in gateways.items():
                        before = _ledger_us(gateway)
                        result = run_slice(
                            loadgen,
                            scenario,
                            port=gateway.port,
                            token=gateway.api_key,
                            model=MODEL,
                            seconds=seconds,
                            work_dir=work_dir,
                            cpus={0, 1},
                        )
                        row = {"rps": result["rps"], "p50_us": result["latency_us"]["p50"]}
                        for verb, (total, count) in _ledger_us(gateway).items():
                            calls = count - before[verb][1]
                            row[f"{verb}_us"] = (total - before[verb][0]) / calls if calls else 0.0
                        rows.setdefault((scenario.name, name), []).append(row)
        finally:
            for gateway in gateways.values():
                gateway.tidegate("down")
            upstream.close()
    return [
        {
            "load": load,
            "budget": name,
            **{key: statistics.median(one[key] for one in found) for key in found[0]},
        }
        for (load, name), found in rows.items()
    ]


def figures(seconds: float) -> dict[str, Any]:
    """Everything that this section prints."""
    return {"store": store_figures(seconds), "road": road_figures(seconds)}
