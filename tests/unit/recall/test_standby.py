"""A recaller that cannot be loaded costs the searches, and an operator is told what to do."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import orjson
import pytest

from ext_proc.recall.standby import Standby
from ext_proc.recall.words import Forget, Recall, RecallUnavailable
from gateway.contract.ids import OrgId
from gateway.telemetry.log import logger
from inference.embedders.source import SourceUnusable


async def test_what_is_missing_is_said_with_its_mend(capfd: pytest.CaptureFixture[str]) -> None:
    tried = asyncio.Event()

    @asynccontextmanager
    async def load() -> AsyncIterator[Recall]:
        tried.set()
        raise SourceUnusable("the package weights is not installed", "install weights==1.0.0")
        yield  # which makes it a generator

    standby = Standby(load, logger("test"))
    standby.want()
    task = asyncio.create_task(standby.run())
    await tried.wait()
    with pytest.raises(RecallUnavailable, match="not_ready"):
        await standby.forget(Forget(org=OrgId("acme"), entry="a" * 64))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    said = [orjson.loads(line) for line in capfd.readouterr().out.splitlines()]
    (refused,) = [line for line in said if line["event"] == "recall.not_loaded"]
    assert (refused["kind"], refused["mend"]) == ("SourceUnusable", "install weights==1.0.0")
