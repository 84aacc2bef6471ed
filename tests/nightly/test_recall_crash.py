"""Fifty kills of the recall process in mid-write: the table opens each time, what had been written is found,
nothing that was not asked is, and service goes on."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time

from ext_proc.recall.client import RecallClient
from ext_proc.recall.words import RecallUnavailable
from tests.integration.recall.process import PATIENT_S, Patient, ask, key, recall_process, remember

KILLS = 50
RUN_S = 45 * 60.0
"""Eight minutes on two busy cores, most of it fifty times LanceDB's import."""
COUNTED = 500
"""Of the questions written, those that are looked for at the end."""


async def write(client: RecallClient, first: int) -> int:
    """Questions from ``first`` on until the process is gone; how many were taken."""
    number = first
    with contextlib.suppress(RecallUnavailable):
        while True:
            await client.find(ask(f"Is this row {number}?", number))
            await client.remember(remember(number))
            number += 1
    return number - first


async def found(client: RecallClient, number: int) -> bool:
    reply = await client.find(ask(f"is this row {number} ?", 10**9))
    entries = {candidate.entry for candidate in reply.candidates}
    assert entries <= {key(number)}
    return bool(entries)


async def test_fifty_kills_in_mid_write() -> None:
    async with asyncio.timeout(RUN_S):
        await fifty_kills_in_mid_write()


async def fifty_kills_in_mid_write() -> None:
    draw, taken, kept, began_s = random.Random(11), 0, set[int](), time.monotonic()
    with recall_process() as process:
        for kill in range(KILLS):
            if kill:
                process.start()
            await process.ready()
            client = Patient(process.socket, deadline_s=PATIENT_S)
            asked = draw.sample(range(taken), min(taken, 20)) + draw.sample(sorted(kept), min(len(kept), 20))
            for number in asked:
                there = await found(client, number)
                assert there or number not in kept
                kept |= {number} if there else set()
            writing = asyncio.create_task(write(client, taken))
            await asyncio.sleep(draw.uniform(0.2, 2.5))
            process.kill()
            taken += await writing
            await client.aclose()
        process.start()
        await process.ready()
        client = Patient(process.socket, deadline_s=PATIENT_S)
        looked_for = draw.sample(range(taken), min(taken, COUNTED))
        survived = [await found(client, number) for number in looked_for]
        await client.aclose()
        assert "quarantined" not in process.log()
    print(
        f"{KILLS} kills in {time.monotonic() - began_s:.0f} s: {taken} questions taken, "
        f"{sum(survived)} of {len(looked_for)} still there, 0 wrong, 0 tables put aside"
    )
    assert kept
    assert any(survived)
