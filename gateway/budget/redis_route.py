"""The way to the store that has a key: one store, or the shards of a cluster.

Commands on the request path go through lanes (redis_lane.py), one for each store. All others, which are few,
go through the driver's client.

A cluster's slot that has moved is followed. One that is moving key by key (MIGRATE) is not: neither of its
two owners has all keys of an org then, so what they refuse with ASK or TRYAGAIN is LedgerUnavailable here,
and workers should be stopped meanwhile. Valkey 9 moves slots as a whole (CLUSTER MIGRATESLOTS): use that.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any, Final, Protocol
from urllib.parse import urlsplit

import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as Disconnected
from redis.exceptions import MovedError, RedisClusterException, RedisError, TryAgainError

from gateway.budget.redis_connection import connect
from gateway.budget.redis_keys import CLUSTER_ORGS_KEY, ORGS_KEY
from gateway.budget.redis_lane import Lane
from gateway.contract.units import Millis

CLUSTER_SCHEME: Final = "redis+cluster"
REDIRECTS_MAX: Final = 3
"""Of one command: what we know of the slots may be old more than once."""


class Route(Protocol):
    """Raises redis.exceptions.RedisError, OSError."""

    client: Any
    """The driver's client, for commands that name one key."""
    orgs_key: str
    """See redis_keys."""

    async def call(self, key: str, *command: Any, confirmed: bool = False) -> Any:
        """The answer of the store that has ``key``; with ``confirmed`` once its replicas have it too."""

    async def load(self, library: str) -> None:
        """FUNCTION LOAD wherever functions may be called."""

    async def leave(self) -> None:
        """Give back what was taken of the client."""

    async def aclose(self) -> None:
        """Close all connections."""


def route_to(url: str, *, timeout: Millis, replicas: int = 0) -> Route:
    """To ``redis+cluster://host:port`` (any node of a cluster), or to the one store that ``url`` names as
    redis_connection.connect takes it. Raises ValueError for another form."""
    if urlsplit(url).scheme == CLUSTER_SCHEME:
        return ClusterRoute(connect_cluster(url, timeout=timeout), timeout=timeout, replicas=replicas)
    return SingleRoute(connect(url, timeout=timeout), replicas=replicas)


def connect_cluster(url: str, *, timeout: Millis) -> Any:
    """A ``redis.asyncio.RedisCluster`` for ``redis+cluster://[user:password@]host:port``, not yet connected.
    It follows redirections, which refuse a command and say who would take it; it never repeats a command
    whose answer was lost. Raises ValueError."""
    parts = urlsplit(url)
    if parts.scheme != CLUSTER_SCHEME or not parts.hostname or not parts.port or parts.path not in ("", "/"):
        raise ValueError(f"store URL: must be {CLUSTER_SCHEME}://host:port")  # it may hold a password
    seconds = timeout / 1000
    return _Cluster(
        host=parts.hostname,
        port=parts.port,
        username=parts.username,
        password=parts.password,
        socket_timeout=seconds,
        socket_connect_timeout=seconds,
        retry=Retry(NoBackoff(), 0),
        decode_responses=True,
        protocol=2,
        driver_info=None,
    )


class _Cluster(redis.asyncio.RedisCluster):  # type: ignore[misc]  # the driver has no types
    """Whatever it cannot do now is one of the driver's own errors: some it raises are not. A node that is
    silent is noticed, though whoever asked it has given up before the driver does."""

    _looking: asyncio.Task[None] | None = None

    def look_again(self, lost: str | None = None) -> None:
        """Ask the other nodes who has which slots: a replica of ``lost`` may have taken over. Nobody waits
        for it, because to ask may take longer than a call may."""
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._look(lost))

    async def _look(self, lost: str | None) -> None:
        with suppress(RedisError, RedisClusterException, OSError):  # the next call that fails looks again
            await self.nodes_manager.initialize(last_failed_node_name=lost)

    async def initialize(self, *arguments: Any, **named: Any) -> Any:
        """See RedisCluster."""
        try:
            return await super().initialize(*arguments, **named)
        except RedisClusterException as error:
            raise Disconnected(str(error)) from error

    async def execute_command(self, *arguments: Any, **named: Any) -> Any:
        """See RedisCluster."""
        try:
            return await super().execute_command(*arguments, **named)
        except RedisClusterException as error:
            raise Disconnected(str(error)) from error
        except asyncio.CancelledError:
            self.look_again()
            raise

    async def aclose(self) -> None:
        """See RedisCluster."""
        if self._looking is not None:
            self._looking.cancel()
        await super().aclose()


class SingleRoute:
    """One store has all keys."""

    orgs_key = ORGS_KEY

    def __init__(self, client: Any, *, replicas: int = 0) -> None:
        """``client`` as redis_connection.connect makes it."""
        self.client = client
        self._lane = Lane(client, replicas=replicas)

    async def call(self, key: str, *command: Any, confirmed: bool = False) -> Any:
        """See Route."""
        return await self._lane.call(*command, confirmed=confirmed)

    async def load(self, library: str) -> None:
        """See Route."""
        await self.client.function_load(library, replace=True)

    async def leave(self) -> None:
        """See Route."""
        await self._lane.aclose()

    async def aclose(self) -> None:
        """See Route."""
        await self.leave()
        await self.client.aclose()


class ClusterRoute:
    """Each primary has its slots. The driver knows which; a lane to each is ours."""

    orgs_key = CLUSTER_ORGS_KEY

    def __init__(self, client: Any, *, timeout: Millis, replicas: int = 0) -> None:
        """``client`` as connect_cluster makes it."""
        self.client = client
        self._timeout = timeout
        self._replicas = replicas
        self._lanes: dict[str, tuple[Lane, Any]] = {}

    async def call(self, key: str, *command: Any, confirmed: bool = False) -> Any:
        """See Route."""
        await self.client.initialize()
        slot = self.client.keyslot(key)
        node = self.client.nodes_manager.get_node_from_slot(slot).name
        for _ in range(REDIRECTS_MAX):
            try:
                return await self._lane(node).call(*command, confirmed=confirmed)
            except MovedError as moved:
                await self.client.nodes_manager.move_slot(moved)
                node = f"{moved.host}:{moved.port}"
            except (Disconnected, OSError, asyncio.CancelledError):
                self.client.look_again(node)
                raise
        raise TryAgainError("the slot moves faster than it can be followed")

    def _lane(self, node: str) -> Lane:
        """``node``: ``host:port``. A lane to a node that has left stays closed and empty."""
        if node not in self._lanes:
            kwargs = self.client.get_connection_kwargs()
            client = connect(f"redis://{node}", timeout=self._timeout)
            for name in ("username", "password"):
                client.connection_pool.connection_kwargs[name] = kwargs.get(name)
            self._lanes[node] = (Lane(client, replicas=self._replicas), client)
        return self._lanes[node][0]

    async def load(self, library: str) -> None:
        """See Route."""
        await self.client.initialize()
        primaries = self.client.get_primaries()
        load = ("FUNCTION", "LOAD", "REPLACE", library)
        await self.client.execute_command(*load, target_nodes=primaries)

    async def leave(self) -> None:
        """See Route."""
        lanes, self._lanes = self._lanes, {}
        for lane, client in lanes.values():
            await lane.aclose()
            await client.aclose()

    async def aclose(self) -> None:
        """See Route."""
        await self.leave()
        await self.client.aclose()
