"""Room for 1,000 tokens, and 64 clients who want them: judged by the engine's own record."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from gateway.budget.ledger import Adjustment, AdjustmentKind
from gateway.budget.redis_connection import connect
from gateway.budget.redis_ledger import RedisLedger
from gateway.budget.window import UNLIMITED, Account, Window, WindowKind
from gateway.contract.ids import AccountId, HoldId, OrgId
from gateway.contract.units import Millis
from mesh.local.layout import layout_of
from tests.harness.engines import Twin, twin
from tests.harness.gateway import MODEL, Gateway, overlay, request_body, until

ROOM = 1_000
PATIENT = Millis(5000)
"""A test's own ledger calls are not about deadlines."""
DRAWN_S = 60
"""A worker leases when it is asked ten times a second: a machine that does other things comes to it late."""


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Twin]:
    options = ("--model", MODEL, "--tokens-per-s", "100")
    with twin(tmp_path_factory.mktemp("engine"), *options) as running:
        yield running


def metric(gateway: Gateway, name: str) -> float:
    """Of all workers; 0 where it was never counted."""
    lines = httpx.get(f"{gateway.operators_url}/metrics").text.splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(f"{name} "))


def limited(directory: Path, tokens: int, leases: str = "{}") -> Path:
    """The policy of an org that may spend so many tokens."""
    budgets = f"""
version: 1
minimum_completion_tokens: 1
leases: {leases}
tiers:
  standard: {{priority: 0, priority_class: standard, key: {{}}}}
orgs:
  demo: {{tokens_per_month: {tokens}}}
"""
    return overlay(directory, {"budgets.yaml": budgets})


async def sixty_four_clients(gateway: Gateway, *, killed: bool = False) -> list[list[int]]:
    """Everybody asks until the budget is used up; while the filters are away they try again, as SDKs do. The
    statuses of each."""
    async with gateway.async_client() as client:

        async def one(number: int) -> list[int]:
            statuses: list[int] = []
            while 429 not in statuses and len(statuses) < 200:
                body = request_body(f"c{number} t{len(statuses)}", max_tokens=15, stream=number % 2 == 0)
                with contextlib.suppress(httpx.HTTPError):
                    statuses.append((await client.post("/chat/completions", json=body)).status_code)
                    await asyncio.sleep(0.1 if statuses[-1] == 503 else 0)
            return statuses

        async def killer() -> None:
            for _ in range(3 if killed else 0):
                await asyncio.sleep(0.15)
                await asyncio.to_thread(gateway.kill, "ext-proc")

        results, _ = await asyncio.gather(asyncio.gather(*(one(number) for number in range(64))), killer())
    return results


def spent_since(engine: Twin, known: int) -> int:
    """By the engine's own record."""
    return sum(
        attempt["prompt_tokens"] + attempt["completion_tokens"] for attempt in engine.attempts()[known:]
    )


async def test_sixty_four_clients_never_overspend(engine: Twin, tmp_path: Path) -> None:
    """Room for 1,000 tokens, 64 clients, filters killed meanwhile; judged by the engine's own record."""
    mesh = limited(tmp_path / "mesh", ROOM)
    gateway = await asyncio.to_thread(Gateway, tmp_path / "state", engine=engine.url, mesh=mesh)
    known = len(engine.attempts())
    try:
        results = await sixty_four_clients(gateway, killed=True)
        assert spent_since(engine, known) <= ROOM
        assert 200 in [status for result in results for status in result]
        assert all(429 in result for result in results), "everybody was told in the end"
    finally:
        await asyncio.to_thread(gateway.close)


async def leave_room(gateway: Gateway) -> int:
    """Lower the org's limit so that ROOM tokens are left beside what is used and held; the limit. Once more
    when clients have been given more than that between the look and the change."""
    org, month = OrgId("demo"), Window(kind=WindowKind.MONTH, limit=UNLIMITED)
    client = connect(f"unix://{layout_of(gateway.state).socket('ledger')}", timeout=PATIENT)
    ledger = RedisLedger(client, deadline=PATIENT)

    async def spent() -> int:
        found = await ledger.standing(org, [Account(id=AccountId("org"), windows=(month,))])
        return next(one.used + one.held for one in found if one.kind is WindowKind.MONTH)

    limit = 0
    for number in itertools.count():
        limit = await spent() + ROOM
        account = Account(id=AccountId("org"), windows=(replace(month, limit=limit),))
        name = HoldId(f"lowered-{number}")
        await ledger.adjust(
            org, Adjustment(id=name, kind=AdjustmentKind.SET, account=account, actor="test", reason="room")
        )
        if await spent() <= limit:
            break
    await ledger.aclose()
    return limit


async def test_leases_are_recalled_and_next_to_nothing_is_left_unspent(engine: Twin, tmp_path: Path) -> None:
    """64 clients served out of leases when there is room for 1,000 tokens more: what is left when the
    smallest request is refused would not have paid it."""
    mesh = limited(tmp_path / "mesh", 10_000_000, "{enabled: true, share: 2, requests_least: 1}")
    gateway = await asyncio.to_thread(Gateway, tmp_path / "state", engine=engine.url, mesh=mesh)
    known = len(engine.attempts())

    def drawn() -> bool:
        return metric(gateway, 'tidegate_leased_total{what="drawn"}') >= 64

    def smallest_until_refused() -> str:
        with gateway.client() as client:
            while True:
                answer = client.post("/chat/completions", json=request_body("x", max_tokens=1))
                if answer.status_code == 429:
                    return str(answer.json()["error"]["message"])

    try:
        asking = asyncio.create_task(sixty_four_clients(gateway))
        await asyncio.to_thread(until, drawn, "requests served out of leases", seconds=DRAWN_S)
        limit = await leave_room(gateway)
        assert all(429 in result for result in await asking), "everybody was told in the end"
        message = await asyncio.to_thread(smallest_until_refused)
        found = re.search(r"requested (\d+) or more", message)
        assert found is not None, message
        spent = spent_since(engine, known)
        assert limit - int(found[1]) < spent <= limit
    finally:
        await asyncio.to_thread(gateway.close)
