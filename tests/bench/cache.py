"""``./tidegate bench cache``: what a look-up costs inside the filter, and what the cache does to the road.

``filter``: one look-up by the product's own Lookups on a real Valkey, one after another. ``likeness``: the
recall process through its socket, as in section ``recall``. ``road``: through real Envoy, slices of the ways
alternating, medians over the rounds: hits against bare Envoy; misses with the profile off and strict; what is
not cached, alone and while 16 questions at a time are compared, in bursts and without a pause, with recall's
threads as they are, at a lower priority, and on one core. ``expiry``: engine calls of 200 who ask the same.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import secrets
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import httpx
import psutil

from ext_proc.cache.entry import Sealer
from ext_proc.cache.flights import SharedFlights
from ext_proc.cache.local_store import LocalStore
from ext_proc.cache.policy import Profile
from ext_proc.cache.question import read_question
from ext_proc.cache.redis_store import RedisStore
from ext_proc.cache.store import CachedAnswer, CacheStore, CacheUnavailable, Keys
from ext_proc.lookups import Lookups
from ext_proc.measures import Measures
from ext_proc.recall.client import RecallClient
from ext_proc.recall.words import Ask, RecallUnavailable
from ext_proc.vocabulary import AskCache
from gateway.contract.clock import SystemClock
from gateway.contract.ids import ModelName, OrgId
from gateway.telemetry.log import logger
from mesh.local.layout import layout_of
from tests.bench import recall
from tests.bench.ledger import run
from tests.bench.load import Scenario, compiled, run_slice
from tests.bench.targets import MODEL, ROOT, BareEnvoy, Upstream
from tests.harness.embedders import EMBEDDERS
from tests.harness.gateway import Gateway, overlay, until
from tests.harness.valkey import cache_store

CALLS: Final = 3_000
ROUNDS: Final = 3
AT_ONCE: Final = 16
BURST_EVERY_S: Final = 0.25
"""64 questions a second: what two cores answer beside the road. Without a pause they are all that runs."""
ASKERS: Final = 200
NICE: Final = 10
ORG: Final = OrgId("bench")
BODY: Final = b'{"choices":[{"message":{"content":"' + b"A word and another. " * 40 + b'"}}]}'
QUESTION: Final = "How many parts does article @@SEQ@@ of the shop have?"
HIT: Final = Scenario(name="hit c=32", mode="closed", connections=32, fresh=False)
MISS: Final = Scenario(name="miss c=1", mode="closed", connections=1, question=QUESTION)
PLAIN: Final = Scenario(
    name="plain c=1", mode="closed", connections=1, question=QUESTION, headers=("cache-control: no-store",)
)
POLICY: Final = """
version: 1
rules:
  - {{name: everyone, mode: all{more}}}
"""
STRICT: Final = ", profile: strict, verify_share: 0.001"


def microseconds(times_s: Sequence[float]) -> dict[str, float]:
    """p50 and p99."""
    ordered = sorted(times_s)
    return {
        "p50_us": 1e6 * ordered[len(ordered) // 2],
        "p99_us": 1e6 * ordered[int(0.99 * len(ordered))],
    }


def _key(number: int) -> str:
    return f"{number:064x}"


async def _timed(ask: Callable[[int], Awaitable[object]]) -> dict[str, float]:
    took, late = [], 0
    for number in range(CALLS):
        began = time.perf_counter()
        try:
            await ask(number)
        except CacheUnavailable:
            late += 1  # a miss on the path; here its time counts too
        took.append(time.perf_counter() - began)
    return {**microseconds(took), "late": late}


async def _filter_rows(url: str, rows: list[dict[str, Any]]) -> None:
    clock, log = SystemClock(), logger("bench")
    store = RedisStore.connect(url, Sealer(secrets.token_bytes(32)), clock)
    polling = asyncio.create_task(store.run())
    stored = Keys(exact=_key(1), canonical=_key(2))
    epoch = (await store.get(ORG, stored)).epoch
    await store.put(ORG, stored, epoch, CachedAnswer(body=BODY, stored_at=clock.unix_ms()), ttl_seconds=3600)

    def lookups(over: CacheStore) -> Lookups:
        return Lookups(over, SharedFlights(store.flights, over), None, clock, Measures(clock), log)

    remote, local = lookups(store), lookups(LocalStore(store, clock))
    exact = AskCache(org=ORG, keys=Keys(exact=stored.exact))

    async def from_memory(_: int) -> None:
        if local.at_once(exact) is None:  # its second is over
            await local.ask(exact)

    ways: dict[str, Callable[[int], Awaitable[object]]] = {
        "exact, L1 (memory)": from_memory,
        "exact, L2 (Valkey)": lambda _: remote.ask(exact),
        "canonical, L2": lambda number: remote.ask(
            AskCache(org=ORG, keys=Keys(exact=_key(number + 10), canonical=stored.canonical))
        ),
        "a candidate's answer, L2": lambda number: store.fetch(ORG, stored.exact, asked=_key(number + 10)),
        "absent, L2": lambda number: remote.ask(AskCache(org=ORG, keys=Keys(exact=_key(number + 10)))),
    }
    for name, way in ways.items():
        rows.append({"way": name, **await _timed(way)})

    async def read(number: int) -> None:
        read_question(QUESTION.replace("@@SEQ@@", str(number)))

    rows.append({"way": "canonical text (no I/O)", **await _timed(read)})
    polling.cancel()
    await asyncio.wait((polling,))
    await store.aclose()


def filter_figures() -> list[dict[str, Any]]:
    """One row for each way, in microseconds."""
    rows: list[dict[str, Any]] = []
    with cache_store() as store:
        run(_filter_rows(store.url, rows))
    return rows


# --- the road ---


async def compare_without_end(socket: Path, every_s: float) -> None:
    """AT_ONCE questions at a time through the recall socket, each time new ones; for a process of its own,
    ended by its pid."""
    client = RecallClient(socket)
    for start in itertools.count(step=AT_ONCE):
        next_at = time.monotonic() + every_s

        async def one(number: int) -> None:
            question = Ask(
                org=ORG,
                model=ModelName("m"),
                partition=_key(3),
                asked=_key(number),
                text=f"Which of the many parts does article {number} of the large shop in town consist of?",
                profile=Profile.STRICT,
                keep_s=60,
            )
            try:
                await client.find(question)
            except RecallUnavailable:
                return  # late is late; the road is what is measured

        await asyncio.gather(*(one(start + place) for place in range(AT_ONCE)))
        await asyncio.sleep(max(0.0, next_at - time.monotonic()))


@contextmanager
def comparing(gateway: Gateway, every_s: float, *, nice: int = 0, cores: int = 0) -> Iterator[None]:
    """While questions are compared. ``nice``, ``cores``: of recall's threads; 0 as they are."""
    process = psutil.Process(gateway.pid("recall"))
    everything = set(os.sched_getaffinity(0))
    for thread in process.threads():
        os.setpriority(os.PRIO_PROCESS, thread.id, nice)
        os.sched_setaffinity(thread.id, {max(everything)} if cores == 1 else everything)
    socket = str(layout_of(gateway.state).socket("recall"))
    command = [sys.executable, "-P", "-m", "tests.bench.cache", socket, str(every_s)]
    asking = subprocess.Popen(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)})
    try:
        before = _finds(gateway)
        until(lambda: _finds(gateway) > before + AT_ONCE, "questions are compared")
        yield
    finally:
        asking.terminate()
        asking.wait()


def _finds(gateway: Gateway) -> float:
    text = httpx.get(f"{gateway.operators_url}/metrics", trust_env=False).text
    lines = (line for line in text.splitlines() if line.startswith("tidegate_recall_finds_total"))
    return sum(float(line.rpartition(" ")[2]) for line in lines)


def _gateway(work_dir: Path, name: str, upstream: Upstream, more: str) -> Gateway:
    budgets = (ROOT / "tests" / "bench" / "overlay" / "budgets.yaml").read_text(encoding="utf-8")
    files = {"budgets.yaml": budgets, "cache.yaml": POLICY.format(more=more)}
    state = work_dir / f"state-{name}"
    EMBEDDERS.mkdir(parents=True, exist_ok=True)
    state.mkdir(mode=0o700)
    (state / "embedders").symlink_to(EMBEDDERS)
    mesh = overlay(work_dir / f"mesh-{name}", files)
    return Gateway(state, engine=f"http://127.0.0.1:{upstream.port}", mesh=mesh)


class Road:
    """Slices of load on a gateway or on bare Envoy."""

    def __init__(self, work_dir: Path, seconds: float) -> None:
        """``seconds``: of one slice."""
        self._work_dir, self._seconds = work_dir, seconds
        self._loadgen = compiled("loadgen", ROOT / ".tidegate" / "bench")
        self._found: dict[tuple[str, str], list[dict[str, float]]] = {}

    def slice(self, scenario: Scenario, way: str, port: int, token: str) -> None:
        """One more of ``scenario`` and ``way``."""
        result = run_slice(
            self._loadgen,
            scenario,
            port=port,
            token=token,
            model=MODEL,
            seconds=self._seconds,
            work_dir=self._work_dir,
            cpus=os.sched_getaffinity(0),
        )
        row = {"rps": result["rps"], "p50_us": result["latency_us"]["p50"]}
        row["errors"] = result["errors"] + result["codes"]["4xx"] + result["codes"]["5xx"]
        self._found.setdefault((scenario.name, way), []).append(row)

    def rows(self) -> list[dict[str, Any]]:
        """Medians, with each row's ratio of the rate and of the p50 to the first row of its load."""
        rows: list[dict[str, Any]] = []
        first: dict[str, dict[str, Any]] = {}
        for (load, way), found in self._found.items():
            row = {name: statistics.median(one[name] for one in found) for name in found[0]}
            base = first.setdefault(load, row)
            ratios = {f"{name}_ratio": row[name] / base[name] for name in ("rps", "p50_us")}
            rows.append({"load": load, "way": way, **row, **ratios})
        return rows


BESIDE: Final[dict[str, dict[str, float]]] = {
    "16 in bursts": {"every_s": BURST_EVERY_S},
    f"16 in bursts, nice {NICE}": {"every_s": BURST_EVERY_S, "nice": NICE},
    "16 in bursts, one core": {"every_s": BURST_EVERY_S, "cores": 1},
    "16 without a pause": {"every_s": 0.0},
    f"16 without a pause, nice {NICE}": {"every_s": 0.0, "nice": NICE},
    "16 without a pause, one core": {"every_s": 0.0, "cores": 1},
}


def road_figures(seconds: float) -> dict[str, Any]:
    """``rows`` and ``expiry``."""
    upstream = Upstream(compiled("mock_openai", ROOT / ".tidegate" / "bench"))
    gateways: dict[str, Gateway] = {}
    with tempfile.TemporaryDirectory(prefix="tidegate-bench-") as directory:
        work_dir, bare = Path(directory), None
        try:
            for name, more in (("off", ""), ("strict", STRICT)):
                gateways[name] = _gateway(work_dir, name, upstream, more)
            strict = gateways["strict"]
            log = strict.state / "logs" / "recall.log"
            until(lambda: '"recall.ready"' in log.read_text(), "recall is ready")
            bare = BareEnvoy(bootstrap(strict), gateway_port=strict.port, work_dir=work_dir)
            road = Road(work_dir, seconds)
            for _ in range(ROUNDS):
                road.slice(HIT, "bare envoy", bare.port, "-")
                road.slice(HIT, "exact hits", strict.port, strict.api_key)
                for name, gateway in gateways.items():
                    road.slice(MISS, f"profile {name}", gateway.port, gateway.api_key)
                road.slice(PLAIN, "alone", strict.port, strict.api_key)
                for name, options in BESIDE.items():
                    kinds = {"nice": int(options.get("nice", 0)), "cores": int(options.get("cores", 0))}
                    with comparing(strict, options["every_s"], **kinds):
                        road.slice(PLAIN, name, strict.port, strict.api_key)
            return {"rows": road.rows(), "expiry": [asyncio.run(_identical(strict)) for _ in range(ROUNDS)]}
        finally:
            if bare is not None:
                bare.close()
            for gateway in gateways.values():
                gateway.tidegate("down")
            upstream.close()


def bootstrap(gateway: Gateway) -> dict[str, Any]:
    """The compiled Envoy config that ``gateway`` runs on."""
    found: dict[str, Any] = json.loads((gateway.state / "envoy.json").read_text())
    return found


async def _identical(gateway: Gateway) -> dict[str, float]:
    """Answers by how they came, of ASKERS who ask a new question at once, and the slowest one."""
    question = f"What is {secrets.token_hex(4)}?"
    body = {"model": MODEL, "messages": [{"role": "user", "content": question}], "max_tokens": 16}
    headers = {"authorization": f"Bearer {gateway.api_key}"}
    limits = httpx.Limits(max_connections=ASKERS)
    async with httpx.AsyncClient(
        base_url=gateway.base_url, headers=headers, limits=limits, timeout=60, verify=False
    ) as client:
        began = time.perf_counter()
        answers = await asyncio.gather(*(client.post("/chat/completions", json=body) for _ in range(ASKERS)))
        took = time.perf_counter() - began
    hits = sum(answer.headers.get("x-tidegate-cache") == "hit" for answer in answers)
    refused = sum(answer.status_code != 200 for answer in answers)
    return {"engine_calls": ASKERS - hits - refused, "hits": hits, "refused": refused, "took_s": took}


def figures(seconds: float) -> dict[str, Any]:
    """Everything that this section prints."""
    load = os.getloadavg()[0]
    return {
        "load_before": load,
        "filter": filter_figures(),
        "likeness": asyncio.run(recall.finds()),
        "road": road_figures(seconds),
    }


if __name__ == "__main__":
    asyncio.run(compare_without_end(Path(sys.argv[1]), float(sys.argv[2])))
