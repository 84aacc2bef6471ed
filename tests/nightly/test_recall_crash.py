"""Fifty kills of the recall process in mid-write: the table opens each time, what had been written is found,
nothing that was not asked is, and service goes on."""

from __future__ import annotations

import asyncio
import contextlib
import random

from ext_proc.recall.client import RecallClient
from ext_proc.recall.words import RecallUnavailable
from tests.integration.recall.process import PATIENT_S, Patient, ask, key, recall_process, remember

KILLS = 50


async def write(client: RecallClient, first: int) -> int:
    """Questions from ``first`` on until the process is gone; how many were taken."""
    number = first
    with contextlib.suppress(RecallUnavailable):
        while True:
            await client.find(ask(f"Is this row {number}?", number))
            await client.remember(remember(number))
            number += 1
    return number - first


async def test_fifty_kills_in_mid_write() -> None:
    draw, taken, kept = random.Random(11), 0, set[int]()
    with recall_process() as process:
        for kill in range(KILLS):
            if kill:
                process.start()
            await process.ready()
            client = Patient(process.socket, deadline_s=PATIENT_S)
            asked = draw.sample(range(taken), min(taken, 20)) + draw.sample(sorted(kept), min(len(kept), 20))
            for number in asked:
                reply = await client.find(ask(f"is this row {number} ?", 10**9))
                found = {candidate.entry for candidate in reply.candidates}
                assert found == {key(number)} if number in kept else found <= {key(number)}
                kept |= {number} if found else set()
            writing = asyncio.create_task(write(client, taken))
            await asyncio.sleep(draw.uniform(0.2, 2.5))
            process.kill()
            taken += await writing
            await client.aclose()
        assert "quarantined" not in process.log()
    assert kept
