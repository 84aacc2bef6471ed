"""What the real SGLang answers, kept in the repository so that the twin can be held to it.

``python -m inference.record --url http://127.0.0.1:31003`` asks every case and writes
``inference/recordings/<case>.json``. The server must have been started with
``--max-running-requests 2 --max-queued-requests 2 --enable-priority-scheduling`` for the overload cases.
Paths of the machine are taken out.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import re
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import httpx

RECORDINGS: Final = Path(__file__).with_name("recordings")
RUNNING_MAX: Final = 2
QUEUED_MAX: Final = 2
_FILLED_S: Final = 30.0
_POLL_S: Final = 0.2
"""Asking for the load more often takes the CPU that the generation needs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One request. ``fill`` long streams keep the server busy meanwhile; ``abort_s`` later the request
    is ended by ``/abort_request`` with its ``rid``; ``raw`` is sent as the body as it is."""

    name: str
    method: str = "POST"
    path: str = "/v1/chat/completions"
    body: dict[str, Any] | None = None
    raw: str | None = None
    fill: int = 0
    abort_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """An answer: status, headers without the date, and the body as text."""

    case: str
    status: int
    headers: dict[str, str]
    text: str


def _chat(text: str = "What is the capital of France?", **fields: Any) -> dict[str, Any]:
    return {
        "model": "m",
        "messages": [{"role": "user", "content": text}],
        "temperature": 0,
        "max_tokens": 4,
        **fields,
    }


_USAGE: Final = {"include_usage": True}
_CONTINUOUS: Final = {"include_usage": True, "continuous_usage_stats": True}
_LONG: Final = _chat("Write a story.", max_tokens=600, ignore_eos=True, stream=True)

CASES: Final = (
    Case(name="chat-length", body=_chat(rid="rid-chat", ignore_eos=True)),
    Case(name="chat-stop", body=_chat(max_tokens=100)),
    Case(name="chat-stop-sequence", body=_chat(max_tokens=200, stop=["e", "a"])),
    Case(name="chat-two-choices", body=_chat(n=2, ignore_eos=True)),
    Case(name="chat-no-tokens", body=_chat(max_tokens=0)),
    Case(name="chat-max-completion-tokens", body=_chat(max_completion_tokens=2, ignore_eos=True)),
    Case(name="chat-model-missing", body={k: v for k, v in _chat(ignore_eos=True).items() if k != "model"}),
    Case(name="chat-stream", body=_chat(stream=True, ignore_eos=True)),
    Case(name="chat-stream-stop", body=_chat(stream=True, max_tokens=100)),
    Case(name="chat-stream-usage", body=_chat(stream=True, ignore_eos=True, stream_options=_USAGE)),
    Case(
        name="chat-stream-continuous",
        body=_chat(stream=True, rid="rid-stream", ignore_eos=True, stream_options=_CONTINUOUS),
    ),
    Case(
        name="chat-stream-two-choices",
        body=_chat(stream=True, n=2, ignore_eos=True, stream_options=_CONTINUOUS),
    ),
    Case(
        name="chat-stream-aborted",
        body=_chat(stream=True, rid="rid-abort", ignore_eos=True, max_tokens=900, stream_options=_USAGE),
        abort_s=0.5,
    ),
    Case(name="chat-aborted", body=_chat(rid="rid-abort-2", ignore_eos=True, max_tokens=900), abort_s=0.5),
    Case(name="chat-queue-full", body=_chat(), fill=RUNNING_MAX + QUEUED_MAX),
    Case(
        name="chat-stream-queue-full",
        body=_chat(stream=True, stream_options=_USAGE),
        fill=RUNNING_MAX + QUEUED_MAX,
    ),
    Case(
        name="text-length",
        path="/v1/completions",
        body={"model": "m", "prompt": "Once upon", "max_tokens": 3, "ignore_eos": True},
    ),
    Case(
        name="text-two-prompts",
        path="/v1/completions",
        body={"model": "m", "prompt": ["Once upon", "A quick"], "max_tokens": 3, "ignore_eos": True},
    ),
    Case(
        name="text-stream-continuous",
        path="/v1/completions",
        body={
            "model": "m",
            "prompt": "Once upon",
            "max_tokens": 6,
            "ignore_eos": True,
            "stream": True,
            "stream_options": _CONTINUOUS,
        },
    ),
    Case(
        name="text-stream",
        path="/v1/completions",
        body={"model": "m", "prompt": "Once upon", "max_tokens": 6, "ignore_eos": True, "stream": True},
    ),
    Case(name="bad-messages-empty", body={"model": "m", "messages": []}),
    Case(name="bad-messages-missing", body={"model": "m"}),
    Case(name="bad-json", raw="{nope"),
    Case(name="bad-list", raw="[1]"),
    Case(name="bad-max-tokens-text", body=_chat(max_tokens="abc")),
    Case(name="bad-max-tokens-negative", body=_chat(max_tokens=-3)),
    Case(name="bad-context", body=_chat(max_tokens=100_000)),
    Case(name="bad-context-stream", body=_chat(max_tokens=100_000, stream=True)),
    Case(name="bad-prompt-too-long", body=_chat("word " * 9000)),
    Case(name="bad-priority", body=_chat(priority="high")),
    Case(name="bad-temperature", body=_chat(temperature=-1)),
    Case(name="bad-top-p", body=_chat(top_p=3)),
    Case(name="bad-adapter", body=_chat(model="m:nope")),
    Case(name="models", method="GET", path="/v1/models"),
    Case(name="model-unknown", method="GET", path="/v1/models/nope"),
    Case(name="tokenize", path="/tokenize", body={"prompt": "hello world"}),
    Case(name="tokenize-list", path="/tokenize", body={"prompt": ["hello", "world"]}),
    Case(name="abort-unknown", path="/abort_request", body={"rid": "nobody"}),
    Case(name="ready", method="GET", path="/ready"),
    Case(name="health", method="GET", path="/health"),
    Case(name="path-unknown", method="GET", path="/nope"),
    Case(name="method-wrong", method="GET", path="/v1/chat/completions"),
    Case(name="loads", method="GET", path="/v1/loads"),
    Case(name="metrics", method="GET", path="/metrics"),
)


def kept_text(text: str) -> str:
    """Without the paths of the machine that recorded, and without the buckets of histograms."""
    text = re.sub(r'(File \\?")[^"\\]*/(sglang/srt/)', r"\1/\2", text)
    return re.sub(r"^(sglang:\w+_bucket\{|# HELP).*\n", "", text, flags=re.MULTILINE)


@asynccontextmanager
async def _filled(client: httpx.AsyncClient, streams: int) -> AsyncIterator[None]:
    """``streams`` long generations, running or queued, for as long as the block lasts."""

    async def hold() -> None:
        async with client.stream("POST", "/v1/chat/completions", json=_LONG) as answer:
            async for _ in answer.aiter_raw():
                pass

    async def busy(streams: int) -> None:
        while True:
            [load] = (await client.get("/v1/loads")).json()["loads"]
            if load["num_running_reqs"] + load["num_waiting_reqs"] >= streams:
                return
            await asyncio.sleep(_POLL_S)

    tasks: list[asyncio.Task[None]] = []
    try:
        # One by one: a burst meets the queue's limit before any of it has started to run.
        while len(tasks) < streams:
            tasks.append(asyncio.create_task(hold()))
            async with asyncio.timeout(_FILLED_S):
                await busy(len(tasks))
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def ask(client: httpx.AsyncClient, case: Case) -> Recorded:
    """The answer to ``case`` from the server behind ``client``."""

    async def abort() -> None:
        await asyncio.sleep(case.abort_s or 0)
        await client.post("/abort_request", json={"rid": (case.body or {})["rid"]})

    headers = {"content-type": "application/json"} if case.method == "POST" else {}
    content = case.raw if case.raw is not None else json.dumps(case.body) if case.body is not None else None
    async with contextlib.AsyncExitStack() as stack:
        if case.fill:
            await stack.enter_async_context(_filled(client, case.fill))
        aborting = asyncio.create_task(abort()) if case.abort_s is not None else None
        answer = await client.request(case.method, case.path, content=content, headers=headers)
        if aborting is not None:
            await aborting
    return Recorded(
        case=case.name,
        status=answer.status_code,
        headers={
            name: value for name, value in answer.headers.items() if name not in ("date", "content-length")
        },
        text=kept_text(answer.text),
    )


def recorded(name: str) -> Recorded:
    """The kept answer of a case. Raises FileNotFoundError."""
    return Recorded(**json.loads((RECORDINGS / f"{name}.json").read_text()))


async def _record(url: str, names: Sequence[str]) -> None:
    RECORDINGS.mkdir(exist_ok=True)
    for case in CASES:
        if names and case.name not in names:
            continue
        # A new connection each: the server closes it after a 500.
        async with httpx.AsyncClient(base_url=url, timeout=120, trust_env=False) as client:
            answer = await ask(client, case)
            kept = json.dumps(asdict(answer), indent=1, ensure_ascii=False)
            (RECORDINGS / f"{case.name}.json").write_text(kept + "\n")
            print(f"{answer.status} {case.name}")


def main(argv: Sequence[str] | None = None) -> int:
    """Records; exit code 0 when every case was answered."""
    parser = argparse.ArgumentParser(prog="inference.record", description=__doc__)
    parser.add_argument("--url", required=True)
    parser.add_argument("case", nargs="*", help="only these")
    arguments = parser.parse_args(argv)
    asyncio.run(_record(arguments.url, arguments.case))
    return 0


if __name__ == "__main__":
    sys.exit(main())
