"""Many tasks' commands over one connection: what waits goes out in one write, and is answered in order.

The driver's pool gives each call a connection of its own; at 1,000 calls a second most of a filter's and
of the store's time then goes into system calls. Here a call costs the store's work and little else.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

from redis.exceptions import ConnectionError as Disconnected
from redis.exceptions import RedisError, ResponseError

BATCH_MAX: Final = 64
"""Commands of one write. Those behind them wait for its answers: about a millisecond of the store."""

Item = tuple[tuple[Any, ...], asyncio.Future[Any]]
"""A command and its answer."""


class Lane:
    """One connection of a client, opened by the first call, opened again after it broke. No retries: a
    command whose answer is lost has failed, and whoever holds its operation id may repeat it."""

    def __init__(self, client: Any) -> None:
        """``client`` as ``redis_connection.connect`` makes it; its timeout bounds each batch here too."""
        self._client = client
        self._connection: Any = None
        self._waiting: list[Item] = []
        self._carrier: asyncio.Task[None] | None = None

    async def call(self, *command: Any) -> Any:
        """The answer to ``command``. A caller that stops waiting before it was sent takes it back.
        Raises redis.exceptions.RedisError (ResponseError when the store refuses), OSError."""
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting.append((command, answer))
        if self._carrier is None:
            self._carrier = asyncio.create_task(self._carry())
        return await answer

    async def aclose(self) -> None:
        """End what is under way and give the connection back to its client, who closes it."""
        if self._carrier is not None:
            self._carrier.cancel()
            await asyncio.wait((self._carrier,))
        self._end()  # a carrier cancelled before its first step has done nothing, not even its ``finally``
        if self._connection is not None:
            pool, connection, self._connection = self._client.connection_pool, self._connection, None
            connection.socket_timeout = pool.connection_kwargs["socket_timeout"]
            await pool.release(connection)

    async def _carry(self) -> None:
        """Batches until nothing waits."""
        try:
            while self._waiting:
                batch, self._waiting = self._waiting[:BATCH_MAX], self._waiting[BATCH_MAX:]
                await self._exchange([item for item in batch if not item[1].done()])
        finally:
            self._end()

    def _end(self) -> None:
        self._carrier = None
        left, self._waiting = self._waiting, []
        self._fail(left, Disconnected("the lane was closed"))

    async def _exchange(self, batch: list[Item]) -> None:
        """Send ``batch`` and read its answers; what has no answer when the connection breaks, fails."""
        if not batch:
            return
        try:
            # One bound around the whole exchange, in place of the driver's around each write and read, for
            # which it starts a task.
            async with asyncio.timeout(self._client.connection_pool.connection_kwargs["socket_timeout"]):
                connection = await self._open()
                packed = connection.pack_commands(command for command, _ in batch)
                await connection.send_packed_command(packed, check_health=False)
                for _, answer in batch:
                    await _answered(connection, answer)
        except (RedisError, OSError) as error:
            await self._drop()
            self._fail(batch, error)
        except BaseException:  # cancelled: half an exchange must not be left for the next one
            await self._drop()
            self._fail(batch, Disconnected("the lane was closed"))
            raise

    async def _open(self) -> Any:
        """The connection, one of the client's pool, which closes it with the others. One that the store
        has closed meanwhile, or that holds an answer nobody asked for, is not used again."""
        if self._connection is None:
            self._connection = await self._client.connection_pool.get_connection()
            self._connection.socket_timeout = None
        elif self._connection.is_connected and await self._connection.can_read():
            await self._connection.disconnect(nowait=True)
        if not self._connection.is_connected:
            await self._connection.connect()
        return self._connection

    async def _drop(self) -> None:
        if self._connection is not None:
            await self._connection.disconnect(nowait=True)

    @staticmethod
    def _fail(items: list[Item], error: Exception) -> None:
        for _, answer in items:
            if not answer.done():
                answer.set_exception(error)


async def _answered(connection: Any, answer: asyncio.Future[Any]) -> None:
    """Read one answer, for whoever may still wait for it."""
    try:
        reply = await connection.read_response()
    except ResponseError as refusal:
        if not answer.done():
            answer.set_exception(refusal)
    else:
        if not answer.done():
            answer.set_result(reply)
