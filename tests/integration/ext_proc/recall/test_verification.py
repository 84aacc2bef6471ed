"""Drawn hits held against a real gateway-like server: what is learnt, switched, barred, told and kept."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import orjson
import pytest
from prometheus_client import REGISTRY

from ext_proc.cache.store import CacheUnavailable
from ext_proc.recall.check_queue import WORKERS
from ext_proc.recall.operator_client import OperatorClient
from ext_proc.recall.truth import PAUSE, State
from ext_proc.recall.verification import Verification
from ext_proc.recall.verifier import EngineVerifier
from ext_proc.recall.words import SERVED_BYTES_MAX, Served
from gateway.contract.clock import ManualClock
from gateway.contract.ids import ModelName, OrgId
from gateway.telemetry.log import EventLog, logger
from tests.harness.canary import PROMPT
from tests.integration.ext_proc.recall.scripted_gateway import (
    Asked,
    Gateway,
    Reply,
    ok,
    says,
    scripted_gateway,
)

ORG, BUCKET, SLO = OrgId("demo"), "demo/m/words/0.92", 0.01
WITHIN_S = 20.0
LONG = "The parcel is handed to the carrier on the day of the order and reaches most towns soon after that."
FREE = "Most orders leave us at once. How soon the carrier brings the parcel depends on the town you live in."


def counted(result: str) -> Callable[[], float]:
    """How many checks ended with ``result`` since now."""
    labels = {"result": result}
    before = REGISTRY.get_sample_value("tidegate_cache_verified_total", labels) or 0.0
    return lambda: (REGISTRY.get_sample_value("tidegate_cache_verified_total", labels) or 0.0) - before


def hit(answer: str, *, asked: str = "a" * 64, bucket: str = BUCKET, slo: float = SLO) -> Served:
    """One that was given ``answer``."""
    request = {"model": "m", "messages": [{"role": "user", "content": PROMPT}], "stream": True}
    choice = {"index": 0, "finish_reason": "stop", "message": {"content": answer}}
    return Served(
        org=ORG,
        model=ModelName("m"),
        bucket=bucket,
        asked=asked,
        entry="e" * 64,
        request=orjson.dumps(request),
        answer=orjson.dumps({"choices": [choice]}),
        slo=slo,
    )


@dataclass
class Store:
    """What the callbacks were told; ``down``: it does not answer."""

    down: bool = False
    off: set[str] = field(default_factory=set)
    barred: list[tuple[str, str, str]] = field(default_factory=list)
    told: list[tuple[str, Mapping[str, str]]] = field(default_factory=list)

    async def switch(self, bucket: str, off: bool) -> None:
        if self.down:
            raise CacheUnavailable
        (self.off.add if off else self.off.remove)(bucket)

    async def switched_off(self) -> frozenset[str]:
        if self.down:
            raise CacheUnavailable
        return frozenset(self.off)

    async def bar(self, org: OrgId, asked: str, entry: str) -> None:
        if self.down:
            raise CacheUnavailable
        self.barred.append((org, asked, entry))

    def tell(self, org: OrgId, kind: str, context: Mapping[str, str]) -> None:
        assert org == ORG
        self.told.append((kind, context))


@dataclass
class Bench:
    """A verification under way, against ``gateway``."""

    gateway: Gateway
    store: Store
    clock: ManualClock
    verification: Verification
    key_file: Path

    async def check(self, *served: Served) -> None:
        """Until all of them are done with."""
        for one in served:
            self.verification.served(one)
        await asyncio.wait_for(self.verification._queue.idle(), WITHIN_S)


@asynccontextmanager
async def bench(
    tmp_path: Path,
    reply: Callable[[Asked], object],
    *,
    store: Store | None = None,
    judged: bool = False,
    again_s: float = 0.0,
    queue_max: int = 64,
) -> AsyncIterator[Bench]:
    key_file = tmp_path / "operator.key"
    key_file.write_text("tg_operator")
    store, clock = store or Store(), ManualClock()
    async with scripted_gateway(reply) as gateway:  # type: ignore[arg-type]  # an async function of Asked
        client = OperatorClient(gateway.url, key_file, logger("test"))
        verification = Verification(
            client,
            clock,
            EventLog("test"),
            switch=store.switch,
            switched_off=store.switched_off,
            bar=store.bar,
            tell=store.tell,
            judge=EngineVerifier(client, clock) if judged else None,
            file=tmp_path / "state" / "truth.json",
            again_s=again_s,
            queue_max=queue_max,
        )
        running = asyncio.create_task(verification.run())
        try:
            yield Bench(gateway, store, clock, verification, key_file)
        finally:
            await verification.close()
            await asyncio.wait_for(running, WITHIN_S)
            await client.close()


async def test_an_answer_that_is_confirmed_is_a_right_sample(tmp_path: Path) -> None:
    agreed = counted("agreed")
    async with bench(tmp_path, says("It is Paris.")) as on:
        await on.check(hit("Paris"))
        assert on.verification.truth.standing(BUCKET, SLO).right == 1
        (asked,) = on.gateway.asked
    assert agreed() == 1 and asked.body["stream"] is False and asked.headers["cache-control"] == "no-store"
    assert on.store.barred == [] and on.store.told == []


async def test_an_answer_that_two_fresh_ones_contradict_is_wrong_and_barred(tmp_path: Path) -> None:
    wrong = counted("wrong")
    async with bench(tmp_path, says("Paris", "It is Paris.")) as on:
        await on.check(hit("Lyon"))
        assert on.verification.truth.standing(BUCKET, SLO).wrong == 1
    assert wrong() == 1 and on.store.barred == [(ORG, "a" * 64, "e" * 64)]
    assert on.store.told == [("cache.wrong_hit", {"bucket": BUCKET, "entry": "e" * 64, "state": "on"})]


@pytest.mark.parametrize("fresh", [("Paris", "Rome"), ("Paris", "Lyon")])
async def test_an_engine_that_contradicts_itself_says_nothing(fresh: tuple[str, str], tmp_path: Path) -> None:
    unstable = counted("unstable")
    async with bench(tmp_path, says(*fresh)) as on:
        await on.check(hit("Lyon"))
        assert len(on.verification.truth) == 0
    assert unstable() == 1 and on.store.barred == []


async def test_what_the_answers_leave_open_counts_as_nothing(tmp_path: Path) -> None:
    unsure = counted("unsure")
    async with bench(tmp_path, says(FREE)) as on:
        await on.check(hit(LONG))
        assert len(on.verification.truth) == 0
    assert unsure() == 1


@pytest.mark.parametrize("same", [True, False])
async def test_or_a_judge_tells(same: bool, tmp_path: Path) -> None:
    """The judge is asked about two questions in its controls, and about answers here."""
    served = LONG

    async def reply(asked: Asked) -> Reply:
        if asked.body.get("max_tokens") != 4:
            return FREE
        if "Question 2" in asked.text:
            return controls(asked)
        return "yes" if same or served not in asked.text else "no"

    result = counted("agreed" if same else "wrong")
    async with bench(tmp_path, reply, judged=True) as on:
        await on.check(hit(served))
    assert result() == 1


def controls(asked: Asked) -> str:
    """What a fit judge says."""
    different = ("Spain", "turn off", "30 days")
    return "no" if any(words in asked.text for words in different) else "yes"


@pytest.mark.parametrize("status", [401, 403, 404, 429, 500, 503])
async def test_what_could_not_be_asked_is_asked_again_and_is_no_verdict(status: int, tmp_path: Path) -> None:
    replies: list[Reply] = [status, status, "Paris"]
    last = asyncio.Event()

    async def reply(asked: Asked) -> Reply:
        if len(replies) == 1:
            last.set()
        return replies.pop(0)

    async with bench(tmp_path, reply) as on:
        on.verification.served(hit("Paris"))
        await asyncio.wait_for(last.wait(), WITHIN_S)
        await asyncio.wait_for(on.verification._queue.idle(), WITHIN_S)
        assert on.verification.truth.standing(BUCKET, SLO).right == 1


async def test_but_not_for_ever(tmp_path: Path) -> None:
    unasked, given_up = counted("unasked"), asyncio.Event()

    async def reply(asked: Asked) -> Reply:
        if len(on.gateway.asked) == 4:
            given_up.set()
        return 503

    async with bench(tmp_path, reply) as on:
        on.verification.served(hit("Paris"))
        await asyncio.wait_for(given_up.wait(), WITHIN_S)
        await asyncio.wait_for(on.verification._queue.idle(), WITHIN_S)
        assert len(on.verification._queue) == 0 and len(on.verification.truth) == 0
    assert unasked() == 1 and len(on.gateway.asked) == 4


@pytest.mark.parametrize("body", [b"", b"{}", b"<html>", b'{"choices":[]}', b"\xff" * 1000])
async def test_rubbish_is_no_verdict(body: bytes, tmp_path: Path) -> None:
    unread = counted("unread")

    async def reply(asked: Asked) -> Reply:
        return ok(body)

    async with bench(tmp_path, reply) as on:
        await on.check(hit("Paris"))
        assert len(on.verification.truth) == 0
    assert unread() == 1


async def test_what_is_no_completion_or_too_large_is_not_asked(tmp_path: Path) -> None:
    unread, good = counted("unread"), hit("Paris")
    odd = [
        Served(org=ORG, model=good.model, bucket=BUCKET, asked="a", entry="e", request=request, answer=answer)
        for request, answer in [
            (b"{}", good.answer),
            (good.request, b"{}"),
            (b" " * (SERVED_BYTES_MAX + 1), good.answer),
            (good.request, b" " * (SERVED_BYTES_MAX + 1)),
        ]
    ]
    async with bench(tmp_path, says("Paris")) as on:
        await on.check(*odd)
    assert unread() == 4 and on.gateway.asked == []


async def test_a_frozen_gateway_holds_no_more_than_the_queue(tmp_path: Path) -> None:
    labels = {"effect": "verify"}
    before = REGISTRY.get_sample_value("tidegate_effects_dropped_total", labels) or 0.0
    frozen, thawed = asyncio.Event(), asyncio.Event()

    async def reply(asked: Asked) -> Reply:
        if len(on.gateway.asked) == WORKERS:
            frozen.set()
        await thawed.wait()
        return "Paris"

    async with bench(tmp_path, reply, queue_max=3) as on:
        for _ in range(WORKERS):
            on.verification.served(hit("Paris"))
            await asyncio.sleep(0)  # a worker takes it
        await asyncio.wait_for(frozen.wait(), WITHIN_S)
        for _ in range(10):
            on.verification.served(hit("Paris", bucket="demo/m/words/0.98"))
        assert len(on.verification._queue) == 3
        thawed.set()
        await asyncio.wait_for(on.verification._queue.idle(), WITHIN_S)
        assert on.verification.truth.standing("demo/m/words/0.98", SLO).right == pytest.approx(3, abs=0.01)
    assert REGISTRY.get_sample_value("tidegate_effects_dropped_total", labels) == before + 7


@pytest.mark.parametrize(("last", "kept"), [("Paris", 1), (503, 0)])
async def test_at_the_end_what_is_under_way_is_learnt_from(last: Reply, kept: int, tmp_path: Path) -> None:
    asked_for, go = asyncio.Event(), asyncio.Event()

    async def reply(asked: Asked) -> Reply:
        asked_for.set()
        await go.wait()
        return last

    async with bench(tmp_path, reply) as on:
        on.verification.served(hit("Paris"))
        await asyncio.wait_for(asked_for.wait(), WITHIN_S)
        await on.verification.close()
        go.set()
    assert len(on.verification.truth) == kept and len(on.gateway.asked) == 1
    assert (tmp_path / "state" / "truth.json").exists() == bool(kept)
    assert len(on.verification._queue) == 0


async def test_a_bucket_that_breaks_its_slo_is_off_reported_kept_and_later_back(tmp_path: Path) -> None:
    async with bench(tmp_path, says("Paris")) as on:
        truth = on.verification.truth
        await on.check(*(hit("Lyon") for _ in range(3)))
        assert truth.state(BUCKET, SLO) is State.OFF and on.store.off == {BUCKET}
        assert on.store.told[-1][0] == "cache.bucket_off"
        gone = counted("gone")
        await on.check(hit("Lyon"))
        assert gone() == 1
    restarted = Store()
    async with bench(tmp_path, says("Paris"), store=restarted) as on:
        truth = on.verification.truth
        await on.verification.tick()
        assert restarted.off == {BUCKET} and truth.state(BUCKET, SLO) is State.OFF
        on.clock.advance_ms(PAUSE)
        await on.verification.tick()
        assert truth.state(BUCKET, SLO) is State.PROBATION and restarted.off == {BUCKET}
        for _ in range(10):  # as many as the queue holds at once
            await on.check(*(hit("Paris") for _ in range(30)))
        assert truth.state(BUCKET, SLO) is State.ON and restarted.off == set()
    assert [kind for kind, _ in restarted.told] == ["cache.bucket_probation", "cache.bucket_on"]
    assert restarted.told[-1][1] == {
        "bucket": BUCKET,
        "before": "probation",
        "slo": "0.01",
        "bound": "0.0032",
        "right": "298.0",
        "wrong": "0.0",
    }


async def test_what_the_store_does_not_take_is_told_again(tmp_path: Path) -> None:
    async with bench(tmp_path, says("Paris")) as on:
        await on.check(hit("Lyon"), hit("Lyon"))
        on.store.down = True
        on.verification.truth.observe(BUCKET, SLO, agreed=False, now=on.clock.unix_ms())
        await on.verification.tick()
        assert on.store.off == set()
        on.store.down = False
        await on.verification.tick()
        assert on.store.off == {BUCKET}
        on.store.off.clear()  # as a store that is restarted empty
        await on.verification.tick()
        assert on.store.off == {BUCKET}


async def test_a_bucket_that_only_the_store_knows_to_be_off_has_its_probation(tmp_path: Path) -> None:
    store = Store(off={BUCKET}, down=True)
    async with bench(tmp_path, says("Paris"), store=store) as on:
        await on.verification.tick()
        store.down = False
        await on.verification.tick()
        assert on.verification.truth.state(BUCKET, SLO) is State.OFF and store.off == {BUCKET}
        on.clock.advance_ms(PAUSE)
        await on.verification.tick()
        for _ in range(10):
            await on.check(*(hit("Paris") for _ in range(30)))
        assert on.verification.truth.state(BUCKET, SLO) is State.ON and store.off == set()


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff", b'{"version":9,"buckets":[]}'])
async def test_a_damaged_state_is_put_aside(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "state" / "truth.json"
    file.parent.mkdir()
    file.write_bytes(content)
    async with bench(tmp_path, says("Paris")) as on:
        await on.check(hit("Paris"))
    assert file.with_name("truth.json.unreadable").read_bytes() == content
    assert orjson.loads(file.read_bytes())["buckets"][0][0] == BUCKET


async def test_nothing_of_the_prompt_is_logged(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    async with bench(tmp_path, says("Paris")) as on:
        await on.check(*(hit("Lyon") for _ in range(3)))
    assert PROMPT in on.gateway.asked[0].text
    assert (
        "cache.bucket_off" in (out := capfd.readouterr().out)
        and PROMPT not in out
        and "tg_operator" not in out
    )
