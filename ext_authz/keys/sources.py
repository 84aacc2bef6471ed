"""All key sources of the policy in force, followed while it changes."""

from __future__ import annotations

import asyncio
from pathlib import Path

from ext_authz.decision import KeysUnavailable
from ext_authz.keys.fetch import Fetch, fetch
from ext_authz.keys.jwks import FileKeys, IssuerKeys, UrlKeys
from ext_authz.keys.secret_file import SecretFile
from ext_authz.policy import AuthPolicy, Issuer, JwksSource
from gateway.contract.clock import Clock
from gateway.keys.api_key import ApiKeys, parse_api_keys


class Sources:
    """One IssuerKeys for each distinct JWKS source, one file of API keys."""

    def __init__(
        self, tasks: asyncio.TaskGroup, secrets_dir: Path, clock: Clock, *, fetch: Fetch = fetch
    ) -> None:
        """Refreshes run in ``tasks``: one that dies of a bug ends the process, which is started anew."""
        self._tasks = tasks
        self._secrets_dir = secrets_dir
        self._clock = clock
        self._fetch = fetch
        self._issuer_keys: dict[JwksSource, IssuerKeys] = {}
        self._api_keys_file = ""
        self._api_keys: SecretFile[ApiKeys] | None = None
        self._running: dict[JwksSource | str, asyncio.Task[None]] = {}

    def follow(self, policy: AuthPolicy) -> None:
        """Open what ``policy`` names, close what it no longer names, leave the rest as it is."""
        wanted = {issuer.jwks for issuer in policy.issuers.values()}
        for source in self._issuer_keys.keys() - wanted:
            del self._issuer_keys[source]
            self._running.pop(source).cancel()
        for source in wanted - self._issuer_keys.keys():
            keys = self._opened(source)
            self._issuer_keys[source] = keys
            self._running[source] = self._tasks.create_task(keys.run())
        self._follow_api_keys(policy.api_keys_file)

    def _opened(self, source: JwksSource) -> IssuerKeys:
        if source.url:
            return UrlKeys(source.url, self._fetch, self._clock)
        return FileKeys(self._secrets_dir / source.file)

    def _follow_api_keys(self, name: str) -> None:
        if name == self._api_keys_file:
            return
        if self._api_keys is not None:
            self._running.pop(self._api_keys_file).cancel()
        self._api_keys_file = name
        self._api_keys = SecretFile(self._secrets_dir / name, parse_api_keys) if name else None
        if self._api_keys is not None:
            self._running[name] = self._tasks.create_task(self._api_keys.run())

    def issuer_keys(self, issuer: Issuer) -> IssuerKeys:
        """The keys of ``issuer``, which must be of the policy followed."""
        return self._issuer_keys[issuer.jwks]

    def api_keys(self) -> ApiKeys:
        """The API keys in force; none when the policy takes none. Raises KeysUnavailable."""
        if self._api_keys is None:
            return {}
        if self._api_keys.current is None:
            raise KeysUnavailable
        return self._api_keys.current

    def close(self) -> None:
        """Stop refreshing."""
        for task in self._running.values():
            task.cancel()
        self._running.clear()
