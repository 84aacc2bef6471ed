"""The Recall protocol before there is a recaller: embedder and table cost 300 MB and seconds, so they are
loaded when a rule of the policy wants similar answers for the first time. Until then every call is refused,
which is a miss."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Final

from ext_proc.recall.words import Ask, Forget, Recall, RecallUnavailable, Remember, Reply, Served
from gateway.telemetry.log import EventLog

RETRY_S: Final = 30.0
"""After an embedder that could not be had: a package may be installed, an engine may come up."""


class Standby:
    """See Recall."""

    def __init__(self, load: Callable[[], AbstractAsyncContextManager[Recall]], log: EventLog) -> None:
        """``load`` opens the recaller, and closes it at the end."""
        self._load, self._log = load, log
        self._wanted = asyncio.Event()
        self._recall: Recall | None = None

    def want(self) -> None:
        """Load, if that has not begun; from the event loop."""
        self._wanted.set()

    async def run(self) -> None:
        """Until cancelled."""
        await self._wanted.wait()
        while True:
            self._log.info("recall.loading")
            try:
                async with self._load() as recall:
                    self._recall = recall
                    self._log.info("recall.ready")
                    await asyncio.Event().wait()
            except Exception as error:  # noqa: BLE001  # whatever it is: the gateway goes on without it
                # By name: to import SourceUnusable, which has one, is to import numpy.
                mend = getattr(error, "mend", "")
                self._log.error("recall.not_loaded", kind=type(error).__name__, mend=mend, retry_s=RETRY_S)
            finally:
                self._recall = None
            await asyncio.sleep(RETRY_S)

    async def find(self, ask: Ask) -> Reply:
        """See Recall."""
        return await self._ready().find(ask)

    async def expect(self, ask: Ask) -> None:
        """See Recall."""
        await self._ready().expect(ask)

    async def remember(self, remember: Remember) -> None:
        """See Recall."""
        await self._ready().remember(remember)

    async def forget(self, forget: Forget) -> None:
        """See Recall."""
        await self._ready().forget(forget)

    async def served(self, served: Served) -> None:
        """See Recall."""
        await self._ready().served(served)

    def _ready(self) -> Recall:
        if self._recall is None:
            raise RecallUnavailable("not_ready")
        return self._recall
