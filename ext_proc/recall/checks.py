"""Verification and judge put together with the cache store and the gateway that they ask: what the recall
process opens where an operator has given it a key."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

from ext_proc.cache.store import TTL_SECONDS_MAX, CacheStore
from ext_proc.recall.decision import Trust
from ext_proc.recall.judge import Judge
from ext_proc.recall.operator_client import OperatorClient
from ext_proc.recall.settings import CheckSettings
from ext_proc.recall.truth import State
from ext_proc.recall.verification import Tell, Verification
from ext_proc.recall.verifier import EngineVerifier
from gateway.contract.clock import Clock
from gateway.contract.ids import ModelName, OrgId
from gateway.telemetry.log import EventLog

TRUTH_FILE: Final = "truth.json"
JUDGED_FILE: Final = "judged.json"


@dataclass(frozen=True, slots=True)
class Checks:
    """``verification.served`` and ``judge.offer`` are for the search to call."""

    verification: Verification
    judge: Judge

    def trust(self, said: Trust) -> Trust:
        """What was learnt here, and what the store says: a bucket that either has closed is closed."""
        return _BothTrust(self.verification.truth, said)


@dataclass(frozen=True, slots=True)
class _BothTrust:
    learnt: Trust
    said: Trust

    def state(self, bucket: str, slo: float) -> State:
        known = self.learnt.state(bucket, slo)
        return self.said.state(bucket, slo) if known is State.ON else known

    def share(self, bucket: str, slo: float, usual: float) -> float:
        return self.learnt.share(bucket, slo, usual)


@asynccontextmanager
async def open_checks(
    settings: CheckSettings, store: CacheStore, clock: Clock, log: EventLog, tell: Tell
) -> AsyncIterator[Checks]:
    """Both under way until the context ends. Raises ValueError for a URL that cannot be meant."""
    client = OperatorClient(settings.gateway_url, settings.key_file, log)
    verifier = EngineVerifier(client, clock, model=ModelName(settings.judge_model) or None)

    async def switch(bucket: str, off: bool) -> None:
        await (store.switch_off(bucket) if off else store.switch_on(bucket))

    verification = Verification(
        client,
        clock,
        log,
        switch=switch,
        switched_off=store.switched_off,
        bar=store.bar,
        tell=tell,
        judge=verifier,
        file=settings.state_dir / TRUTH_FILE,
    )
    promoting = _Promoting(store, clock)
    judge = Judge(
        verifier,
        clock,
        log,
        promote=promoting.promote,
        bar=store.bar,
        file=settings.state_dir / JUDGED_FILE,
    )
    running = [asyncio.create_task(work.run()) for work in (verification, judge)]
    try:
        yield Checks(verification, judge)
    finally:
        await asyncio.gather(verification.close(), judge.close())
        await asyncio.gather(*running)
        await client.close()


@dataclass(frozen=True, slots=True)
class _Promoting:
    store: CacheStore
    clock: Clock

    async def promote(self, org: OrgId, asked: str, entry: str) -> bool:
        """An alias for as long as the entry lives."""
        found = await self.store.fetch(org, entry, asked=asked)
        if found.answer is None:
            return False
        left_s = min((found.expires_at - self.clock.unix_ms()) // 1000, TTL_SECONDS_MAX)
        return await self.store.alias(org, asked, entry, ttl_seconds=left_s)
