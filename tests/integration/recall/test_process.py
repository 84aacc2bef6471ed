"""The recall process on its socket: what was remembered is found, by its own partition alone, in time or not
at all; a kill or a damaged table costs hits, never a wrong one."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path

import pytest

from ext_proc.recall.client import RecallClient
from ext_proc.recall.words import Forget, RecallUnavailable
from gateway.contract.ids import OrgId
from gateway.path import hop
from tests.integration.recall.process import (
    PATIENT_S,
    START_S,
    RecallProcess,
    ask,
    found,
    key,
    recall_process,
    remember,
)

QUESTION = "How do I reset my password?"
SAME = "how do I reset my password"


async def taught(client: RecallClient, text: str, number: int, *, org: str = "acme") -> None:
    assert (await client.find(ask(text, number, org=org))).candidates == ()
    await client.remember(remember(number, org=org))


async def until_written(process: RecallProcess, rows: int) -> None:
    """The data files of ``rows`` flushes are on disk."""
    deadline = time.monotonic() + START_S
    while len(list(process.table.glob("*.lance/data/*"))) < rows:
        process.alive(deadline)
        await asyncio.sleep(0.02)


async def test_what_was_remembered_is_found_by_its_own_alone() -> None:
    with recall_process() as process:
        await process.ready()
        client = RecallClient(process.socket, deadline_s=PATIENT_S)
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
        assert (await client.find(ask("word " * 200, 3))).reason == "too_long"
        await client.remember(remember(77))  # never asked: nothing to remember
        assert [candidate.entry for candidate in (await client.find(ask(SAME, 2))).candidates] == [key(1)]
        await client.aclose()
        assert process.stop() == 0
        assert "password" not in process.log()


async def test_a_frozen_process_costs_no_more_than_the_deadline() -> None:
    with recall_process() as process:
        await process.ready()
        client = RecallClient(process.socket)
        assert process.process is not None
        os.kill(process.process.pid, signal.SIGSTOP)
        try:
            refusals = await asyncio.gather(
                *(client.find(ask(f"Question {number}", number)) for number in range(8)),
                return_exceptions=True,
            )
            assert [str(refusal) for refusal in refusals] == ["late"] * 8
            assert all(isinstance(refusal, RecallUnavailable) for refusal in refusals)
        finally:
            os.kill(process.process.pid, signal.SIGCONT)
        patient = RecallClient(process.socket, deadline_s=PATIENT_S)
        assert (await patient.find(ask("Question 9", 9))).reason == "no_candidate"
        process.kill()
        with pytest.raises(RecallUnavailable, match="down"):
            await patient.find(ask("Question 9", 9))
        await client.aclose()
        await patient.aclose()
    assert hop("recall").deadline == 40


async def test_killed_in_mid_write_it_finds_again_what_it_had_written() -> None:
    with recall_process() as process:
        for turn in range(3):
            if turn:
                process.start()
            await process.ready()
            client = RecallClient(process.socket, deadline_s=PATIENT_S)
            for before in range(turn):
                (candidate,) = (await found(client, ask(f"is this the number {before} ?", 50))).candidates
                assert candidate.entry == key(before)
            await taught(client, f"Is this the number {turn}?", turn)
            await until_written(process, turn + 1)
            for number in range(100, 140):
                await taught(client, f"Is this row {number + turn * 1000}?", number + turn * 1000)
            process.kill()
            await client.aclose()
        assert "quarantined" not in process.log()


def damage(process: RecallProcess, how: str) -> None:
    for file in process.table.glob("*.lance/data/*"):
        if how == "truncated":
            os.truncate(file, file.stat().st_size // 2)
        elif how == "deleted":
            file.unlink()
        else:
            data = bytearray(file.read_bytes())
            data[len(data) // 2] ^= 0xFF
            data[-30:] = bytes(30)
            file.write_bytes(data)


async def test_a_damaged_table_is_put_aside_and_served_as_empty() -> None:
    with recall_process() as process:
        for how in ("whole", "flipped", "truncated", "deleted"):
            if how != "whole":
                process.start()
            await process.ready()
            client = RecallClient(process.socket, deadline_s=PATIENT_S)
            assert (await client.find(ask(SAME, 2))).candidates == ()
            await taught(client, QUESTION, 1)
            assert len((await found(client, ask(SAME, 2))).candidates) == 1
            await client.aclose()
            assert process.stop() == 0
            damage(process, how if how != "whole" else "deleted")
        assert len(list((process.table / "quarantine").iterdir())) == 3
        assert process.log().count("recall.table_quarantined") == 3


async def test_it_loads_when_a_rule_wants_it_and_is_small_until_then() -> None:
    with recall_process(profile="off") as process:
        await process.serving()
        client = RecallClient(process.socket, deadline_s=PATIENT_S)
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
