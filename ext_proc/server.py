"""The loop between Envoy's messages and a machine: bytes to event, effects carried out, replies back.

No policy here. What the loop guarantees: a stream's machine hears of the peer's going whatever ended
the stream; what it then owes is done in the background, where no cancellation reaches it; and a stream
whose machine has not decided never ends cleanly.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import aclosing
from typing import Any, Final

from ext_proc.background import Background
from ext_proc.codec import read_message, write_reply
from ext_proc.effects import Answer, Performer
from ext_proc.lateness import Lateness
from ext_proc.stream import Machine
from ext_proc.vocabulary import (
    AskCache,
    AskRecall,
    AwaitLanding,
    AwaitOpening,
    AwaitTurn,
    CloseStream,
    Continue,
    Effect,
    Event,
    JoinFlight,
    Landed,
    OpeningOverdue,
    PeerGone,
    Question,
    ReplyNow,
    Reserve,
    Settle,
    TakeTime,
    TurnCame,
    Void,
    Wait,
)
from gateway.contract.clock import Clock
from gateway.contract.headers import FILTER_ROLE
from gateway.contract.ids import HoldId

_NO_MORE: Final = object()


class Undecided(Exception):
    """The peer ended its stream before a decision. Raised, because a clean end would be an allow."""


class PeerLeft(Exception):
    """The peer ended its stream, or broke the order, while it was owed an answer. The stream is over."""


class UnknownRole(Exception):
    """The filter did not say whether it is admit or tap (initial metadata ``tidegate-filter``)."""


class Inbox:
    """The peer's messages, one at a time, with a bound on the wait that loses no message."""

    def __init__(self, requests: AsyncIterator[bytes]) -> None:
        """Nothing is read yet."""
        self._requests = requests
        self._reading: asyncio.Task[object] | None = None

    async def next(self, at_most_s: float | None) -> bytes | None:
        """The next message, None when there is none any more. Raises TimeoutError."""
        if at_most_s is None and self._reading is None:
            message = await self._read()
        else:
            if self._reading is None:
                self._reading = asyncio.create_task(self._read())
            await asyncio.wait((self._reading,), timeout=at_most_s)
            if not self._reading.done():
                raise TimeoutError
            reading, self._reading = self._reading, None
            message = await reading
        return message if isinstance(message, bytes) else None

    async def ended(self) -> None:
        """Returns when the peer says anything more: it has gone, or does what it must not do now."""
        if self._reading is None:
            self._reading = asyncio.create_task(self._read())
        await asyncio.wait((self._reading,))

    async def _read(self) -> object:
        # As a task this must not end with StopAsyncIteration's kin.
        return await anext(self._requests, _NO_MORE)

    def close(self) -> None:
        """Stop reading."""
        if self._reading is not None:
            self._reading.cancel()


class Conversation:
    """One stream."""

    def __init__(
        self,
        machine: Machine[Any],
        performer: Performer,
        background: Background,
        clock: Clock,
        lateness: Lateness,
    ) -> None:
        """``machine`` is this stream's own."""
        self._machine = machine
        self._performer = performer
        self._background = background
        self._clock = clock
        self._asking: asyncio.Task[Answer] | None = None
        self._overdue_at_s: float | None = None
        """When a machine that has kept a reply back is told that the time is over."""
        self._closing = False
        self._lateness = lateness
        self._heard_s = (clock.monotonic_s(),) * 2
        """When the message before the last one was taken up, and the last."""
        self._waiting: HoldId | None = None
        """Of a machine that has waited for its turn."""

    async def run(self, requests: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
        """Replies to ``requests``. Raises Undecided, OutOfOrder, wire.DecodeError."""
        inbox = Inbox(requests)
        try:
            while (event := await self._next_event(inbox)) is not None:
                async with aclosing(self._replies(event, inbox)) as replies:
                    async for reply in replies:
                        yield reply
                if self._closing:
                    return
            if not self._machine.decided:
                raise Undecided
        finally:
            inbox.close()
            self._leave()

    async def _next_event(self, inbox: Inbox) -> Event | None:
        overdue_at_s, wait_s = self._overdue_at_s, None
        if overdue_at_s is not None:
            wait_s = max(0.0, overdue_at_s - self._clock.monotonic_s())
        try:
            message = await inbox.next(wait_s)
        except TimeoutError:
            return OpeningOverdue()
        if message is None:
            return None
        self._heard_s = (self._heard_s[1], self._clock.monotonic_s())
        return read_message(message, at_ms=self._clock.unix_ms(), at_s=self._heard_s[1])

    async def _replies(self, event: Event, inbox: Inbox) -> AsyncGenerator[bytes, None]:
        """Carry out what follows from ``event``, in order, answers to questions included. Replies go out when
        all is done, or before the machine waits for its turn. Raises PeerLeft."""
        replies: list[bytes] = []
        todo: deque[Effect] = deque(self._machine.receive(event))
        while todo:
            match todo.popleft():
                case Continue() | ReplyNow() | TakeTime() as reply:
                    replies.append(write_reply(reply))
                case AskCache() | AskRecall() | JoinFlight() | Reserve() as question:
                    todo.extend(self._machine.receive(await self._answer(question)))
                case AwaitTurn() | AwaitLanding() as wait:
                    for written in replies:
                        yield written
                    replies.clear()
                    todo.extend(self._machine.receive(await self._waited(wait, inbox)))
                case AwaitOpening(at_most=seconds):
                    self._overdue_at_s = self._clock.monotonic_s() + seconds
                case CloseStream():
                    self._closing = True
                case Settle() | Void() as resolution:
                    # Shielded: what has begun to be resolved is resolved, whatever becomes of the stream.
                    work = self._performer.resolve(resolution)
                    await asyncio.shield(self._background.start("resolve", work))
                case deed:
                    self._performer.do(deed)
        if replies:
            self._overdue_at_s = None
        for written in replies:
            yield written

    async def _waited(self, wait: Wait, inbox: Inbox) -> TurnCame | Landed:
        """Not in the background: a wait ends with its stream. Raises PeerLeft."""
        if isinstance(wait, AwaitTurn):
            self._waiting = wait.hold
        waiting = asyncio.ensure_future(self._performer.wait(wait))
        ended = asyncio.ensure_future(inbox.ended())
        try:
            await asyncio.wait((waiting, ended), return_when=asyncio.FIRST_COMPLETED)
            if not waiting.done():
                raise PeerLeft
            return waiting.result()
        finally:
            for task in (waiting, ended):
                task.cancel()

    async def _answer(self, question: Question) -> Answer:
        known = self._performer.at_once(question)
        if known is not None:
            return known
        asking = self._asking = self._background.start("question", self._performer.ask(question))
        try:
            answer = await asyncio.shield(asking)
        except Exception:  # whatever it failed with is its answer, and taken
            self._asking = None
            raise
        # Not when this is cancelled, be the answer there already: nobody has taken it, ``_settle_up`` does.
        self._asking = None
        return answer

    def _leave(self) -> None:
        """The stream is over: tell the machine, and do what it owes without the stream's task."""
        if self._waiting is not None:
            self._performer.waits_no_more(self._waiting)
        late_s = self._lateness.worst_since(self._heard_s[0])
        owed = self._machine.receive(PeerGone(at_s=self._clock.monotonic_s(), late_s=late_s))
        if owed or self._asking is not None:
            self._background.start("leave", self._settle_up(owed, self._asking))

    async def _settle_up(self, owed: tuple[Effect, ...], asking: asyncio.Task[Answer] | None) -> None:
        todo: deque[Effect] = deque(owed)
        if asking is not None:
            todo.extend(self._machine.receive(await asking))
        while todo:
            match todo.popleft():
                case Continue() | ReplyNow() | TakeTime() | AwaitOpening() | CloseStream():
                    continue  # nobody is left to be answered
                case AskCache() | AskRecall() | JoinFlight() | Reserve() | AwaitTurn() | AwaitLanding():
                    continue
                case Settle() | Void() as resolution:
                    await self._performer.resolve(resolution)
                case deed:
                    self._performer.do(deed)


class ExtProc:
    """The Process call of both filters."""

    def __init__(
        self,
        machines: Mapping[str, Callable[[], Machine[Any]]],
        performer: Performer,
        background: Background,
        clock: Clock,
    ) -> None:
        """``machines``: what a filter's role (``admit``, ``tap``) starts with. ``lateness`` is to be run."""
        self._machines = machines
        self.lateness = Lateness(clock)
        self._performer = performer
        self._background = background
        self._clock = clock

    async def process(
        self, metadata: Mapping[str, str], requests: AsyncIterator[bytes]
    ) -> AsyncIterator[bytes]:
        """A StreamHandler. Raises UnknownRole and what Conversation.run raises."""
        make = self._machines.get(metadata.get(FILTER_ROLE, ""))
        if make is None:
            raise UnknownRole(FILTER_ROLE)
        conversation = Conversation(make(), self._performer, self._background, self._clock, self.lateness)
        replies = conversation.run(requests)
        try:
            async for reply in replies:
                yield reply
        finally:
            await replies.aclose()  # now: its ``finally`` settles
