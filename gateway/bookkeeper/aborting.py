"""Tells engines to stop what nobody waits for: what the access log decided, or the tap of a stream past its
max_tokens; told once and soon, or not at all, because an engine also finds out by itself."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Iterable
from typing import Final

import httpx
import orjson

from gateway.bookkeeper.access import Abort, abort_at_limit
from gateway.contract.clock import Clock
from gateway.events.event import Event
from gateway.path import hop
from gateway.telemetry import names
from gateway.telemetry.metrics import counter

PATH: Final = "/abort_request"
"""SGLang 0.5.23, srt/entrypoints/http_server.py; 200 also for an id that it does not know."""
DEADLINE_S: Final = hop("abort").deadline / 1000
"""Of one call, whole. An engine's HTTP loop answers within milliseconds unless it is stopped."""
WORKERS: Final = 16
"""Calls, and connections, at once: one stopped engine must not make the others' wait."""
QUEUE_MAX: Final = 1_000
"""Waiting aborts: what 16 workers tell in LATE_S if a call takes 64 ms. More would come too late."""
LATE_S: Final = 4.0
"""SGLang's own poll (SGLANG_REQUEST_STATE_WAIT_TIMEOUT, 4 s by default) has been by then."""


class Aborting:
    """``offer`` from the access log, ``notice`` from the outbox; ``run`` in a task. Fails open: every failure
    is only counted."""

    def __init__(self, clock: Clock, *, queue_max: int = QUEUE_MAX) -> None:
        """Does nothing until ``run``."""
        self._clock = clock
        self._queue: asyncio.Queue[tuple[float, Abort]] = asyncio.Queue(queue_max)
        self._noticed: deque[str] = deque(maxlen=queue_max)
        self._aborts = counter(names.ENGINE_ABORTS, "Engines told to stop", ["result"])
        self._dropped = counter(names.EFFECTS_DROPPED, "Effects a full queue dropped", ["effect"])
        self._fail_open = counter(names.FAIL_OPEN, "Requests that went on without a hop", ["hop"])

    def offer(self, abort: Abort) -> bool:
        """Tell the engine soon; False (and counted) when too many wait already."""
        try:
            self._queue.put_nowait((self._clock.monotonic_s(), abort))
        except asyncio.QueueFull:
            self._dropped.labels(effect="abort").inc()
            self._fail_open.labels(hop="abort").inc()
            return False
        return True

    def notice(self, events: Iterable[Event]) -> None:
        """Look among ``events`` for streams that were ended at max_tokens. An event that could not be written
        comes again; its engine is told once."""
        for event in events:
            abort = abort_at_limit(event)
            if abort is not None and event.id not in self._noticed:
                self._noticed.append(event.id)
                self.offer(abort)

    async def run(self, stop: asyncio.Event) -> None:
        """Until ``stop`` and the queue is empty, but no longer than DEADLINE_S after ``stop``."""
        # Neither proxies nor credentials of the environment; a redirect would lead away from the engine.
        # No connection is kept: uvicorn closes idle ones after 5 s, and a call must not meet that.
        limits = httpx.Limits(max_connections=WORKERS, max_keepalive_connections=0)
        async with httpx.AsyncClient(
            trust_env=False, follow_redirects=False, limits=limits, timeout=DEADLINE_S
        ) as client:
            workers = [asyncio.create_task(self._work(client)) for _ in range(WORKERS)]
            try:
                await stop.wait()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._queue.join(), DEADLINE_S)
            finally:
                for worker in workers:
                    worker.cancel()
                await asyncio.gather(*workers, return_exceptions=True)

    async def _work(self, client: httpx.AsyncClient) -> None:
        while True:
            offered_s, abort = await self._queue.get()
            for rid in abort.rids:
                late = self._clock.monotonic_s() - offered_s > LATE_S
                result = "late" if late else await self._told(client, abort.engine, rid)
                self._aborts.labels(result=result).inc()
                if result != "told":
                    self._fail_open.labels(hop="abort").inc()
                    break  # the engine's answer to its other ids would be the same
            self._queue.task_done()

    async def _told(self, client: httpx.AsyncClient, engine: str, rid: str) -> str:
        """The metric's result of one call."""
        url, headers = f"http://{engine}{PATH}", {"content-type": "application/json"}
        try:
            async with (
                asyncio.timeout(DEADLINE_S),
                client.stream("POST", url, content=orjson.dumps({"rid": rid}), headers=headers) as response,
            ):
                # The body is not read: whatever it is, nobody needs it.
                return "told" if response.status_code == 200 else "refused"
        except (httpx.HTTPError, httpx.InvalidURL, TimeoutError):
            return "unreachable"
