"""Who generates, who waits, who is put out: SGLang's scheduler with its limits and priorities.

Larger ``priority`` first, then first come. A full queue refuses the newcomer, or puts out its lowest
and newest entry for a higher one. A newcomer more than ten above a running request pre-empts it; the
pre-empted goes back to the queue with what it has (``srt/managers/scheduler.py`` of 0.5.23,
``_abort_on_queued_limit``; ``schedule_policy.py``, ``preempt_to_schedule``).
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from typing import Final, Protocol

from inference.twin.errors import EngineError
from inference.twin.truth import Attempt, Truth
from inference.twin.words import Plan

PREEMPTION_THRESHOLD: Final = 10
COALESCED_EVERY: Final = 7
"""Every seventh chunk carries two tokens: SGLang merges tokens too, so chunks do not count tokens."""


class Listener(Protocol):
    """Where tokens go."""

    def tokens(self, run: Run, first: int, end: int) -> None:
        """Tokens ``first`` to ``end`` (exclusive) of every choice that has them."""

    def ended(self, run: Run, reason: str) -> None:
        """All is produced, or ``abort``."""

    def shortened(self, run: Run, index: int) -> None:
        """Choice ``index`` was aborted; the others go on."""

    def put_out(self, run: Run, error: EngineError) -> None:
        """Refused or evicted; nothing more will come."""


@dataclass(slots=True, eq=False, kw_only=True)
class Run:
    """One request inside the scheduler. ``token_s`` and ``first_s`` are seconds per token and to the
    first; 0 is as fast as it goes. ``rids`` are what ``/abort_request`` finds it, or its choices, by."""

    attempt: Attempt
    plans: tuple[Plan, ...]
    listener: Listener
    priority: int
    token_s: float
    first_s: float
    whole: bool
    rids: tuple[str, ...] = ()
    position: int = 0
    chunks: int = 0
    order: int = 0
    due: float = 0.0
    timer: asyncio.Handle | None = None
    held: bool = False

    @property
    def length(self) -> int:
        """Steps to the end of the longest choice."""
        return max(len(plan.tokens) for plan in self.plans)


class Scheduler:
    """Runs at most ``max_running`` requests and lets ``max_queued`` wait (None: no limit)."""

    def __init__(self, truth: Truth, *, max_running: int, max_queued: int | None) -> None:
        """Must be used within one running event loop."""
        self._truth, self._max_running, self._max_queued = truth, max_running, max_queued
        self.running: set[Run] = set()
        self.waiting: list[Run] = []
        self.generated_tokens = 0
        self.seen: set[int] = set()
        """Priorities that requests had."""
        self._order = 0

    @property
    def idle(self) -> bool:
        """Nothing runs or waits."""
        return not self.running and not self.waiting

    def submit(self, run: Run) -> None:
        """Starts or queues ``run``; may put out ``run`` or another by ``Listener.put_out``."""
        self._order += 1
        run.order = self._order
        self.seen.add(run.priority)
        if len(self.running) < self._max_running:
            self._start(run)
            return
        if self._room_for(run):
            self._enqueue(run)
            self._preempt_for(run)
            return
        error = EngineError("The request queue is full.", type_="SERVICE_UNAVAILABLE", status=503)
        self._truth.end(run.attempt, "refused")
        run.listener.put_out(run, error)

    def _room_for(self, run: Run) -> bool:
        if self._max_queued is None or len(self.waiting) < self._max_queued:
            return True
        if not self.waiting:
            return False
        lowest = max(self.waiting, key=lambda other: (-other.priority, other.order))
        if run.priority <= lowest.priority:
            return False
        self.waiting.remove(lowest)
        message = "The request is aborted by a higher priority request."
        self._truth.end(lowest.attempt, "evicted")
        lowest.listener.put_out(lowest, EngineError(message, type_="SERVICE_UNAVAILABLE", status=503))
        return True

    def _enqueue(self, run: Run) -> None:
        self.waiting.append(run)
        self.waiting.sort(key=lambda other: (-other.priority, other.order))

    def _preempt_for(self, run: Run) -> None:
        if self.waiting[0] is not run:
            return
        lowest = min(self.running, key=lambda other: (other.priority, -other.order))
        if run.priority - lowest.priority > PREEMPTION_THRESHOLD:
            self._stop(lowest)
            # A pre-empted request is the newest in the queue, so the next overflow takes it first.
            self._order += 1
            lowest.order = self._order
            self._enqueue(lowest)
            self._fill()

    def _start(self, run: Run) -> None:
        self.running.add(run)
        loop = asyncio.get_running_loop()
        run.due = loop.time() + (run.first_s if run.position == 0 else run.token_s)
        run.timer = loop.call_at(run.due, self._step, run)

    def _stop(self, run: Run) -> None:
        self.running.discard(run)
        if run.timer is not None:
            run.timer.cancel()
            run.timer = None

    def _fill(self) -> None:
        while self.waiting and len(self.running) < self._max_running:
            self._start(self.waiting.pop(0))

    def _step(self, run: Run) -> None:
        first, length = run.position, run.length
        size = 2 if run.chunks % COALESCED_EVERY == COALESCED_EVERY - 1 else 1
        end = length if run.whole and not run.token_s else min(length, first + size)
        tokens = sum(max(0, min(end, len(plan.tokens)) - first) for plan in run.plans)
        run.position, run.chunks = end, run.chunks + 1
        self._truth.produced(run.attempt, tokens)
        self.generated_tokens += tokens
        run.listener.tokens(run, first, end)
        if run not in self.running:
            return
        if end >= length:
            self._stop(run)
            self._truth.end(run.attempt, "length" if run.plans[0].finish == "length" else "stop")
            run.listener.ended(run, "")
            self._fill()
        elif not run.held:
            self._next(run, end - first)

    def _next(self, run: Run, steps: int) -> None:
        loop = asyncio.get_running_loop()
        run.due += run.token_s * steps
        run.timer = loop.call_at(run.due, self._step, run) if run.token_s else loop.call_soon(self._step, run)

    def hold(self, run: Run, seconds: float | None) -> None:
        """Stops producing, its place kept, for ``seconds`` or until cancelled (None)."""
        run.held = True
        if seconds is not None:
            asyncio.get_running_loop().call_later(seconds, self._resume, run)

    def _resume(self, run: Run) -> None:
        run.held = False
        if run in self.running:
            run.due = asyncio.get_running_loop().time()
            self._next(run, 0)

    def cancel(self, run: Run, outcome: str) -> None:
        """Takes ``run`` out for good; its listener hears nothing more."""
        if run in self.running:
            self._stop(run)
            self._fill()
        elif run in self.waiting:
            self.waiting.remove(run)
        else:
            return
        self._truth.end(run.attempt, outcome)

    def end_record(self, attempt: Attempt, outcome: str) -> None:
        """Closes the record of an attempt that never ran, or that has its end already."""
        self._truth.end(attempt, outcome)

    def abort(self, rid: str, *, everything: bool = False) -> None:
        """``/abort_request``: ends what runs or waits under an id that begins with ``rid``, if one is ``rid``
        (0.5.23: the id must be known to the tokenizer manager, the scheduler then goes by its beginning)."""
        present = (*self.running, *self.waiting)
        if not everything and (not rid or not any(rid in run.rids for run in present)):
            return
        for run in present:
            found = [place for place, one in enumerate(run.rids) if one.startswith(rid)]
            if everything or len(found) == len(run.rids) > 0:
                self.cancel(run, "abort")
                run.listener.ended(run, "abort")
            else:
                for place in found:
                    self._shorten(run, place)

    def _shorten(self, run: Run, place: int) -> None:
        plan = run.plans[place]
        cut = replace(
            plan,
            tokens=plan.tokens[: run.position],
            pieces=plan.pieces[: run.position],
            finish="abort",
            matched=None,
        )
        run.plans = (*run.plans[:place], cut, *run.plans[place + 1 :])
        run.listener.shortened(run, place)
