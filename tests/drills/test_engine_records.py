"""The twin's record of its attempts, asked over HTTP as reconciling asks it."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from gateway.bookkeeper.reconcile_engines import EngineSilent, TwinRecords
from tests.harness.engines import twin


async def test_a_twin_tells_every_attempt_and_an_engine_without_a_record_is_silent(tmp_path: Path) -> None:
    with twin(tmp_path, "--model", "m") as engine:
        body = {"model": "m", "rid": "r-1", "max_tokens": 5, "messages": [{"role": "user", "content": "Hi"}]}
        async with httpx.AsyncClient(trust_env=False) as client:
            answer = await client.post(f"{engine.url}/v1/chat/completions", json=body)
        view = await TwinRecords(engine.url).read()
        assert view.complete
        (record,) = view.attempts["r-1"]
        assert (record.tokens, record.over) == (answer.json()["usage"]["total_tokens"], True)
        with pytest.raises(EngineSilent):
            await TwinRecords(engine.url + "/v1").read()
    with pytest.raises(EngineSilent):
        await TwinRecords(engine.url).read()
