"""A worker's part: what is refused or late is a code, and is followed by a moment without questions."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import pytest

from ext_proc.cache.policy import Profile
from ext_proc.recall import codec
from ext_proc.recall.client import REST_S, REST_S_MAX, RecallClient
from ext_proc.recall.words import Ask, RecallUnavailable, Reply
from gateway.contract.clock import ManualClock
from gateway.contract.ids import ModelName, OrgId
from gateway.sidecar.health import HealthBoard
from gateway.sidecar.server import Sidecar

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
