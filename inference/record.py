"""What the real SGLang answers, kept in the repository so that the twin can be held to it.

``python -m inference.record --url http://127.0.0.1:31003`` asks every case and writes
``inference/recordings/<case>.json``. The server must have been started with
``--max-running-requests 2 --max-queued-requests 2 --enable-priority-scheduling`` for the cases of overload;
``--drain PID`` asks those of a shutdown, and ends that server; ``--embeddings`` those of a server for
embeddings. Paths of the machine are taken out.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import re
import signal
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import httpx

from inference.cases import CASES, DRAINING, EMBEDDINGS, LONG, Body, Case

RECORDINGS: Final = Path(__file__).with_name("recordings")
_FILLED_S: Final = 60.0
_POLL_S: Final = 0.2
"""Asking for the load more often takes the CPU that the generation needs."""
_FIRST_CHUNKS: Final = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """An answer: status, headers without the date, and the body as text."""

    case: str
    status: int
    headers: dict[str, str]
    text: str


def kept_text(text: str) -> str:
    """Without the paths of the machine that recorded, and without the buckets of histograms."""
    text = re.sub(r'(File \\?")[^"\\]*/(sglang/srt/)', r"\1/\2", text)
    text = re.sub(r"""("model":"|Model ')/[^"']*/""", r"\1/", text)
    return re.sub(r"^(sglang:\w+_bucket\{|# HELP).*\n", "", text, flags=re.MULTILINE)


class Crowd:
    """Streams of others on the same server, for as long as they are wanted."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        """Ended by ``leave``."""
        self._client = client
        self._tasks: list[asyncio.Task[None]] = []

    def send(self, body: Body) -> asyncio.Event:
        """Starts a stream; the event is set once it has begun to answer or was refused."""
        begun = asyncio.Event()
        self._tasks.append(asyncio.create_task(self._hold(body, begun)))
        return begun

    async def join(self, body: Body, *, already: int = 0) -> None:
        """Starts a stream; returns once it runs or waits, ``already`` others and the crowd beside it; one
        of priority above 0, which puts others out, once it has begun to answer."""
        begun = self.send(body)
        # One by one: a burst meets the queue's limit before any of it has started to run.
        async with asyncio.timeout(_FILLED_S):
            if body.get("priority", 0) > 0:
                await begun.wait()
            else:
                await until_busy(self._client, already + len(self._tasks))

    async def _hold(self, body: Body, begun: asyncio.Event) -> None:
        async with self._client.stream("POST", "/v1/chat/completions", json=body) as answer:
            async for _ in answer.aiter_raw():
                begun.set()

    async def leave(self) -> None:
        """Closes all."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


async def until_busy(client: httpx.AsyncClient, requests: int) -> None:
    """Until that many or more run or wait, as the server tells."""
    await _until(client, lambda found: found >= requests)


async def until_idle(client: httpx.AsyncClient) -> None:
    """Until nothing runs or waits."""
    await _until(client, lambda found: found == 0)


async def _until(client: httpx.AsyncClient, enough: Callable[[int], bool]) -> None:
    async with asyncio.timeout(_FILLED_S):
        while True:
            [load] = (await client.get("/v1/loads")).json()["loads"]
            if enough(load["num_running_reqs"] + load["num_waiting_reqs"]):
                return
            await asyncio.sleep(_POLL_S)


async def ask(client: httpx.AsyncClient, case: Case) -> Recorded:
    """The answer to ``case`` from the server behind ``client``; waits until it is idle, before and
    after, where others' streams matter. Raises TimeoutError."""
    begun, text = asyncio.Event(), ""

    async def answered() -> tuple[httpx.Response, str]:
        nonlocal text
        try:
            async with client.stream(case.method, case.path, content=content, headers=headers) as answer:
                async for part in answer.aiter_text():
                    text += part
                    if text.count("\ndata: ") >= _FIRST_CHUNKS:
                        begun.set()
        finally:
            begun.set()
        return answer, text

    headers = {"content-type": case.content_type} if case.method == "POST" else {}
    content = case.raw if case.raw is not None else json.dumps(case.body) if case.body is not None else None
    crowd = Crowd(client)
    async with contextlib.AsyncExitStack() as stack:
        if case.before or case.after or case.abort:
            await until_idle(client)
            stack.push_async_callback(until_idle, client)
        stack.push_async_callback(crowd.leave)
        for body in case.before:
            await crowd.join(body)
        asking = asyncio.create_task(answered())
        if case.abort:
            await until_busy(client, 1)
            await client.post("/abort_request", json={"rid": (case.body or {})["rid"]})
        if case.after:
            streams = (case.body or {}).get("stream", False)
            await (begun.wait() if streams else until_busy(client, len(case.before) + 1))
            for body in case.after[:-1]:
                await crowd.join(body, already=1)
            crowd.send(case.after[-1])
        answer, text = await asking
    return Recorded(
        case=case.name,
        status=answer.status_code,
        headers={
            name: value for name, value in answer.headers.items() if name not in ("date", "content-length")
        },
        text=kept_text(text),
    )


async def _until_unready(client: httpx.AsyncClient) -> None:
    while True:
        if (await client.get("/ready")).status_code != 200:
            return
        await asyncio.sleep(_POLL_S)


@asynccontextmanager
async def draining(client: httpx.AsyncClient, terminate: Callable[[], None]) -> AsyncIterator[None]:
    """A server that was told to end while a long stream runs; it ends after that."""
    crowd = Crowd(client)
    try:
        await crowd.join(LONG)
        terminate()
        async with asyncio.timeout(_FILLED_S):
            await _until_unready(client)
        yield
    finally:
        await crowd.leave()


def recorded(name: str) -> Recorded:
    """The kept answer of a case. Raises FileNotFoundError."""
    return Recorded(**json.loads((RECORDINGS / f"{name}.json").read_text()))


def _keep(answer: Recorded) -> None:
    kept = json.dumps(asdict(answer), indent=1, ensure_ascii=False)
    (RECORDINGS / f"{answer.case}.json").write_text(kept + "\n")
    print(f"{answer.status} {answer.case}", flush=True)


def _new_client(url: str) -> httpx.AsyncClient:
    # A new connection each: the server closes it after a 500.
    return httpx.AsyncClient(base_url=url, timeout=300, trust_env=False)


async def _record(url: str, cases: Sequence[Case]) -> None:
    for case in cases:
        async with _new_client(url) as client:
            _keep(await ask(client, case))


async def _record_draining(url: str, pid: int) -> None:
    async with _new_client(url) as client, draining(client, lambda: os.kill(pid, signal.SIGTERM)):
        for case in DRAINING:
            _keep(await ask(client, case))


def main(argv: Sequence[str] | None = None) -> int:
    """Records; exit code 0 when every case was answered."""
    parser = argparse.ArgumentParser(prog="inference.record", description=__doc__)
    parser.add_argument("--url", required=True)
    parser.add_argument("--drain", type=int, metavar="PID")
    parser.add_argument("--embeddings", action="store_true")
    parser.add_argument("case", nargs="*", help="only these")
    arguments = parser.parse_args(argv)
    RECORDINGS.mkdir(exist_ok=True)
    if arguments.drain is not None:
        asyncio.run(_record_draining(arguments.url, arguments.drain))
        return 0
    cases = EMBEDDINGS if arguments.embeddings else CASES
    wanted = [case for case in cases if not arguments.case or case.name in arguments.case]
    asyncio.run(_record(arguments.url, wanted))
    return 0


if __name__ == "__main__":
    sys.exit(main())
