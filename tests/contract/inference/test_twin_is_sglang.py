"""The same cases on the twin and on recordings of the real SGLang: field by field the same shape."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from inference.record import CASES, QUEUED_MAX, RUNNING_MAX, Case, Recorded, ask, recorded
from tests.contract.inference.shape import body, series, shape
from tests.harness.engines import Twin, twin

TEXT_FREE = {"bad-json", "bad-max-tokens-text", "bad-priority", "bad-messages-missing"}
"""Validation texts, which quote the parser and the input."""
BY_PARTS = {"loads", "metrics"}
ORDER_FREE = {"chat-stream-two-choices"}
"""Choices of one stream come as their tokens do."""


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Twin]:
    options = ["--max-running", str(RUNNING_MAX), "--max-queued", str(QUEUED_MAX), "--health-ms", "10"]
    directory = tmp_path_factory.mktemp("twin")
    with twin(directory, "--model", "smollm2-135m", "--tokens-per-s", "200", *options) as running:
        yield running


def answered(engine: Twin, case: Case) -> Recorded:
    async def asked() -> Recorded:
        async with httpx.AsyncClient(base_url=engine.url, timeout=20, trust_env=False) as client:
            return await ask(client, case)

    return asyncio.run(asked())


@pytest.mark.parametrize("case", [case for case in CASES if case.name not in BY_PARTS], ids=lambda c: c.name)
def test_answers_like_the_real_one(engine: Twin, case: Case) -> None:
    real, ours = recorded(case.name), answered(engine, case)
    assert ours.status == real.status
    assert _compared_headers(ours) == _compared_headers(real)
    content_type = real.headers.get("content-type", "")
    real_shape, our_shape = body(content_type, real.text), body(content_type, ours.text)
    if case.name in TEXT_FREE:
        real_shape["message"] = our_shape["message"] = ""
    if case.name in ORDER_FREE:
        real_shape, our_shape = (
            sorted({json.dumps(event) for event in kept}) for kept in (real_shape, our_shape)
        )
    assert our_shape == real_shape
    assert json.dumps(our_shape) == json.dumps(real_shape), "the order of fields"


def _compared_headers(answer: Recorded) -> dict[str, str]:
    return {name.lower(): value for name, value in sorted(answer.headers.items())}


def test_loads_are_a_part_of_the_real_ones(engine: Twin) -> None:
    [case] = (case for case in CASES if case.name == "loads")
    real = json.loads(recorded("loads").text)["loads"][0]
    ours = json.loads(answered(engine, case).text)["loads"][0]
    assert ours.keys() <= real.keys()
    assert shape(ours) == {key: shape(real[key]) for key in ours}


def test_metrics_are_a_part_of_the_real_ones(engine: Twin) -> None:
    cases = {case.name: case for case in CASES}
    for name in ("chat-length", "chat-stream", "chat-length", "chat-stream-aborted"):
        answered(engine, cases[name])
    real, ours = series(recorded("metrics").text), series(answered(engine, cases["metrics"]).text)
    assert ours.keys() <= real.keys()
    for name, labels in ours.items():
        assert labels <= real[name], name


def test_every_case_is_recorded() -> None:
    kept = {path.stem for path in (Path(__file__).parents[3] / "inference" / "recordings").glob("*.json")}
    assert kept == {case.name for case in CASES}
