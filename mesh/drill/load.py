"""Clients of a drill: what each asks is the seed's; some leave while they wait, some in mid-stream."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Final

import httpx
import orjson

from mesh.drill.judge import Ending, Seen, ending_of

ANSWER_S: Final = 60.0
"""A client's patience, far beyond the longest answer of a drill: who waits longer was not answered."""
PAUSE_S: Final = (0.1, 0.6)
"""After a refusal that asks to try again (an SDK waits as long): a gateway that is away must not use up the
requests of a drill in a moment."""
LEAVE_SHARE: Final = 0.15
RUSH: Final = 64
"""As many as there are clients."""
RUSH_EVERY: Final = 6
BUSY_BLOCKS: Final = 2
"""Of RUSH requests: for so many a key is asked alone, where keys are to be busy."""
DONE: Final = b"data: [DONE]"
GOING_ON: Final = b'"finish_reason":null'
"""In each event of a stream that carries a part of the answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """One request. ``leaves_after_s`` while waiting for the first byte, ``leaves_after_events`` in a stream:
    0 and None for a client that stays."""

    name: str
    key: str
    stream: bool
    max_tokens: int
    words: int
    pause_s: float
    leaves_after_s: float = 0.0
    leaves_after_events: int | None = None
    chat: bool = True

    @property
    def path(self) -> str:
        """Below the base URL."""
        return "/chat/completions" if self.chat else "/completions"

    def body(self, model: str) -> bytes:
        """Each request asks something else: no answer comes from a cache. A completion's prompt is bounded
        closer than a chat's, so that budgets run out to the last tokens."""
        text = f"{self.name} " + "tide " * self.words
        asked = {"messages": [{"role": "user", "content": text}]} if self.chat else {"prompt": text}
        return orjson.dumps({"model": model, **asked, "max_tokens": self.max_tokens, "stream": self.stream})


def asks(
    seed: int, keys: Sequence[str], *, rush: Sequence[str] = (), kind: str = "load", busy: bool = False
) -> Iterator[Ask]:
    """Without end: the ``n``-th of a kind is the same for the same seed. ``keys`` take turns, request by
    request or, to be ``busy``, in blocks; one in RUSH_EVERY blocks of RUSH requests names only one of
    ``rush``, so that many meet on one budget at once."""
    number = 0
    while True:
        random = Random(f"{seed}/{kind}/{number}")
        block = number // RUSH
        rushing = bool(rush) and block % RUSH_EVERY == 1
        turn = block // BUSY_BLOCKS if busy else number
        stream, leaves = random.random() < 0.5, random.random() < LEAVE_SHARE
        in_stream = stream and random.random() < 0.7
        yield Ask(
            name=f"{kind} {number}",
            key=rush[block // RUSH_EVERY % len(rush)] if rushing else keys[turn % len(keys)],
            stream=stream,
            chat=not rushing and random.random() < 0.3,
            max_tokens=random.choice((4, 8, 16, 24, 40)),
            words=1 if rushing else random.choice((1, 5, 20, 80)),
            pause_s=random.uniform(*PAUSE_S),
            leaves_after_s=random.uniform(0.001, 0.15) if leaves and not in_stream else 0.0,
            leaves_after_events=random.randint(1, 12) if leaves and in_stream else None,
        )
        number += 1


class Clients:
    """``concurrency`` clients that share one sequence of requests until told to stop."""

    def __init__(self, base_url: str, api_keys: Mapping[str, str], model: str, concurrency: int) -> None:
        """Asks nothing yet."""
        self._base_url, self._api_keys, self._model = base_url, api_keys, model
        self._concurrency = concurrency
        self.seen: list[Seen] = []

    async def once(self, ask: Ask) -> Seen:
        """One request on a connection of its own."""
        async with httpx.AsyncClient(base_url=self._base_url, timeout=ANSWER_S, trust_env=False) as client:
            self.seen.append(await self.ask(client, ask))
        return self.seen[-1]

    async def run(self, asked: Iterator[Ask], enough: asyncio.Event) -> None:
        """Until ``enough``; requests under way are finished."""
        limits = httpx.Limits(max_connections=self._concurrency, max_keepalive_connections=self._concurrency)
        async with httpx.AsyncClient(
            base_url=self._base_url, timeout=ANSWER_S, limits=limits, trust_env=False
        ) as client:

            async def one() -> None:
                while not enough.is_set():
                    ask = next(asked)
                    seen = await self.ask(client, ask)
                    self.seen.append(seen)
                    if seen.ending in (Ending.CLOSED, Ending.LOST):
                        await asyncio.sleep(ask.pause_s)

            async with asyncio.TaskGroup() as tasks:
                for _ in range(self._concurrency):
                    tasks.create_task(one())

    async def ask(self, client: httpx.AsyncClient, ask: Ask) -> Seen:
        """One request as its client sees it."""
        headers = {
            "authorization": f"Bearer {self._api_keys[ask.key]}",
            "content-type": "application/json",
        }
        rid = ""
        try:
            async with (
                asyncio.timeout(ask.leaves_after_s or None),
                client.stream("POST", ask.path, content=ask.body(self._model), headers=headers) as answer,
            ):
                rid = answer.headers.get("x-request-id", "")
                received = b""
                async for part in answer.aiter_raw():
                    received += part
                    if (
                        ask.leaves_after_events is not None
                        and received.count(b"data: ") >= ask.leaves_after_events
                    ):
                        return Seen(ending=Ending.LEFT, rid=rid, received=_tokens(received, chat=ask.chat))
        except TimeoutError:
            return Seen(ending=Ending.LEFT, rid=rid)
        except httpx.HTTPError as error:
            return Seen(ending=Ending.LOST, rid=rid, code=type(error).__name__)
        code = answer.headers.get("x-tidegate-refusal", "")
        whole = received.rstrip().endswith(DONE) and b'"error"' not in received if ask.stream else True
        ending = ending_of(answer.status_code, code, whole=whole)
        shown = code or ("" if ending is Ending.ANSWERED else str(answer.status_code))
        return Seen(ending=ending, rid=rid, code=shown)


def _tokens(received: bytes, *, chat: bool) -> int:
    """At least so many were in these events: each but the last ones carries one, and a chat's first none."""
    return max(0, received.count(GOING_ON) - chat)
