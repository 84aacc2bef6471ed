"""Near misses before a judge behind a real gateway-like server: aliases, bars, limits, memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import orjson
import pytest
from prometheus_client import REGISTRY

from ext_proc.cache.policy import Profile
from ext_proc.cache.store import CacheUnavailable
from ext_proc.recall.judge import Judge
from ext_proc.recall.judging import CONTROLS
from ext_proc.recall.operator_client import OperatorClient
from ext_proc.recall.verifier import FIT_S, EngineVerifier
from ext_proc.recall.words import Ask, NearMiss
from gateway.contract.clock import ManualClock
from gateway.contract.ids import ModelName, OrgId
from gateway.telemetry.log import EventLog, logger
from tests.integration.ext_proc.recall.scripted_gateway import Asked, Gateway, Reply, hang, scripted_gateway

WITHIN_S = 20.0
CONTROL_CALLS = 2 * len(CONTROLS)
MINUTE_MS = 60_000


def counted(result: str) -> Callable[[], float]:
    """How many near misses ended with ``result`` since now."""
    labels = {"result": result}
    before = REGISTRY.get_sample_value("tidegate_cache_judged_total", labels) or 0.0
    return lambda: (REGISTRY.get_sample_value("tidegate_cache_judged_total", labels) or 0.0) - before


def near(asked: str = "how do I reset it", *, org: str = "demo", per_minute: int = 10) -> NearMiss:
    """Whose keys are its texts."""
    ask = Ask(
        org=OrgId(org),
        model=ModelName("m"),
        partition="p",
        asked=asked,
        text=asked,
        profile=Profile.VERIFIED,
        keep_s=60,
        judge_per_minute=per_minute,
    )
    return NearMiss(ask=ask, entry="entry", stored_text="how can I restart it", similarity=0.9, bucket="b")


def pair_of(asked: Asked) -> tuple[str, str]:
    """The questions of a prompt."""
    first, second, _ = asked.text.split("\n")
    return orjson.loads(first.removeprefix("Question 1: ")), orjson.loads(second.removeprefix("Question 2: "))


def fit(word: str, swapped: str | None = None) -> Callable[[Asked], Awaitable[Reply]]:
    """Right on the controls; ``word`` for any other pair, ``swapped`` when the stored text comes first."""
    right = {frozenset((control.first, control.second)): control.same for control in CONTROLS}

    async def reply(asked: Asked) -> Reply:
        first, second = pair_of(asked)
        same = right.get(frozenset((first, second)))
        if same is not None:
            return "Yes." if same else "No."
        return swapped if swapped is not None and first == "how can I restart it" else word

    return reply


@dataclass
class Bench:
    """A judge under way, and what its callbacks were told."""

    gateway: Gateway
    clock: ManualClock
    judge: Judge
    promoted: list[tuple[str, str, str]] = field(default_factory=list)
    barred: list[tuple[str, str, str]] = field(default_factory=list)

    async def settled(self) -> None:
        await asyncio.wait_for(self.judge._queue.idle(), WITHIN_S)

    @property
    def calls(self) -> int:
        """Without the controls."""
        return len(self.gateway.asked) - CONTROL_CALLS


@asynccontextmanager
async def bench(
    tmp_path: Path,
    reply: Callable[[Asked], Awaitable[Reply]],
    *,
    queue_max: int = 100,
    store_down: int = 0,
    deadline_s: float = 10.0,
) -> AsyncIterator[Bench]:
    """``store_down``: so many calls of the callbacks fail."""
    (tmp_path / "operator.key").write_text("tg_operator")
    clock, left = ManualClock(), [store_down]

    def up() -> None:
        if left[0]:
            left[0] -= 1
            raise CacheUnavailable

    async def promote(org: OrgId, asked: str, entry: str) -> bool:
        up()
        on.promoted.append((org, asked, entry))
        return True

    async def bar(org: OrgId, asked: str, entry: str) -> None:
        up()
        on.barred.append((org, asked, entry))

    async with scripted_gateway(reply) as gateway:
        client = OperatorClient(gateway.url, tmp_path / "operator.key", logger("test"), deadline_s=deadline_s)
        judge = Judge(
            EngineVerifier(client, clock),
            clock,
            EventLog("test"),
            promote=promote,
            bar=bar,
            file=tmp_path / "judged.json",
            again_s=0.0,
            queue_max=queue_max,
        )
        on = Bench(gateway, clock, judge)
        running = asyncio.create_task(judge.run())
        try:
            yield on
        finally:
            await judge.close()
            await asyncio.wait_for(running, WITHIN_S)
            await client.close()


@pytest.mark.parametrize(
    ("word", "swapped", "result", "promoted", "barred"),
    [
        ("yes", None, "same", 1, 0),
        ("No.", None, "different", 0, 1),
        ("yes", "no", "unsure", 0, 0),
        ("no", "yes", "unsure", 0, 0),
        ("Yes, if you like", None, "unsure", 0, 0),
        ("", None, "unsure", 0, 0),
    ],
)
async def test_only_the_same_word_in_both_orders_counts(
    word: str, swapped: str | None, result: str, promoted: int, barred: int, tmp_path: Path
) -> None:
    grown = counted(result)
    async with bench(tmp_path, fit(word, swapped)) as on:
        assert on.judge.offer(near())
        await on.settled()
    assert grown() == 1
    assert on.promoted == [("demo", "how do I reset it", "entry")] * promoted
    assert on.barred == [("demo", "how do I reset it", "entry")] * barred


@pytest.mark.parametrize("answer", ["yes", "no", "as an assistant"])
async def test_an_engine_that_cannot_tell_the_controls_apart_is_not_believed(
    answer: str, tmp_path: Path
) -> None:
    async def always(asked: Asked) -> Reply:
        return answer

    unfit = counted("unfit")
    async with bench(tmp_path, always) as on:
        on.judge.offer(near())
        on.judge.offer(near("another"))
        await on.settled()
        tried = len(on.gateway.asked)
        assert unfit() == 2 and on.promoted == on.barred == []
        on.gateway.reply = fit("yes")
        on.clock.advance_ms(int(FIT_S * 1000))
        assert on.judge.offer(near())  # it was not judged
        await on.settled()
    assert len(on.promoted) == 1 and tried < CONTROL_CALLS


async def test_a_pair_is_judged_once_also_after_a_restart(tmp_path: Path) -> None:
    known = counted("known")
    async with bench(tmp_path, fit("no")) as on:
        assert [on.judge.offer(near()) for _ in range(3)] == [True, False, False]
        await on.settled()
        assert not on.judge.offer(near())
        assert on.calls == 2
    async with bench(tmp_path, fit("no")) as again:
        assert not again.judge.offer(near()) and again.judge.offer(near(org="other"))
        await again.settled()
    assert known() == 4 and again.barred == [("other", "how do I reset it", "entry")]


async def test_a_yes_is_not_asked_again_when_its_alias_has_ended(tmp_path: Path) -> None:
    async with bench(tmp_path, fit("yes")) as on:
        for _ in range(2):
            assert on.judge.offer(near())
            await on.settled()
    assert len(on.promoted) == 2 and on.calls == 2


async def test_what_the_store_does_not_take_is_tried_again_without_the_judge(tmp_path: Path) -> None:
    done = asyncio.Event()
    async with bench(tmp_path, fit("yes"), store_down=2) as on:
        promote = on.judge._promote

        async def third(org: OrgId, asked: str, entry: str) -> bool:
            kept = await promote(org, asked, entry)
            done.set()
            return kept

        on.judge._promote = third
        on.judge.offer(near())
        await asyncio.wait_for(done.wait(), WITHIN_S)
    assert len(on.promoted) == 1 and on.calls == 2


async def test_an_org_has_its_minute(tmp_path: Path) -> None:
    limited = counted("limited")
    async with bench(tmp_path, fit("no")) as on:
        taken = [on.judge.offer(near(f"{number}", per_minute=2)) for number in range(4)]
        assert taken == [True, True, False, False]
        assert on.judge.offer(near("0", org="other", per_minute=1))
        assert not on.judge.offer(near("5", org="off", per_minute=0))
        on.clock.advance_ms(MINUTE_MS)
        assert on.judge.offer(near("3", per_minute=2))
        await on.settled()
    assert limited() == 3 and len(on.barred) == 4


async def test_and_so_have_all_together(tmp_path: Path) -> None:
    async with bench(tmp_path, hang, deadline_s=0.1) as on:
        taken = [on.judge.offer(near(org=f"o{number}", per_minute=1)) for number in range(130)]
        assert taken == [True] * 120 + [False] * 10
        assert len(on.judge._queue) == 100


async def test_what_had_to_go_may_come_again(tmp_path: Path) -> None:
    async with bench(tmp_path, fit("no"), queue_max=2) as on:
        for asked in ("first", "second", "third"):
            assert on.judge.offer(near(asked))
        assert on.judge.offer(near("first"))
        await on.settled()
    assert [asked for _, asked, _ in on.barred] == ["third", "first"]


@pytest.mark.parametrize("status", [401, 429, 503])
async def test_what_could_not_be_asked_is_given_up_and_not_remembered(status: int, tmp_path: Path) -> None:
    unasked, tries, last = counted("unasked"), [0], asyncio.Event()

    async def refused(asked: Asked) -> Reply:
        tries[0] += 1
        if tries[0] == 4:
            last.set()
        return status

    async with bench(tmp_path, refused) as on:
        on.judge.offer(near())
        await asyncio.wait_for(last.wait(), WITHIN_S)
        await on.settled()
        assert unasked() == 1 and on.promoted == on.barred == []
        on.gateway.reply = fit("yes")
        assert on.judge.offer(near())
        await on.settled()
    assert len(on.promoted) == 1


async def test_too_long_questions_are_not_judged(tmp_path: Path) -> None:
    unsure = counted("unsure")
    async with bench(tmp_path, fit("yes")) as on:
        on.judge.offer(near("x" * 5000))
        await on.settled()
    assert unsure() == 1 and on.calls == 0
