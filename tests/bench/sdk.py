"""What an application sees: the official Python client (asyncio) through the gateway and directly.

Streams: time from the call to the first content, and between the chunks after it. Whole answers: time of
the call. Slices of the two alternate in one run; the samples of all rounds are pooled. The client shares
the machine and pays the same for both, so the difference is the gateway's.
"""

from __future__ import annotations

import asyncio
import itertools
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import openai
from openai import AsyncOpenAI

from tests.bench.targets import MODEL, WholePath, free_port
from tests.harness.engines import real_sglang, twin

ROUNDS: Final = 3
DIRECT, GATEWAY = "engine", "tidegate"
REQUEST_S_MAX: Final = 120
"""Of one request; 32 answers at once from a CPU take a while."""
_NUMBERS: Final = itertools.count()


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """A pace of the engine with what is asked of it. ``rule`` sets the twin's pace for prompts that contain
    ``name``, which is no part of another's; None leaves the engine as it is."""

    name: str
    concurrency: tuple[int, ...]
    tokens: int
    rule: dict[str, float] | None = None


TWIN_LOADS: Final = (
    # A 7B model on one GPU: some 60 tokens a second for each stream.
    Load(name="paced", concurrency=(1, 8, 32), tokens=32, rule={"tokens_per_s": 60, "ttft_ms": 30}),
    Load(name="at once", concurrency=(1, 8, 32), tokens=32, rule={"tokens_per_s": 0, "ttft_ms": 0}),
)
SGLANG_LOADS: Final = (Load(name="sglang", concurrency=(1, 8), tokens=16),)
"""Two streams fill a CPU; 32 would measure its queue."""


@dataclass(slots=True)
class Samples:
    """Seconds, of one target under one load."""

    first_s: list[float] = field(default_factory=list)
    between_s: list[float] = field(default_factory=list)
    whole_s: list[float] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)


async def one_stream(client: AsyncOpenAI, asked: dict[str, Any], into: Samples) -> None:
    """One streamed answer, chunk by chunk."""
    last = started = time.perf_counter()
    async for chunk in await client.chat.completions.create(**asked, stream=True):
        if not chunk.choices or not chunk.choices[0].delta.content:
            continue
        now = time.perf_counter()
        if last == started:
            into.first_s.append(now - started)
        else:
            into.between_s.append(now - last)
        last = now


async def one_answer(client: AsyncOpenAI, asked: dict[str, Any], into: Samples) -> None:
    """One answer that is not streamed."""
    started = time.perf_counter()
    await client.chat.completions.create(**asked)
    into.whole_s.append(time.perf_counter() - started)


def request(load: Load) -> dict[str, Any]:
    """A question that was never asked before, with an answer of fixed length."""
    text = f"{load.name} question {next(_NUMBERS)}"
    return {
        "model": MODEL,
        "messages": [{"role": "user", "content": text}],
        "max_tokens": load.tokens,
        "temperature": 1,
        "extra_body": {"ignore_eos": True},
    }


async def slice_of(
    client: AsyncOpenAI, load: Load, *, concurrency: int, stream: bool, seconds: float, into: Samples
) -> None:
    """``concurrency`` callers, each asking again when answered, for ``seconds`` after all are connected."""
    connected = asyncio.Barrier(concurrency)
    one = one_stream if stream else one_answer

    async def caller() -> None:
        try:
            await client.chat.completions.create(**{**request(load), "max_tokens": 1})
        finally:
            await connected.wait()
        until = time.perf_counter() + seconds
        while time.perf_counter() < until:
            await one(client, request(load), into)

    done = await asyncio.gather(*(caller() for _ in range(concurrency)), return_exceptions=True)
    for error in done:
        if isinstance(error, openai.OpenAIError):
            into.errors.append(f"{type(error).__name__}: {error}")
        elif isinstance(error, BaseException):
            raise error


@contextmanager
def running_engine(kind: str, directory: Path) -> Iterator[int]:
    """The port of a ``twin`` or of the real ``sglang``."""
    if kind == "sglang":
        with real_sglang(directory, port=free_port()) as real:
            yield real.port
        return
    with twin(directory, "--model", MODEL) as model:
        model.script(*({"contains": load.name, **load.rule} for load in TWIN_LOADS if load.rule is not None))
        yield model.port


async def measured(targets: dict[str, tuple[int, str]], loads: tuple[Load, ...], *, seconds: float) -> Any:
    """Rows of ``report``; ``targets`` are (port, key) by name."""
    clients = {
        name: AsyncOpenAI(
            base_url=f"http://127.0.0.1:{port}/v1", api_key=key, max_retries=0, timeout=REQUEST_S_MAX
        )
        for name, (port, key) in targets.items()
    }
    samples: dict[tuple[str, int], dict[str, Samples]] = {}
    for number in range(ROUNDS):
        for load in loads:
            for concurrency in load.concurrency:
                row = samples.setdefault((load.name, concurrency), {name: Samples() for name in clients})
                for stream in (True, False):
                    for name, client in clients.items():
                        await slice_of(
                            client,
                            load,
                            concurrency=concurrency,
                            stream=stream,
                            seconds=seconds,
                            into=row[name],
                        )
        print(f"  sdk: round {number + 1} of {ROUNDS}", file=sys.stderr, flush=True)
    for client in clients.values():
        await client.close()
    return [
        {
            "load": load,
            "concurrency": concurrency,
            **{name: figures(taken) for name, taken in row.items()},
        }
        for (load, concurrency), row in samples.items()
    ]


def figures(samples: Samples) -> dict[str, Any]:
    """Milliseconds at the middle and at the 99th hundredth, and how many there were."""
    return {
        "first_token": spread(samples.first_s),
        "between_chunks": spread(samples.between_s),
        "whole_answer": spread(samples.whole_s),
        "errors": samples.errors,
    }


def spread(seconds: list[float]) -> dict[str, float | int | None]:
    """p50 and p99 (the nearest sample above) in ms; None without samples."""
    ordered = sorted(seconds)
    return {
        "count": len(ordered),
        "p50_ms": statistics.median(ordered) * 1000 if ordered else None,
        "p99_ms": ordered[min(len(ordered) - 1, len(ordered) * 99 // 100)] * 1000 if ordered else None,
    }


def run(seconds: float, engine: str) -> dict[str, Any]:
    """Start engine and gateway, measure, stop them; ``seconds`` is for one slice."""
    loads = SGLANG_LOADS if engine == "sglang" else TWIN_LOADS
    with tempfile.TemporaryDirectory(prefix="tidegate-bench-") as directory:
        work_dir = Path(directory)
        with running_engine(engine, work_dir) as port:
            whole = WholePath(port, work_dir / "state")
            try:
                gateway = whole.target()
                targets = {DIRECT: (port, "-"), GATEWAY: (gateway.port, gateway.token)}
                rows = asyncio.run(measured(targets, loads, seconds=seconds))
            finally:
                whole.close()
    return {"engine": engine, "seconds_per_slice": seconds, "rounds": ROUNDS, "rows": rows}
