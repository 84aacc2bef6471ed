"""The keys of one issuer, from a file or a URL.

For a URL: cached 5 minutes, refreshed in the background at 80 % of that, one fetch at a time, an
unknown kid forces a refresh at most every 10 seconds (peers that never do refuse every caller for
minutes after a rotation; peers that always do can be made to flood the issuer), and the last good set
serves for 24 hours while the issuer is down (peers that evict turn its outage into theirs).
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Protocol

from ext_authz.decision import KeysUnavailable
from ext_authz.keys.fetch import Fetch, FetchFailed
from ext_authz.keys.jwk import KeySet, NotAKeySet, VerifyKey, parse_key_set
from ext_authz.keys.secret_file import SecretFile
from gateway.contract.clock import Clock
from gateway.telemetry import names
from gateway.telemetry.log import logger
from gateway.telemetry.metrics import counter

TTL_S: Final = 300.0
REFRESH_AT_S: Final = 0.8 * TTL_S
FORCED_EVERY_S: Final = 10.0
STALE_S: Final = 24 * 3600.0
RETRY_S: Final = 1.0
"""Pause after a failed fetch; doubles up to RETRY_S_MAX."""
RETRY_S_MAX: Final = 30.0
WAIT_S: Final = 0.3
"""How long a request waits for a fetch that it needs; ext_authz must answer within 0.5 s (gateway/path.py).
The fetch itself goes on."""
UNKNOWN_KIDS_MAX: Final = 1000
UNKNOWN_FOR_S: Final = 60.0
"""How long a kid that a refresh did not bring forces no other one (unless the set changes meanwhile)."""
TICK_S: Final = 1.0
_log = logger("ext_authz")


class IssuerKeys(Protocol):
    """Where an issuer's keys are looked up."""

    def known(self, kid: str) -> VerifyKey | None:
        """The key, when it is in a set that may be used now. Never waits."""

    async def find(self, kid: str) -> VerifyKey | None:
        """The key, None when the issuer does not publish it. Raises KeysUnavailable."""

    async def run(self) -> None:
        """Keep the set fresh until cancelled."""


class FileKeys:
    """Keys from a JWKS file in the secrets directory."""

    def __init__(self, path: Path) -> None:
        """Reads the file; an absent one can come later."""
        self._file: SecretFile[KeySet] = SecretFile(path, parse_key_set)

    def known(self, kid: str) -> VerifyKey | None:
        """See IssuerKeys."""
        keys = self._file.current
        return None if keys is None else keys.get(kid)

    async def find(self, kid: str) -> VerifyKey | None:
        """See IssuerKeys."""
        if self._file.current is None:
            raise KeysUnavailable
        return self.known(kid)

    def poll(self) -> bool:
        """Look for a change of the file now."""
        return self._file.poll()

    async def run(self) -> None:
        """See IssuerKeys."""
        await self._file.run()


class UrlKeys:
    """Keys from an issuer's JWKS URL, which the policy names (never a token)."""

    def __init__(self, url: str, fetch: Fetch, clock: Clock, *, wait_s: float = WAIT_S) -> None:
        """Empty until the first fetch: the first ``tick`` or the first request that needs a key."""
        self._url = url
        self._fetch = fetch
        self._clock = clock
        self._wait_s = wait_s
        self._keys: Mapping[str, VerifyKey] = {}
        self._good_at_s: float | None = None
        self._tried_at_s = -STALE_S
        self._forced_at_s = -STALE_S
        self._failures = 0
        self._unknown: OrderedDict[str, float] = OrderedDict()
        self._fetching: asyncio.Task[None] | None = None
        self._fetches = counter(names.JWKS_FETCHES, "JWKS refreshes", ["result"])

    def _usable(self) -> bool:
        return self._good_at_s is not None and self._clock.monotonic_s() - self._good_at_s < STALE_S

    def known(self, kid: str) -> VerifyKey | None:
        """See IssuerKeys."""
        return self._keys.get(kid) if self._usable() else None

    async def find(self, kid: str) -> VerifyKey | None:
        """See IssuerKeys."""
        key = self.known(kid)
        if key is not None or self._refused_lately(kid):
            return key
        now, asked = self._clock.monotonic_s(), False
        if not self._usable():
            if self._fetching is not None or now - self._tried_at_s >= self._pause_s():
                await self._refreshed()
        elif self._fetching is not None or now - self._forced_at_s >= FORCED_EVERY_S:
            if self._fetching is None:
                self._forced_at_s = now
            await self._refreshed()
            asked = True
        if not self._usable() or (self._failures and self.known(kid) is None):
            raise KeysUnavailable  # the issuer might know this kid; nobody can say
        key = self.known(kid)
        if key is None and asked:
            self._remember_unknown(kid)
        return key

    def _refused_lately(self, kid: str) -> bool:
        until = self._unknown.get(kid)
        return until is not None and self._usable() and self._clock.monotonic_s() < until

    def _remember_unknown(self, kid: str) -> None:
        """A kid that was just looked for is not looked for again soon; bounded, the oldest goes."""
        self._unknown[kid] = self._clock.monotonic_s() + UNKNOWN_FOR_S
        self._unknown.move_to_end(kid)
        while len(self._unknown) > UNKNOWN_KIDS_MAX:
            self._unknown.popitem(last=False)

    def _pause_s(self) -> float:
        return min(RETRY_S_MAX, RETRY_S * 2 ** max(0, self._failures - 1)) if self._failures else 0.0

    async def _refreshed(self) -> None:
        """Wait, bounded, for the one fetch under way or a new one. Raises KeysUnavailable when it is slow."""
        if self._fetching is None:
            self._fetching = asyncio.create_task(self._refresh())
        try:
            async with asyncio.timeout(self._wait_s):
                await asyncio.shield(self._fetching)
        except TimeoutError:
            raise KeysUnavailable from None

    async def _refresh(self) -> None:
        self._tried_at_s = self._clock.monotonic_s()
        try:
            keys = parse_key_set(await self._fetch(self._url))
        except (FetchFailed, NotAKeySet) as error:
            self._failures += 1
            refused = isinstance(error, NotAKeySet)
            self._fetches.labels(result="refused" if refused else "failed").inc()
            _log.warning("jwks.not_refreshed", url=self._url, error=error, failures=self._failures)
        else:
            self._take(keys)
        finally:
            self._fetching = None

    def _take(self, keys: KeySet) -> None:
        """Put ``keys`` in force. A key that did not change keeps its object, and so its cached tokens."""
        kept = {}
        for kid, key in keys.items():
            old = self._keys.get(kid)
            same = old is not None and old.algorithm == key.algorithm and old.public == key.public
            kept[kid] = old if old is not None and same else key
        if kept.keys() != self._keys.keys():
            self._unknown.clear()
            _log.info("jwks.keys", url=self._url, count=len(kept))
        self._keys = kept
        self._good_at_s = self._clock.monotonic_s()
        self._failures = 0
        self._fetches.labels(result="ok").inc()

    async def tick(self) -> None:
        """Refresh when it is time; waits for the fetch."""
        now = self._clock.monotonic_s()
        fresh = self._good_at_s is not None and now - self._good_at_s < REFRESH_AT_S
        if not fresh and now - self._tried_at_s >= self._pause_s():
            if self._fetching is None:
                self._fetching = asyncio.create_task(self._refresh())
            await asyncio.shield(self._fetching)

    async def run(self) -> None:
        """See IssuerKeys."""
        while True:
            await self.tick()
            await asyncio.sleep(TICK_S)
