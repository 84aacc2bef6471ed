"""One connection for many tasks: answers find their callers whatever becomes of the others."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from redis.exceptions import RedisError, ResponseError

from gateway.budget.redis_connection import connect
from gateway.budget.redis_lane import BATCH_MAX, Lane
from gateway.contract.units import Millis
from tests.contract.budget.subjects import PATIENT
from tests.harness.valkey import StoreProcess


async def test_calls_made_together_get_their_own_answers_over_one_connection(client: Any) -> None:
    lane, texts = Lane(client), [str(number) for number in range(3 * BATCH_MAX)]
    assert await asyncio.gather(*(lane.call("ECHO", text) for text in texts)) == texts
    assert len(await client.client_list()) == 2  # the lane's, and this question's


async def test_a_refused_command_harms_no_other(client: Any) -> None:
    lane = Lane(client)
    answers = await asyncio.gather(
        lane.call("ECHO", "a"), lane.call("NO_SUCH"), lane.call("ECHO", "b"), return_exceptions=True
    )
    assert (answers[0], answers[2]) == ("a", "b")
    assert isinstance(answers[1], ResponseError)


async def test_a_caller_who_leaves_takes_back_what_was_not_sent(client: Any) -> None:
    lane = Lane(client)
    leaver = asyncio.create_task(lane.call("SET", "left", "1"))
    await asyncio.sleep(0)  # it waits in the lane, which has not run yet
    leaver.cancel()
    assert await lane.call("GET", "left") is None


async def test_the_answer_of_a_caller_who_left_is_nobody_elses(client: Any) -> None:
    lane = Lane(client)
    await lane.call("PING")
    slow = asyncio.create_task(lane.call("BLPOP", "empty", "0.05"))
    for _ in range(5):  # sent by now: the connection is open and a write does not wait
        await asyncio.sleep(0)
    slow.cancel()
    assert await lane.call("ECHO", "mine") == "mine"


async def test_a_connection_that_the_store_closed_is_opened_again(client: Any) -> None:
    lane = Lane(client)
    lost = int(await lane.call("CLIENT", "ID"))
    await client.client_kill_filter(_id=str(lost))
    assert await lane._connection._reader.read(1) == b""  # its end has arrived
    assert await lane.call("ECHO", "again") == "again"


async def test_a_silent_store_fails_what_waits_and_the_next_call_works(store: StoreProcess) -> None:
    client = connect(store.url, timeout=Millis(500))
    lane = Lane(client)
    waiting = [lane.call("BLPOP", "empty", "2"), lane.call("ECHO", "behind")]
    answers = await asyncio.gather(*waiting, return_exceptions=True)
    assert all(isinstance(answer, RedisError | OSError) for answer in answers)
    assert await lane.call("ECHO", "well") == "well"
    await client.aclose()


async def test_closing_fails_what_is_under_way(store: StoreProcess) -> None:
    client = connect(store.url, timeout=PATIENT)
    lane = Lane(client)
    await lane.call("PING")
    waiting = asyncio.create_task(lane.call("BLPOP", "empty", "5"))
    await asyncio.sleep(0)
    await lane.aclose()
    with pytest.raises(RedisError):
        await waiting
    await client.aclose()


async def test_a_closed_lane_gives_its_connection_back(client: Any) -> None:
    """One that keeps it starves everybody else of the client's pool."""
    for _ in range(2 * client.connection_pool.max_connections):
        lane = Lane(client)
        assert await lane.call("ECHO", "here") == "here"
        await lane.aclose()
    assert await client.ping()
