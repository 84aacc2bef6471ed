"""The recall process on its socket: what was remembered is found, by its own partition alone, in time or not
at all; a kill or a damaged table costs hits, never a wrong one."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ext_proc.recall.client import RecallClient
from ext_proc.recall.words import Forget, RecallUnavailable
from gateway.contract.ids import OrgId
from tests.integration.recall.process import (
    PATIENT_S,
    START_S,
    Patient,
    RecallProcess,
    ask,
    key,
    recall_process,
    remember,
)

QUESTION = "How do I reset my password?"
SAME = "how do I reset my password"


async def taught(client: RecallClient, text: str, number: int, *, org: str = "acme") -> None:
    assert (await client.find(ask(text, number, org=org))).candidates == ()
    await client.remember(remember(number, org=org))


async def until_written(process: RecallProcess) -> None:
    """The first batch is a version of the table: the empty table was the first."""
    deadline = time.monotonic() + START_S
    while len(list(process.table.glob("*.lance/_versions/*.manifest"))) < 2:
        process.alive(deadline)
        await asyncio.sleep(0.02)


@pytest.fixture(scope="module")
def running() -> Iterator[RecallProcess]:
    """One process for the tests that leave it as they found it: a start takes seconds."""
    with recall_process() as process:
        yield process


async def test_what_was_remembered_is_found_by_its_own_alone(running: RecallProcess) -> None:
    process = running
    await process.ready()
    client = Patient(process.socket, deadline_s=PATIENT_S)
    await taught(client, QUESTION, 1)
    await taught(client, QUESTION, 1, org="other")
    for org in ("acme", "other"):
        reply = await client.find(ask(SAME, 2, org=org))
        (candidate,) = reply.candidates
        assert candidate.entry == key(1)
        assert candidate.similarity > 0.9
        assert candidate.bucket.startswith(f"{org}/chat/")
        assert "password" not in str(reply.steps)
    assert (await client.find(ask(SAME, 2, org="third"))).reason == "no_candidate"
    assert (await client.find(ask(SAME, 2, partition="b" * 64))).reason == "no_candidate"
    await client.forget(Forget(org=OrgId("other"), entry=key(1)))
    assert (await client.find(ask(SAME, 2, org="other"))).candidates == ()
    assert len((await client.find(ask(SAME, 2))).candidates) == 1
    assert (await client.find(ask("how long is a word " * 25, 3))).reason == "too_long"
    await client.remember(remember(77))  # never asked: nothing to remember
    assert [candidate.entry for candidate in (await client.find(ask(SAME, 2))).candidates] == [key(1)]
    await client.aclose()
    assert "password" not in process.log()


async def test_a_frozen_process_costs_no_more_than_the_deadline(running: RecallProcess) -> None:
    await running.ready()
    client, patient = RecallClient(running.socket), Patient(running.socket, deadline_s=PATIENT_S)
    assert running.process is not None
    os.kill(running.process.pid, signal.SIGSTOP)
    try:
        refusals = await asyncio.gather(
            *(client.find(ask(f"Question {number}", number)) for number in range(8)),
            return_exceptions=True,
        )
        assert [(type(refusal), str(refusal)) for refusal in refusals] == [(RecallUnavailable, "late")] * 8
    finally:
        os.kill(running.process.pid, signal.SIGCONT)
    assert (await patient.find(ask("Question 9", 9, org="frozen"))).reason == "no_candidate"
    await client.aclose()
    await patient.aclose()


async def test_killed_in_mid_write_it_finds_what_it_had_written_and_a_damaged_table_is_empty() -> None:
    with recall_process() as process:
        await process.ready()
        client = Patient(process.socket, deadline_s=PATIENT_S)
        await taught(client, QUESTION, 1)
        await until_written(process)
        for number in range(100, 140):
            await taught(client, f"Is this row {number}?", number)
        process.kill()
        with pytest.raises(RecallUnavailable, match="down"):
            await client.find(ask(SAME, 2))
        process.start()
        await process.ready()
        (candidate,) = (await client.find(ask(SAME, 2))).candidates
        assert candidate.entry == key(1)
        assert "quarantined" not in process.log()
        assert process.stop() == 0
        for file in process.table.glob("*.lance/data/*"):
            os.truncate(file, file.stat().st_size // 2)
        process.start()
        await process.ready()
        assert (await client.find(ask(SAME, 2))).candidates == ()
        assert process.log().count("recall.table_quarantined") == 1
        assert len(list((process.table / "quarantine").iterdir())) == 1
        await client.aclose()


async def test_it_loads_when_a_rule_wants_it_and_is_small_until_then() -> None:
    with recall_process(profile="off") as process:
        await process.serving()
        client = Patient(process.socket, deadline_s=PATIENT_S)
        with pytest.raises(RecallUnavailable, match="not_ready"):
            await client.find(ask(QUESTION, 1))
        assert process.process is not None
        maps = Path(f"/proc/{process.process.pid}/maps").read_text()
        assert "grpc" in maps
        for large in ("lancedb", "onnxruntime", "usearch", "pyarrow", "numpy"):
            assert f"/{large}/" not in maps
        process.policy("strict")
        await process.ready()
        await taught(client, QUESTION, 1)
        assert len((await client.find(ask(SAME, 2))).candidates) == 1
        await client.aclose()
