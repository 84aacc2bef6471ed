"""The Recall protocol as a worker speaks it: to the recall process, over its Unix socket."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

from ext_proc.recall import codec
from ext_proc.recall.words import Ask, Forget, RecallUnavailable, Remember, Reply, Served
from gateway.contract.clock import Clock, SystemClock
from gateway.contract.ids import OrgId
from gateway.path import hop
from gateway.sidecar.client import CallFailed, Connection

CALLS_MAX: Final = 64
"""Of one worker at a time: more could only be late, and wait for nothing."""
NOTE_S: Final = 1.0
"""For what nobody waits for."""
REST_S: Final = 0.02
"""As long as the texts that wait take to be embedded."""
REST_S_MAX: Final = 1.0
RESTING_ORGS_MAX: Final = 1024
"""Whose rest is remembered; the longest known is forgotten, which costs a refusal."""
_REASONS: Final = {"DEADLINE_EXCEEDED": "late", "RESOURCE_EXHAUSTED": "full"}


class RecallClient:
    """See Recall. One for each process; ``aclose`` at the end.

    After a question that was late none is asked for a moment, which doubles while they stay late: a process
    that is busy is not made busier, and one that hangs costs a worker one deadline a second. After one that
    was refused because too many wait, only its own org asks none: what one has too many of, another may have
    room for.
    """

    def __init__(
        self,
        listen: Path,
        *,
        deadline_s: float = hop("recall").deadline / 1000,
        clock: Clock | None = None,
    ) -> None:
        """``listen``: the socket of the recall process. Does no I/O; call it where an event loop runs."""
        self._connection, self._deadline_s = Connection(listen), deadline_s
        self._clock = clock or SystemClock()
        self._calls = 0
        self._rest_until_s, self._rest_s = float("-inf"), REST_S
        self._full_until_s: dict[OrgId, float] = {}

    async def find(self, ask: Ask) -> Reply:
        """See Recall."""
        if self._clock.monotonic_s() < max(self._rest_until_s, self._full_until_s.get(ask.org, 0.0)):
            raise RecallUnavailable("resting")
        try:
            data = await self._call(codec.FIND, lambda: codec.ask_to_bytes(ask), self._deadline_s)
            reply = codec.reply_of(data)
        except codec.BadMessage:
            raise RecallUnavailable("bad_message") from None
        except RecallUnavailable as unavailable:
            if str(unavailable) == "full":
                self._rest_org(ask.org)
            else:
                self._rest()
            raise
        self._rest_s = REST_S
        return reply

    async def expect(self, ask: Ask) -> None:
        """See Recall."""
        await self._note(codec.EXPECT, lambda: codec.ask_to_bytes(ask))

    async def remember(self, remember: Remember) -> None:
        """See Recall."""
        await self._note(codec.REMEMBER, lambda: codec.remember_to_bytes(remember))

    async def forget(self, forget: Forget) -> None:
        """See Recall."""
        await self._note(codec.FORGET, lambda: codec.forget_to_bytes(forget))

    async def served(self, served: Served) -> None:
        """See Recall."""
        await self._note(codec.SERVED, lambda: codec.served_to_bytes(served))

    async def aclose(self) -> None:
        """Close the connection."""
        await self._connection.aclose()

    async def _note(self, method: str, request: Callable[[], bytes]) -> None:
        try:
            codec.done_of(await self._call(method, request, NOTE_S))
        except codec.BadMessage:
            raise RecallUnavailable("bad_message") from None

    async def _call(self, method: str, request: Callable[[], bytes], timeout_s: float) -> bytes:
        if self._calls >= CALLS_MAX:
            raise RecallUnavailable("full")
        self._calls += 1
        try:
            return await self._connection.call(method, request(), timeout_s=timeout_s)
        except codec.BadMessage:
            raise RecallUnavailable("bad_message") from None
        except CallFailed as failure:
            raise RecallUnavailable(_REASONS.get(failure.status, "down")) from None
        finally:
            self._calls -= 1

    def _rest_org(self, org: OrgId) -> None:
        self._full_until_s.pop(org, None)
        if len(self._full_until_s) >= RESTING_ORGS_MAX:
            del self._full_until_s[next(iter(self._full_until_s))]
        self._full_until_s[org] = self._clock.monotonic_s() + REST_S

    def _rest(self) -> None:
        now = self._clock.monotonic_s()
        if now < self._rest_until_s:
            return  # of many that were asked together, the first one decides
        self._rest_until_s = now + self._rest_s
        self._rest_s = min(2 * self._rest_s, REST_S_MAX)
