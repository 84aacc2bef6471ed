"""Many ask the same at once, of all workers, and no answer is there: one of them asks the engine."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx

from mesh.local.layout import layout_of
from tests.dataplane.cache.served import Cached
from tests.harness.gateway import MODEL
from tests.harness.patience import async_patient

ASKERS = 200
TRIES = 5
"""Of which one must do with one call: who has waited for a second asks by itself, and a busy machine may keep
an answer away for as long as that."""


async def ask_at_once(cached: Cached, question: str, org: str) -> list[httpx.Response]:
    body = {"model": MODEL, "messages": [{"role": "user", "content": question}], "max_tokens": 200}
    headers = {"authorization": f"Bearer {cached.keys[org]}"}
    limits = httpx.Limits(max_connections=ASKERS)
    async with async_patient(
        base_url=cached.gateway.base_url, headers=headers, limits=limits, timeout=60
    ) as client:
        asked = (client.post("/chat/completions", json=body) for _ in range(ASKERS))
        return list(await asyncio.gather(*asked))


def handled(cached: Cached) -> dict[str, int]:
    """Streams that each ext_proc worker has been given, by its socket."""
    socket = str(layout_of(cached.gateway.state).socket("envoy-admin"))
    with httpx.Client(transport=httpx.HTTPTransport(uds=socket), base_url="http://admin") as admin:
        clusters: list[dict[str, Any]] = admin.get("/clusters?format=json").json()["cluster_statuses"]
    return {
        host["address"]["pipe"]["path"]: int(stat.get("value", 0))
        for cluster in clusters
        if "proc" in cluster["name"]
        for host in cluster.get("host_statuses", ())
        for stat in host["stats"]
        if stat["name"] == "rq_total"
    }


def calls_for(cached: Cached, question: str, org: str) -> int:
    """Engine calls of ASKERS who ask at once and get the same answer."""
    known = cached.engine_calls()
    answers = asyncio.run(ask_at_once(cached, question, org))
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.json()["choices"][0]["message"]["content"] for answer in answers}) == 1
    assert len({answer.json()["id"] for answer in answers}) == ASKERS
    return cached.engine_calls() - known


def test_a_new_question_is_one_engine_call_across_all_workers(cached: Cached) -> None:
    before = handled(cached)
    calls: list[int] = []
    while 1 not in calls:
        assert len(calls) < TRIES, calls
        calls.append(calls_for(cached, f"Which rivers cross region {len(calls)}?", "demo"))
    after = handled(cached)
    assert len(after) == 2
    assert all(after[worker] - before[worker] > ASKERS / 10 for worker in after), (before, after)


def test_an_answer_that_has_expired_is_one_engine_call(cached: Cached) -> None:
    calls: list[int] = []
    while 1 not in calls:
        assert len(calls) < TRIES, calls
        question = f"Which roads cross region {len(calls)}?"
        cached.kept(question, org="brief")
        cached.found(question, "miss no_candidate", org="brief")
        calls.append(calls_for(cached, question, "brief"))


def test_an_answer_that_will_not_be_stored_lets_the_others_go_on(cached: Cached) -> None:
    """The engine is asked by each of them, as without a cache; nobody gets another one's half an answer."""

    cached.engine.script({"contains": "Tell at length", "length": 50})
    with ThreadPoolExecutor(4) as threads:
        said = list(threads.map(lambda _: cached.ask("Tell at length", max_tokens=3), range(4)))
    assert [one.body["choices"][0]["finish_reason"] for one in said] == ["length"] * 4
    assert all(cached.reached_engine(one) for one in said)
