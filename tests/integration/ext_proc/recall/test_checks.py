"""Verification and judge together: a judged question is answered, a wrong one no more, a bad bucket off."""

from __future__ import annotations

import asyncio
from pathlib import Path

import orjson

from ext_proc.cache.memory_store import MemoryStore
from ext_proc.cache.policy import Profile
from ext_proc.cache.store import CachedAnswer, HitKind, Keys, Lookup
from ext_proc.recall.checks import _Promoting, open_checks
from ext_proc.recall.judging import CONTROLS
from ext_proc.recall.settings import CheckSettings
from ext_proc.recall.words import Ask, NearMiss, Served
from gateway.contract.clock import ManualClock
from gateway.contract.ids import ModelName, OrgId
from gateway.telemetry.log import EventLog
from tests.integration.ext_proc.recall.scripted_gateway import Asked, Reply, scripted_gateway

ORG, MODEL, ENTRY, ASKED = OrgId("demo"), ModelName("m"), "e" * 64, "a" * 64
TTL_S = 600


async def engine(asked: Asked) -> Reply:
    """A fit judge that calls everything else the same; answers questions with Paris."""
    if asked.body.get("max_tokens") != 4:
        return "Paris"
    pair = {orjson.loads(line.split(": ", 1)[1]) for line in asked.text.split("\n")[:2]}
    known = [control for control in CONTROLS if {control.first, control.second} == pair]
    return "no" if known and not known[0].same else "yes"


async def test_from_a_near_miss_to_an_alias_to_a_bar(tmp_path: Path) -> None:
    clock, told = ManualClock(), list[str]()
    store = MemoryStore(clock)
    ask = Ask(
        org=ORG,
        model=MODEL,
        partition="p",
        asked=ASKED,
        text="which town is it",
        profile=Profile.VERIFIED,
        keep_s=60,
        judge_per_minute=5,
    )
    near = NearMiss(
        ask=ask, entry=ENTRY, stored_text="which city is it", similarity=0.9, bucket="demo/m/near/0.90"
    )
    (tmp_path / "operator.key").write_text("tg_operator")

    async def looked_up() -> Lookup:
        return await store.get(ORG, Keys(exact=ASKED))

    epoch = (await looked_up()).epoch
    answer = orjson.dumps({"choices": [{"finish_reason": "stop", "message": {"content": "Lyon"}}]})
    stored = CachedAnswer(body=answer, stored_at=clock.unix_ms())
    assert await store.put(ORG, Keys(exact=ENTRY), epoch, stored, ttl_seconds=TTL_S)
    async with scripted_gateway(engine) as gateway:
        settings = CheckSettings(
            gateway_url=gateway.url, key_file=tmp_path / "operator.key", state_dir=tmp_path / "state"
        )
        log = EventLog("test")
        async with open_checks(
            settings, store, clock, log, lambda org, kind, context: told.append(kind)
        ) as checks:
            checks.judge.offer(near)
            await asyncio.wait_for(checks.judge._queue.idle(), 20)
            hit = await looked_up()
            assert hit.kind is HitKind.ALIAS and hit.expires_at == clock.unix_ms() + TTL_S * 1000
            for _ in range(3):
                checks.verification.served(
                    Served(
                        org=ORG,
                        model=MODEL,
                        bucket=near.bucket,
                        asked=ASKED,
                        entry=ENTRY,
                        request=b'{"model":"m","messages":[{"role":"user","content":"which town is it"}]}',
                        answer=answer,
                    )
                )
            await asyncio.wait_for(checks.verification._queue.idle(), 20)
            assert (await looked_up()).answer is None
            assert await store.switched_off() == {near.bucket}
    assert told == ["cache.wrong_hit"] * 3 + ["cache.bucket_off"]
    assert sorted(file.name for file in (tmp_path / "state").iterdir()) == ["judged.json", "truth.json"]
    assert {asked.headers["authorization"] for asked in gateway.asked} == {"Bearer tg_operator"}


async def test_an_entry_that_is_gone_gets_no_alias(tmp_path: Path) -> None:
    clock = ManualClock()
    store = MemoryStore(clock)
    assert not await _Promoting(store, clock).promote(ORG, ASKED, ENTRY)
