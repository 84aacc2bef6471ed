"""Receives Envoy's access log: one long stream of each Envoy worker."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping

from gateway.bookkeeper.aborting import Aborting
from gateway.bookkeeper.access import AccessEntry, AnonymousAllowance, abort_of, event_of, resolution_of
from gateway.bookkeeper.codec import LOG_NAME, read_message
from gateway.bookkeeper.inbox import Inbox
from gateway.bookkeeper.resolving import Resolving
from gateway.contract.clock import Clock
from gateway.contract.ids import RegionName
from gateway.telemetry import names
from gateway.telemetry.metrics import child, counter


class Reception:
    """Never waits: what does not fit into a queue is counted there. A reader that waited would make Envoy
    drop entries uncounted."""

    def __init__(
        self, inbox: Inbox, resolving: Resolving, aborting: Aborting, region: RegionName, clock: Clock
    ) -> None:
        """Events go to ``inbox``, what they say of holds to ``resolving``, of engines to ``aborting``."""
        self._inbox = inbox
        self._resolving = resolving
        self._aborting = aborting
        self._region = region
        self._anonymous = AnonymousAllowance(clock)
        self._entries = counter(names.ACCESS_ENTRIES, "gRPC access log entries read", ["result"])
        self._dropped = counter(names.EFFECTS_DROPPED, "Effects a full queue dropped", ["effect"])

    async def stream(
        self, _metadata: Mapping[str, str], messages: AsyncIterator[bytes]
    ) -> AsyncIterator[bytes]:
        """StreamAccessLogs; a StreamHandler. Answers (an empty StreamAccessLogsResponse) at the end."""
        log_name = ""
        async for message in messages:
            name, finished, other = read_message(message)
            log_name = log_name if name is None else name
            if log_name != LOG_NAME:
                other, finished = other + len(finished), ()
            if other:
                self._entries.labels(result="foreign").inc(other)
            for entry in finished:
                self._entry(entry)
        yield b""

    def _entry(self, entry: AccessEntry) -> None:
        abort = abort_of(entry)
        if abort is not None:
            self._aborting.offer(abort)
        resolution = resolution_of(entry)
        if resolution is not None:
            self._resolving.offer(resolution)
        if not entry.org and not self._anonymous.take():
            self._dropped.labels(effect="anonymous_access").inc()
        elif self._inbox.offer(event_of(entry, self._region)):
            child(self._entries, "recorded").inc()
