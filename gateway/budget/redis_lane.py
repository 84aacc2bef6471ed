"""Many tasks' commands over one connection: what waits goes out in one write, and is answered in order.

The driver's pool gives each call a connection of its own; at 1,000 calls a second most of a filter's and
of the store's time then goes into system calls. Here a call costs the store's work and little else.

A confirmed command is answered once so many replicas have it: one WAIT at the end of the write speaks for all
that stand before it.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any, Final

from redis.exceptions import ConnectionError as Disconnected
from redis.exceptions import RedisError, ResponseError

BATCH_MAX: Final = 64
"""Commands of one write. Those behind them wait for its answers: about a millisecond of the store."""

WAIT_SHARE: Final = 0.5
"""Of a batch's time may be spent waiting for replicas: the answer must come before the batch is given up."""


class Unconfirmed(RedisError):  # type: ignore[misc]  # the driver has no types
    """The store has done it, and too few replicas have said in time that they have it too."""


@dataclass(slots=True, eq=False)
class Item:
    """A command and its answer."""

    command: tuple[Any, ...]
    answer: asyncio.Future[Any]
    confirmed: bool


class Lane:
    """One connection of a client, opened by the first call, opened again after it broke. No retries: a
    command whose answer is lost has failed, and whoever holds its operation id may repeat it."""

    def __init__(self, client: Any, *, replicas: int = 0) -> None:
        """``client`` as ``redis_connection.connect`` makes it; its timeout bounds each batch here too.
        ``replicas``: how many must have what is to be confirmed; 0 for none."""
        self._client = client
        self._replicas = replicas
        self._connection: Any = None
        self._waiting: list[Item] = []
        self._carrier: asyncio.Task[None] | None = None

    async def call(self, *command: Any, confirmed: bool = False) -> Any:
        """The answer to ``command``. A caller that stops waiting before it was sent takes it back.
        ``confirmed``: once the replicas have it. Raises redis.exceptions.RedisError (ResponseError when the
        store refuses, Unconfirmed), OSError."""
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting.append(Item(command, answer, confirmed and self._replicas > 0))
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
                await self._exchange([item for item in batch if not item.answer.done()])
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
            seconds = self._client.connection_pool.connection_kwargs["socket_timeout"]
            async with asyncio.timeout(seconds):
                connection = await self._open()
                commands = [item.command for item in batch]
                if any(item.confirmed for item in batch):
                    commands.append(("WAIT", self._replicas, max(1, int(seconds * 1000 * WAIT_SHARE))))
                packed = connection.pack_commands(commands)
                await connection.send_packed_command(packed, check_health=False)
                await self._read(connection, batch)
        except (RedisError, OSError) as error:
            await self._drop()
            self._fail(batch, error)
        except BaseException:  # cancelled: half an exchange must not be left for the next one
            await self._drop()
            self._fail(batch, Disconnected("the lane was closed"))
            raise

    async def _read(self, connection: Any, batch: list[Item]) -> None:
        """Read the answers, each for whoever may still wait for it."""
        confirmed: list[tuple[Item, Any]] = []
        for item in batch:
            reply = await _reply(connection)
            if item.confirmed:
                confirmed.append((item, reply))
            else:
                _answer(item, reply)
        if not confirmed:
            return
        have = await connection.read_response()
        for item, reply in confirmed:
            short = have < self._replicas and not isinstance(reply, Exception)
            _answer(item, Unconfirmed(f"{have} of {self._replicas} replicas have it") if short else reply)

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
        for item in items:
            _answer(item, error)


async def _reply(connection: Any) -> Any:
    """One reply, be it a refusal."""
    try:
        return await connection.read_response()
    except ResponseError as refusal:
        return refusal


def _answer(item: Item, reply: Any) -> None:
    if item.answer.done():
        return
    if isinstance(reply, Exception):
        item.answer.set_exception(reply)
    else:
        item.answer.set_result(reply)
