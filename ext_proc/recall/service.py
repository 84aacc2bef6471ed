"""The calls of the recall process: bytes to words, what is said, words to bytes."""

from __future__ import annotations

from collections.abc import Awaitable, Mapping

from ext_proc.recall import codec
from ext_proc.recall.words import Recall, RecallUnavailable
from gateway.contract.clock import Clock
from gateway.sidecar.server import UnaryHandler
from gateway.telemetry import names
from gateway.telemetry.metrics import child, counter, histogram


class Service:
    """Handlers for gateway.sidecar.server. A BadMessage ends the call with INTERNAL, as any failure does."""

    def __init__(self, recall: Recall, clock: Clock) -> None:
        """``recall`` does what is asked."""
        self._recall, self._clock = recall, clock
        self._finds = counter(names.RECALL_FINDS, "Questions put to the recall process", ["result"])
        self._duration = histogram(names.RECALL_FIND_DURATION, "One question in the recall process")

    def handlers(self) -> Mapping[str, UnaryHandler]:
        """By full method."""
        return {
            codec.FIND: self._find,
            codec.EXPECT: self._expect,
            codec.REMEMBER: self._remember,
            codec.FORGET: self._forget,
            codec.SERVED: self._served,
        }

    async def _find(self, metadata: Mapping[str, str], request: bytes) -> bytes:
        began = self._clock.monotonic_s()
        try:
            reply = await self._recall.find(codec.ask_of(request))
            result, answer = reply.reason, codec.reply_to_bytes(reply)
        except RecallUnavailable as unavailable:
            result, answer = str(unavailable), codec.reply_to_bytes(unavailable)
        child(self._finds, result).inc()
        self._duration.observe(self._clock.monotonic_s() - began)
        return answer

    async def _expect(self, metadata: Mapping[str, str], request: bytes) -> bytes:
        return await self._noted(self._recall.expect(codec.ask_of(request)))

    async def _remember(self, metadata: Mapping[str, str], request: bytes) -> bytes:
        return await self._noted(self._recall.remember(codec.remember_of(request)))

    async def _forget(self, metadata: Mapping[str, str], request: bytes) -> bytes:
        return await self._noted(self._recall.forget(codec.forget_of(request)))

    async def _served(self, metadata: Mapping[str, str], request: bytes) -> bytes:
        return await self._noted(self._recall.served(codec.served_of(request)))

    @staticmethod
    async def _noted(work: Awaitable[None]) -> bytes:
        try:
            await work
        except RecallUnavailable as unavailable:  # while it loads: no failure of this process
            return codec.reply_to_bytes(unavailable)
        return codec.DONE
