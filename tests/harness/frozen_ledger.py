"""The ledger's Valkey is stopped under load, through the real Envoy: what clients see, and what it costs."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import httpx

from tests.harness.engines import Twin
from tests.harness.gateway import MODEL, UNTIL_S, Gateway, overlay, until

CLIENTS: Final = 24
LEASES: Final = {"share": 16, "requests": 32, "requests_least": 4, "ttl_seconds": 5}
PAUSE_S: Final = 0.02
"""Between a client's requests: a refusal takes a millisecond, and a client that repeats it without a pause
measures its own machine."""


def policy(directory: Path, limit: int) -> Path:
    """With leases; ``limit`` tokens a month."""
    budgets = f"""
version: 1
minimum_completion_tokens: 1
leases: {{enabled: true, {", ".join(f"{name}: {value}" for name, value in LEASES.items())}}}
tiers:
  standard: {{priority: 0, priority_class: standard, key: {{}}}}
orgs:
  demo: {{tokens_per_month: {limit}}}
"""
    return overlay(directory, {"budgets.yaml": budgets})


@dataclass(slots=True)
class Seen:
    """What clients saw of requests that they sent while the ledger was frozen; ``admit_s``: the histogram of
    admit's own times."""

    statuses: Counter[int] = field(default_factory=Counter)
    seconds: dict[int, list[float]] = field(default_factory=dict)
    admit_s: Mapping[float, float] = field(default_factory=dict)

    def quantile_ms(self, status: int, part: float) -> float:
        """As the client measured it, through Envoy and both filters."""
        seconds = sorted(self.seconds.get(status, [0.0]))
        return seconds[min(len(seconds) - 1, int(part * len(seconds)))] * 1000

    def decided_within(self, seconds: float) -> float:
        """Part of admit's decisions that took no longer."""
        total = self.admit_s.get(float("inf"), 0.0)
        return self.admit_s.get(seconds, 0.0) / total if total else 1.0

    def decision_ms(self, part: float) -> float:
        """Admit's own time, as the upper bound of its histogram's bucket."""
        total = self.admit_s.get(float("inf"), 0.0)
        return min((at for at, count in self.admit_s.items() if count >= part * total), default=0.0) * 1000

    def as_json(self) -> dict[str, Any]:
        """The drill's figures."""
        refused = self.seconds.get(503, [0.0])
        return {
            "requests": self.statuses.total(),
            "served_from_leases": self.statuses[200],
            "refused_closed": self.statuses[503],
            "decision_p50_ms": self.decision_ms(0.5),
            "decision_p99_ms": self.decision_ms(0.99),
            "refusal_p50_ms": round(statistics.median(refused) * 1000, 1),
            "refusal_p99_ms": round(self.quantile_ms(503, 0.99), 1),
            "decided_within_50_ms": round(self.decided_within(0.05), 4),
        }


def _metrics(gateway: Gateway) -> dict[str, float]:
    lines = httpx.get(f"{gateway.operators_url}/metrics").text.splitlines()
    pairs = [line.rpartition(" ") for line in lines if line and not line.startswith("#")]
    return {name: float(value) for name, _, value in pairs}


_BUCKET: Final = 'tidegate_admit_duration_seconds_bucket{le="'
DRAWN: Final = 'tidegate_leased_total{what="drawn"}'


def _admit_s(metrics: Mapping[str, float]) -> dict[float, float]:
    return {
        float(name.removeprefix(_BUCKET).rstrip('"}').replace("+Inf", "inf")): value
        for name, value in metrics.items()
        if name.startswith(_BUCKET)
    }


async def freeze(gateway: Gateway, *, frozen_s: float) -> Seen:
    """Load until requests are served out of leases, then ``frozen_s`` with the ledger stopped; returns once
    all that was under way is over. Ends with the ledger going again."""
    seen, frozen, over = Seen(), asyncio.Event(), asyncio.Event()
    headers = {"authorization": f"Bearer {gateway.api_key}"}
    limits = httpx.Limits(max_connections=CLIENTS)
    async with httpx.AsyncClient(
        base_url=gateway.base_url, headers=headers, timeout=30, limits=limits
    ) as client:

        async def one(number: int) -> None:
            sent = 0
            while not over.is_set():
                sent += 1
                text = f"frozen {number} {sent}"
                body = {
                    "model": MODEL,
                    "max_tokens": 4,
                    "stream": number % 2 == 0,
                    "messages": [{"role": "user", "content": text}],
                }
                counts, began = frozen.is_set(), time.perf_counter()
                status = (await client.post("/chat/completions", json=body)).status_code
                if counts:
                    seen.statuses[status] += 1
                    seen.seconds.setdefault(status, []).append(time.perf_counter() - began)
                await asyncio.sleep(PAUSE_S)

        async def fault() -> None:
            before: dict[str, float] = {}
            async with asyncio.timeout(UNTIL_S):
                while not before.get(DRAWN):  # until leases stand
                    await asyncio.sleep(0.5)
                    before = await asyncio.to_thread(_metrics, gateway)
            with gateway.frozen("valkey-ledger"):
                frozen.set()
                await asyncio.sleep(frozen_s)
                frozen.clear()
                after = await asyncio.to_thread(_metrics, gateway)
            over.set()
            first = _admit_s(before)
            seen.admit_s = {at: value - first.get(at, 0.0) for at, value in _admit_s(after).items()}

        await asyncio.gather(fault(), *(one(number) for number in range(CLIENTS)))
    return seen


def produced(engine: Twin, known: int) -> int:
    """By the engine's own record."""
    return sum(one["prompt_tokens"] + one["completion_tokens"] for one in engine.attempts()[known:])


def used_when_settled(gateway: Gateway, *, seconds: float) -> int:
    """What the org is charged once nothing is held any more: the spools are delivered, the leases back."""

    def ask() -> int | None:
        with gateway.client() as client:
            answer = client.get("/usage")
        if answer.status_code != 200:
            return None
        windows = [one for one in answer.json()["windows"] if one["account"] == "org"]
        used = sum(int(one["used"]) for one in windows if one["window"] == "month")
        return used + 1 if all(one["held"] == 0 for one in windows) else None

    return until(ask, f"every hold resolved\n{gateway.log_tails()}", seconds=seconds) - 1
