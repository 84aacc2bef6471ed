"""A worker's part: what is refused or late is a code, and is followed by a moment without questions."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest

from ext_proc.cache.policy import Profile
from ext_proc.recall import codec
from ext_proc.recall.client import REST_S, REST_S_MAX, RESTING_ORGS_MAX, RecallClient
from ext_proc.recall.service import Service
from ext_proc.recall.standby import Standby
from ext_proc.recall.words import Ask, Forget, RecallUnavailable, Reply
from gateway.contract.clock import ManualClock
from gateway.contract.ids import ModelName, OrgId
from gateway.sidecar.health import HealthBoard
from gateway.sidecar.server import Sidecar
from gateway.telemetry.log import logger

ASK = Ask(
    org=OrgId("acme"),
    model=ModelName("chat"),
    partition="a" * 64,
    asked="b" * 64,
    text="Hello?",
    profile=Profile.STRICT,
    keep_s=60,
)
NOTHING = codec.reply_to_bytes(Reply(candidates=(), reason="no_candidate"))


class Answers:
    """A recall process that says what it is told to; ``hangs`` answers nothing."""

    def __init__(self) -> None:
        self.says, self.asked, self.hangs = NOTHING, 0, False

    async def find(self, metadata: Mapping[str, str], request: bytes) -> bytes:
        self.asked += 1
        if self.hangs:
            await asyncio.Event().wait()
        return self.says


@pytest.fixture
async def answers(tmp_path: Path) -> AsyncIterator[Answers]:
    made = Answers()
    sidecar = Sidecar(tmp_path / "r.sock", {codec.FIND: made.find}, {}, HealthBoard())
    await sidecar.start()
    yield made
    await sidecar.stop(0)


async def refused(client: RecallClient) -> str:
    with pytest.raises(RecallUnavailable) as said:
        await client.find(ASK)
    return str(said.value)


async def test_after_a_refusal_nothing_is_asked_for_a_moment(answers: Answers, tmp_path: Path) -> None:
    clock = ManualClock()
    client = RecallClient(tmp_path / "r.sock", deadline_s=5, clock=clock)
    answers.says = codec.reply_to_bytes(RecallUnavailable("full"))
    assert await refused(client) == "full"
    assert await refused(client) == "resting"
    assert answers.asked == 1
    clock.advance_ms(int(REST_S * 1000) + 1)
    answers.says = NOTHING
    assert (await client.find(ASK)).reason == "no_candidate"
    assert (await client.find(ASK)).reason == "no_candidate"
    answers.says = b"{}"
    assert await refused(client) == "bad_message"
    await client.aclose()


async def test_one_org_that_asks_too_much_leaves_the_others_their_questions(
    answers: Answers, tmp_path: Path
) -> None:
    client = RecallClient(tmp_path / "r.sock", deadline_s=5, clock=ManualClock())
    answers.says = codec.reply_to_bytes(RecallUnavailable("full"))
    assert await refused(client) == "full"
    answers.says = NOTHING
    assert (await client.find(replace(ASK, org=OrgId("other")))).reason == "no_candidate"
    assert await refused(client) == "resting"
    await client.aclose()


async def test_whose_rest_is_remembered_is_bounded(answers: Answers, tmp_path: Path) -> None:
    client = RecallClient(tmp_path / "r.sock", deadline_s=5, clock=ManualClock())
    answers.says = codec.reply_to_bytes(RecallUnavailable("full"))
    for number in range(RESTING_ORGS_MAX + 1):
        with pytest.raises(RecallUnavailable, match="full"):
            await client.find(replace(ASK, org=OrgId(f"org{number}")))
    with pytest.raises(RecallUnavailable, match="full"):
        await client.find(replace(ASK, org=OrgId("org0")))
    with pytest.raises(RecallUnavailable, match="resting"):
        await client.find(replace(ASK, org=OrgId(f"org{RESTING_ORGS_MAX}")))
    await client.aclose()


async def test_what_is_told_to_one_that_is_not_ready_is_refused_and_no_failure(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    standby = Standby(nullcontext, logger("test"))  # type: ignore[arg-type]  # never wanted
    sidecar = Sidecar(tmp_path / "r.sock", Service(standby, ManualClock()).handlers(), {}, HealthBoard())
    await sidecar.start()
    client = RecallClient(tmp_path / "r.sock", deadline_s=5)
    with pytest.raises(RecallUnavailable, match="not_ready"):
        await client.forget(Forget(org=OrgId("acme"), entry="a" * 64))
    with pytest.raises(RecallUnavailable, match="not_ready"):
        await client.expect(ASK)
    await client.aclose()
    await sidecar.stop(0)
    assert "failed" not in capfd.readouterr().out


async def test_one_that_hangs_is_asked_ever_more_seldom(answers: Answers, tmp_path: Path) -> None:
    clock = ManualClock()
    client = RecallClient(tmp_path / "r.sock", deadline_s=0.02, clock=clock)
    answers.hangs = True
    rest_s = REST_S
    for _ in range(8):
        assert await refused(client) == "late"
        clock.advance_ms(int(rest_s * 1000) - 2)
        assert await refused(client) == "resting"
        clock.advance_ms(4)  # the clock's own seconds are rounded
        rest_s = min(2 * rest_s, REST_S_MAX)
    assert rest_s == REST_S_MAX
    await client.aclose()


async def test_nobody_there(tmp_path: Path) -> None:
    client = RecallClient(tmp_path / "none.sock")
    assert await refused(client) == "down"
    await client.aclose()
