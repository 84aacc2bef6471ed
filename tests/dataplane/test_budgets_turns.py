"""Requests that wait for their turn, through real Envoy and one worker of the real filter."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any

import orjson

from ext_proc.vocabulary import Void
from gateway.budget.measure import Measure
from gateway.budget.policy_limits import Limits
from gateway.budget.window import Window, WindowKind
from gateway.contract.ids import HoldId
from gateway.sidecar import wire
from tests.harness.gateway import UNTIL_S
from tests.harness.scripted import struct
from tests.harness.trap import TrapStack
from tests.unit.ext_proc.asked import PRINCIPAL, RULES, SAY, budgets
from tests.unit.ext_proc.streams import ACME, Filters

ONE_AT_A_TIME = Limits(windows=(Window(kind=WindowKind.LIFETIME, limit=1, measure=Measure.CONCURRENT),))


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(UNTIL_S):
        while not condition():  # noqa: ASYNC110  # Envoy is another process and tells nobody
            await asyncio.sleep(0.01)


def filters_behind(stack: TrapStack) -> Filters:
    """The worker that ``stack`` asks; the credential is the caller's tier."""
    filters = Filters(replace(RULES, budgets=budgets(wait=20.0, limits=ONE_AT_A_TIME)))

    async def check(request: Any) -> Any:
        tier = request.attributes.request.http.headers["authorization"].removeprefix("Bearer ")
        return wire.CheckResponse(
            status=wire.Status(code=0),
            ok_response=wire.OkHttpResponse(),
            dynamic_metadata=struct({"principal": {**PRINCIPAL, "tier": tier}}),
        )

    async def admit(requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
        raw = (request.SerializeToString() async for request in requests)
        async for reply in filters.filters.process({"tidegate-filter": "admit"}, raw):
            yield wire.ProcessingResponse.FromString(reply)

    stack.sidecar.check, stack.sidecar.admit = check, admit
    return filters


async def ask(stack: TrapStack, text: str, tier: str) -> None:
    body = {**SAY, "messages": [{"role": "user", "content": text}]}
    headers = {"authorization": f"Bearer {tier}"}
    answer = await stack.client.post("/v1/chat/completions", json=body, headers=headers)
    assert answer.status_code == 200


async def test_the_highest_priority_goes_first_and_then_who_came_first(stack: TrapStack) -> None:
    filters = filters_behind(stack)
    lines, tasks = filters.performer._room._lines, []

    def stand(places: int) -> Callable[[], bool]:
        return lambda: len(lines) == places

    def reached(requests: int) -> Callable[[], bool]:
        return lambda: stack.reached() == requests

    await ask(stack, "first", "standard")
    for places, (text, tier) in enumerate([("a", "standard"), ("b", "standard"), ("c", "high")], 1):
        tasks.append(asyncio.create_task(ask(stack, text, tier)))
        await until(stand(places))
    for requests in (2, 3, 4):
        held = [entry["hold"] for entry in filters.ledger.outbox if entry["type"] == "hold.granted"]
        await filters.performer.resolve(Void(org=ACME, hold=HoldId(held[-1]), reason="test"))
        await until(reached(requests))
    await asyncio.gather(*tasks)
    said = [orjson.loads(body)["messages"][0]["content"] for body in stack.pod.bodies]
    assert said == ["first", "c", "a", "b"]
