"""The supervisor with real processes: order, restart, give-up, stop."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest

from mesh.local.logfile import tail
from mesh.local.part import State
from mesh.local.proc import identity_of, is_alive
from mesh.local.refusal import Refusal
from tests.integration.mesh_local.toys import fresh_layout, supervised, toy, valkey


async def test_a_part_starts_when_what_it_needs_is_ready_and_stops_before_it(tmp_path: Path) -> None:
    layout = fresh_layout(tmp_path)
    parts = [toy(layout, "last", after=("ledger",)), valkey(layout)]
    async with supervised(layout, parts) as (supervisor, watcher, record, stop, running):
        await asyncio.wait_for(supervisor.wait_all(), 15)
        assert watcher.order(State.READY) == ["ledger", "last"]
        pids = {identity.pid for identity, _ in record.parts.values()}
        assert len(pids) == 2
        stop.set()
        await running
    assert watcher.order(State.STOPPED) == ["last", "ledger"]
    assert [pid for pid in pids if identity_of(pid)] == []
    assert record.living() == []


async def test_independent_parts_start_together(tmp_path: Path) -> None:
    layout = fresh_layout(tmp_path)
    parts = [toy(layout, "slow", "progress"), toy(layout, "quick"), toy(layout, "after", after=("slow",))]
    async with supervised(layout, parts) as (supervisor, watcher, *_):
        await asyncio.wait_for(supervisor.wait_all(), 15)
    assert watcher.order(State.READY) == ["quick", "slow", "after"]


async def test_a_killed_part_comes_back_after_a_pause(tmp_path: Path) -> None:
    layout = fresh_layout(tmp_path)
    async with supervised(layout, [valkey(layout)]) as (supervisor, watcher, *_):
        await asyncio.wait_for(supervisor.wait_all(), 15)
        first = supervisor.views["ledger"].pid
        assert first is not None
        os.kill(first, signal.SIGKILL)
        restarting = await watcher.wait_for(lambda view: view.state is State.RESTARTING)
        assert "killed by SIGKILL" in restarting.detail
        await watcher.wait_for(lambda view: view.restarts == 1 and view.state is State.READY)
        assert supervisor.views["ledger"].pid not in (None, first)


async def test_a_part_that_dies_at_once_ends_the_start_with_its_last_words(tmp_path: Path) -> None:
    layout = fresh_layout(tmp_path)
    async with supervised(layout, [valkey(layout), toy(layout, "sick", "die")]) as (*_, record, _, running):
        with pytest.raises(Refusal) as refused:
            await asyncio.wait_for(running, 15)
        assert "sick does not start (ended with exit 3)" in str(refused.value)
        assert str(layout.log("sick")) in str(refused.value)
        assert "the reason why" in refused.value.detail
        assert record.living() == []


async def test_a_part_that_says_why_it_cannot_is_believed_at_once(tmp_path: Path) -> None:
    layout = fresh_layout(tmp_path)
    async with supervised(layout, [toy(layout, "poor", "refuse")]) as (_, watcher, _, _, running):
        with pytest.raises(Refusal, match=r"^poor: no room for it: free 4 GiB$"):
            await asyncio.wait_for(running, 15)
        assert watcher.order(State.RESTARTING) == []


async def test_a_program_that_is_missing_is_named(tmp_path: Path) -> None:
    layout = fresh_layout(tmp_path)
    part = toy(layout, "absent")
    missing = type(part)(name="absent", command=("/nonexistent/program",), probe=part.probe)
    async with supervised(layout, [missing]) as (*_, running):
        with pytest.raises(Refusal) as refused:
            await asyncio.wait_for(running, 15)
        assert "/nonexistent/program: No such file or directory" in refused.value.detail


async def test_a_part_that_never_listens_is_given_up(tmp_path: Path) -> None:
    layout = fresh_layout(tmp_path)
    async with supervised(layout, [toy(layout, "deaf", "deaf", ready_s=0.3)]) as (*_, record, _, running):
        with pytest.raises(Refusal, match=r"deaf does not start \(not ready within 0 s\)"):
            await asyncio.wait_for(running, 15)
        assert record.living() == []


async def test_a_stop_takes_stubborn_parts_and_their_children_along(tmp_path: Path) -> None:
    layout = fresh_layout(tmp_path)
    words = ("stubborn", "child", "wiped-child")
    async with supervised(layout, [toy(layout, "mule", *words)]) as (supervisor, _, _record, stop, running):
        await asyncio.wait_for(supervisor.wait_all(), 15)
        children = [int(line.split()[1]) for line in tail(layout.log("mule"), 9) if line.startswith("child")]
        alive = [identity_of(pid) for pid in children]
        assert len(alive) == 2
        assert all(alive)
        stop.set()
        await asyncio.wait_for(running, 15)
    assert [identity for identity in alive if identity and is_alive(identity)] == []


async def test_progress_lines_are_shown_while_a_part_starts(tmp_path: Path) -> None:
    layout = fresh_layout(tmp_path)
    async with supervised(layout, [toy(layout, "busy", "progress")]) as (_, watcher, *_):
        await watcher.wait_for(lambda view: view.detail == "reading 1 of 2")
