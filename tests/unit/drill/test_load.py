"""What clients of a drill ask: the seed's, mixed, and nothing twice."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice

import httpx
import orjson
import pytest

from mesh.drill.judge import Ending, Seen
from mesh.drill.load import BUSY_BLOCKS, RUSH, RUSH_EVERY, Ask, Clients, asks

KEYS = ["a", "b", "c"]


def first(seed: int, count: int = 400) -> list[Ask]:
    return list(islice(asks(seed, KEYS), count))


def test_the_same_seed_asks_the_same() -> None:
    assert first(1) == first(1)
    assert first(1) != first(2)


def test_streams_and_json_of_all_sizes_and_clients_that_leave_at_each_stage() -> None:
    asked = first(1)
    assert {ask.stream for ask in asked} == {True, False}
    assert {ask.key for ask in asked} == set(KEYS)
    assert len({ask.max_tokens for ask in asked}) > 2
    assert any(ask.leaves_after_s for ask in asked)
    assert any(ask.leaves_after_events for ask in asked)
    assert all(ask.stream for ask in asked if ask.leaves_after_events is not None)
    stays = [ask for ask in asked if not ask.leaves_after_s and ask.leaves_after_events is None]
    assert len(stays) > len(asked) / 2


def test_all_clients_fall_on_one_budget_at_once() -> None:
    rushes = list(islice(asks(1, KEYS, rush=["x", "y"]), RUSH * RUSH_EVERY * 2))
    blocks = [{ask.key for ask in rushes[start : start + RUSH]} for start in range(0, len(rushes), RUSH)]
    calm = [set(KEYS)] * (RUSH_EVERY - 2)
    assert blocks == [set(KEYS), {"x"}, *calm, set(KEYS), {"y"}, *calm]


def test_a_busy_key_is_asked_alone_for_a_while() -> None:
    asked = list(islice(asks(1, KEYS, busy=True), RUSH * BUSY_BLOCKS * len(KEYS)))
    assert [ask.key for ask in asked] == [key for key in KEYS for _ in range(RUSH * BUSY_BLOCKS)]


def test_no_answer_can_come_from_a_cache() -> None:
    assert len({ask.body("m") for ask in first(1)}) == 400
    assert {"messages", "prompt"} <= {name for ask in first(1) for name in orjson.loads(ask.body("m"))}


@pytest.mark.parametrize(("chat", "received"), [(True, 2), (False, 3)])
async def test_who_leaves_in_mid_stream_tells_what_it_had(chat: bool, received: int) -> None:
    """A chat's first event is the role's."""
    event = b'data: {"choices":[{"delta":{"content":"a"},"finish_reason":null}]}\n\n'
    transport = httpx.MockTransport(
        lambda _: httpx.Response(200, headers={"x-request-id": "r"}, stream=httpx.ByteStream(event * 3))
    )
    ask = replace(first(1)[0], stream=True, leaves_after_s=0.0, leaves_after_events=3, chat=chat)
    clients = Clients("http://gateway", dict.fromkeys(KEYS, "k"), "m", 1)
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
        assert await clients.ask(client, ask) == Seen(ending=Ending.LEFT, rid="r", received=received)
