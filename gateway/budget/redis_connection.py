"""A client of Valkey or Redis that fails fast: no hidden retries, every wait bounded.

The driver's defaults wait a minute on a server that accepts and never answers, and re-send commands
on their own; whoever holds an operation id owns the retry.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from gateway.budget.store_time import store_time
from gateway.contract.errors import LedgerUnavailable
from gateway.contract.units import Millis

CONNECTIONS_MAX: Final = 64
"""Of one process; a call beyond them waits for its turn within its deadline."""


def connect(url: str, *, timeout: Millis, connections_max: int = CONNECTIONS_MAX, text: bool = True) -> Any:
    """A ``redis.asyncio.Redis`` for ``unix:///path/to.sock`` or ``redis://host:port/0``, not yet connected.

    ``timeout`` bounds connecting, each read and the wait for a free connection. ``text``: answers are
    text, else bytes. The driver never tries again by itself: its defaults hang a filter for a minute.
    Raises ValueError for another form.
    """
    if not url.startswith(("unix:///", "redis://", "rediss://")):
        raise ValueError("store URL: must be unix:///path or redis://host:port/0")  # it may hold a password
    seconds = timeout / 1000
    pool = redis.asyncio.BlockingConnectionPool.from_url(
        url,
        max_connections=connections_max,
        timeout=seconds,
        socket_timeout=seconds,
        socket_connect_timeout=seconds,
        retry=Retry(NoBackoff(), 0),
        decode_responses=text,
        protocol=2,  # no HELLO: one round trip less for each connection
        driver_info=None,
    )
    return redis.asyncio.Redis.from_pool(pool)


@asynccontextmanager
async def within(deadline: Millis) -> AsyncIterator[None]:
    """Bound what stands in it, by the time the store had, and turn the driver's and the system's errors into
    LedgerUnavailable."""
    try:
        async with store_time(deadline):
            yield
    except (RedisError, OSError, TimeoutError) as error:
        raise LedgerUnavailable("The budget ledger did not answer; try again.", retry_after_s=1) from error
