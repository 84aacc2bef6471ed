"""The same cases on the twin and on recordings of the real SGLang: field by field the same shape."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from inference.cases import CASES, DRAINING, EMBEDDINGS, QUEUED_MAX, RUNNING_MAX, Case
from inference.record import RECORDINGS, Recorded, ask, draining, kept_text, recorded
from tests.contract.inference.shape import body, series
from tests.harness.engines import Twin, twin

TEXT_FREE = {"bad-json", "bad-tool-schema", "bad-regex"}
"""Texts of a JSON parser, a schema validator and a regex compiler, which are not the twin's."""
BY_PARTS = {"metrics"}
ORDER_FREE = {"chat-stream-two-choices", "text-stream-two-prompts", "chat-stream-tools-logprobs"}
"""Choices of one stream come as their tokens do; between probabilities, parts of calls as they are read."""
CONTENT_FREE = {"chat-stream-tools", "chat-stream-tools-continuous", "chat-stream-tools-logprobs"}
"""What a language model says beside its calls."""
LIMITS = ("--max-running", str(RUNNING_MAX), "--max-queued", str(QUEUED_MAX), "--health-ms", "10")
PACE = ("--model", "smollm2-135m", "--tokens-per-s", "200")


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Twin]:
    with twin(tmp_path_factory.mktemp("twin"), *PACE, *LIMITS, "--serves", "generation") as running:
        yield running


def client(engine: Twin) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=engine.url, timeout=20, trust_env=False)


def answered(engine: Twin, case: Case) -> Recorded:
    async def asked() -> Recorded:
        async with client(engine) as http:
            return await ask(http, case)

    return asyncio.run(asked())


def same(ours: Recorded, real: Recorded) -> None:
    """Fails where the two differ in more than their values."""
    assert ours.status == real.status, ours.text
    assert _compared_headers(ours) == _compared_headers(real)
    content_type = real.headers.get("content-type", "")
    real_shape, our_shape = body(content_type, real.text), body(content_type, ours.text)
    if real.case in TEXT_FREE:
        real_shape["message"] = our_shape["message"] = ""
    if real.case in CONTENT_FREE:
        real_shape, our_shape = _without_content(real_shape), _without_content(our_shape)
    if real.case in ORDER_FREE:
        real_shape, our_shape = (
            sorted({json.dumps(event) for event in kept}) for kept in (real_shape, our_shape)
        )
    assert our_shape == real_shape
    assert json.dumps(our_shape) == json.dumps(real_shape), "the order of fields"


def _compared_headers(answer: Recorded) -> dict[str, str]:
    return {name.lower(): value for name, value in sorted(answer.headers.items())}


def _without_content(found: Any) -> Any:
    if isinstance(found, dict):
        return found
    return [
        event for event in found if '"content": "str", "reasoning_content": null}' not in json.dumps(event)
    ]


@pytest.mark.parametrize("case", [case for case in CASES if case.name not in BY_PARTS], ids=lambda c: c.name)
def test_answers_like_the_real_one(engine: Twin, case: Case) -> None:
    same(answered(engine, case), recorded(case.name))


@pytest.mark.parametrize("case", EMBEDDINGS, ids=lambda case: case.name)
def test_embeds_like_the_real_one(embedder: Twin, case: Case) -> None:
    same(answered(embedder, case), recorded(case.name))


@pytest.fixture(scope="module")
def embedder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Twin]:
    options = ("--serves", "embeddings", "--context", "512")
    with twin(tmp_path_factory.mktemp("embedder"), *options) as running:
        yield running


def test_drains_like_the_real_one(tmp_path_factory: pytest.TempPathFactory) -> None:
    with twin(tmp_path_factory.mktemp("draining"), *PACE) as running:

        async def asked() -> list[Recorded]:
            def terminate() -> None:
                running.process.send_signal(signal.SIGTERM)

            async with client(running) as http, draining(http, terminate):
                return [await ask(http, case) for case in DRAINING]

        for ours in asyncio.run(asked()):
            same(ours, recorded(ours.case))


def test_metrics_are_a_part_of_the_real_ones(engine: Twin) -> None:
    cases = {case.name: case for case in CASES}
    for name in ("chat-length", "chat-stream", "chat-length", "chat-stream-aborted", "chat-stream-preempted"):
        answered(engine, cases[name])
    real = series(recorded("metrics").text)
    ours = series(kept_text(answered(engine, cases["metrics"]).text))
    assert ours.keys() <= real.keys()
    for name, labels in ours.items():
        assert labels <= real[name], name


def test_every_case_is_recorded() -> None:
    kept = {path.stem for path in RECORDINGS.glob("*.json")}
    assert kept == {case.name for case in (*CASES, *DRAINING, *EMBEDDINGS)}
