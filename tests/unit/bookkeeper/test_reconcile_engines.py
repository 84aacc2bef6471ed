"""Engines' records as they are read: SGLang's export line by line, and several engines as one."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest

from gateway.bookkeeper.reconcile_engines import (
    EngineSilent,
    EngineView,
    ExportedRecords,
    joined,
)
from tests.unit.bookkeeper.reconciling import attempt

EXPORTED = {
    "request_parameters": "{}",
    "id": "rid-1",
    "finish_reason": {"type": "length", "length": 30},
    "prompt_tokens": 8,
    "completion_tokens": 30,
    "cached_tokens": 3,
    "weight_version": "default",
    "e2e_latency": 0.51,
}
"""A line of SGLang 0.5.23, observability/request_metrics_exporter.py, with --log-requests-level 0."""


async def test_an_export_of_sglang_is_read_and_proves_nothing_by_silence(tmp_path: Path) -> None:
    lines = [orjson.dumps(EXPORTED), b"{}", b"not json", b"[1]", orjson.dumps({**EXPORTED, "id": 7})]
    lines.append(orjson.dumps({**EXPORTED, "id": "rid-2", "prompt_tokens": -1}))
    torn = orjson.dumps(EXPORTED)[:40]
    (tmp_path / "sglang-request-metrics-20261121_17.log").write_bytes(b"\n".join([*lines, torn]))
    (tmp_path / "other.log").write_bytes(orjson.dumps({**EXPORTED, "id": "rid-3"}) + b"\n")
    view = await ExportedRecords(tmp_path).read()
    assert not view.complete
    ((rid, (record,)),) = view.attempts.items()
    assert (rid, record.tokens, record.cached_tokens, record.over) == ("rid-1", 38, 3, True)
    assert record.finished


@pytest.mark.parametrize("finish", [{"type": "abort", "message": "gone"}, None, "stop"])
async def test_an_answer_that_was_ended_did_not_finish(tmp_path: Path, finish: object) -> None:
    line = orjson.dumps({**EXPORTED, "finish_reason": finish})
    (tmp_path / "sglang-request-metrics-20261121_17.log").write_bytes(line + b"\n")
    view = await ExportedRecords(tmp_path).read()
    assert not view.attempts["rid-1"][0].finished


async def test_no_directory_is_no_evidence(tmp_path: Path) -> None:
    with pytest.raises(EngineSilent):
        await ExportedRecords(tmp_path / "none").read()


def test_several_engines_are_one_view_in_the_order_of_their_attempts() -> None:
    first = EngineView(attempts={"r": [attempt("r", 1, 2, at=20)]}, complete=True)
    second = EngineView(attempts={"r": [attempt("r", 3, 4, at=10)]}, complete=False)
    view = joined([first, second])
    assert [record.tokens for record in view.attempts["r"]] == [7, 3]
    assert (view.complete, joined([]).complete) == (False, False)
