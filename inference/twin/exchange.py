"""One generation request from its arrival to its last byte, scripted faults included."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

import orjson

from gateway.contract.clock import Clock
from inference.twin import shapes
from inference.twin.counters import Counters, Key
from inference.twin.errors import EngineError
from inference.twin.http import JSON, SSE, Reply
from inference.twin.request import Job
from inference.twin.scheduler import Run, Scheduler
from inference.twin.script import DOUBLE, MISSING, Rule
from inference.twin.shapes import Json
from inference.twin.truth import Attempt
from inference.twin.words import Plan
from inference.twin.writers import Writer, writer


@dataclass(slots=True, eq=False, kw_only=True)
class Exchange:
    """The scheduler's listener for one request: turns tokens into SGLang's bytes on ``reply``.

    ``over`` is called once, when nothing more will happen; ``remember`` before that, when
    it was answered to the end. ``notice_s`` is how long a client that left unanswered goes unnoticed.
    """

    job: Job
    rule: Rule
    reply: Reply
    cached: tuple[int, ...]
    scheduler: Scheduler
    counters: Counters
    clock: Clock
    over: Callable[[Exchange], None]
    remember: Callable[[Exchange], None]
    notice_s: float
    attempt: Attempt
    plans: tuple[Plan, ...]
    token_s: float
    first_s: float
    run: Run = field(init=False)
    writer: Writer = field(init=False)
    received_s: float = 0.0
    started: bool = False
    done: bool = False

    def __post_init__(self) -> None:
        """Makes the run that the scheduler will know."""
        rule = self.rule
        stepwise = rule.cut_after_chunks, rule.stall_after_chunks, rule.error_after_chunks
        self.run = Run(
            attempt=self.attempt,
            plans=self.plans,
            listener=self,
            priority=self.job.priority,
            token_s=self.token_s,
            first_s=self.first_s,
            whole=not self.job.stream and stepwise == (None, None, None),
            rids=self._rids(),
        )

    def _rids(self) -> tuple[str, ...]:
        """What ``/abort_request`` finds it by: SGLang numbers several prompts, and gives several choices of
        one prompt ids that nobody knows."""
        rid, prompts = self.job.rid, len(self.job.prompts)
        if rid is None or self.job.n > 1:
            return ()
        return (rid,) if prompts == 1 else tuple(f"{rid}_{place}" for place in range(prompts))

    def begin(self) -> None:
        """Takes over the reply and submits the run, unless the script says otherwise."""
        self.writer = writer(self.job, self.clock.unix_ms() // 1000)
        self.received_s = self.clock.monotonic_s()
        self.reply.split_at, self.reply.split_every = self.rule.split_at, self.rule.split_every
        self.reply.head_pause_s = self.rule.head_pause_ms / 1000
        self.reply.gone = self._gone
        self.counters.begun(self.key, sum(self.job.prompt_tokens), sum(self.cached))
        if self.rule.cut_after_chunks == 0:
            self._cut()
        elif self.rule.stall_after_chunks != 0:
            self.scheduler.submit(self.run)

    @property
    def key(self) -> Key:
        """Its metric series."""
        return self.job.stream, self.job.priority

    def tokens(self, run: Run, first: int, end: int) -> None:
        """The scheduler's: new tokens."""
        now_s = self.clock.monotonic_s()
        if not self.started:
            self.started = True
            self.counters.first_token_s[self.key].add(now_s - self.received_s)
            if self.job.stream:
                self.reply.start(200, SSE)
        self.counters.generated_tokens[self.key] += sum(
            max(0, min(end, len(plan.tokens)) - first) for plan in run.plans
        )
        if self.job.stream:
            for index, plan in enumerate(run.plans):
                if first < len(plan.tokens) or first == 0:
                    self._send(index, plan, first, min(end, len(plan.tokens)))
        self._faults(run)

    def _send(self, index: int, plan: Plan, first: int, end: int) -> None:
        counted = None
        if self.job.continuous_usage:
            place = index // self.job.n
            # SGLang reports cached tokens in chat chunks and leaves them out of completion chunks.
            cached = self.cached[place] if self.job.kind == "chat" else None
            counted = self._counted(self.job.prompts[place].tokens, end, cached)
        for event in self.writer.new(index, plan, first, end, counted):
            self.reply.chunk(event)

    def _faults(self, run: Run) -> None:
        rule = self.rule
        if rule.cut_after_chunks == run.chunks:
            self._cut()
        elif rule.error_after_chunks == run.chunks and self.job.stream:
            self.scheduler.cancel(run, "scripted")
            self.reply.chunk(shapes.error_event(rule.stream_error))
            self._close_stream(0)
        elif rule.stall_after_chunks == run.chunks:
            self.scheduler.hold(run, None if rule.stall_ms is None else rule.stall_ms / 1000)

    def _cut(self) -> None:
        self.scheduler.cancel(self.run, "cut")
        self.reply.gone = None
        self.reply.cut(reset=self.rule.reset)
        self._finished("cut")

    def ended(self, run: Run, reason: str) -> None:
        """The scheduler's: all produced, or aborted by ``/abort_request``."""
        if reason:
            self.counters.aborted += 1
        else:
            self.remember(self)
        self._observe()
        if not self.job.stream:
            counted = self._counted(sum(self.job.prompt_tokens), self._produced(), sum(self.cached))
            document = self.writer.whole(run.plans, run.position, reason, counted)
            self.reply.whole(200, JSON, orjson.dumps(document))
            self._finished("scripted")
            return
        if not self.started:
            self.tokens(run, 0, 0)
        for index, plan in enumerate(run.plans):
            for event in self.writer.ended(index, plan, reason):
                self.reply.chunk(event)
        self._close_stream(sum(self.job.prompt_tokens))

    def shortened(self, run: Run, index: int) -> None:
        """The scheduler's: one of several prompts was aborted by ``/abort_request``."""
        self.counters.aborted += 1
        if self.job.stream and self.started:
            for event in self.writer.ended(index, run.plans[index], "abort"):
                self.reply.chunk(event)

    def _close_stream(self, prompt_tokens: int) -> None:
        cached = sum(self.cached) if prompt_tokens else 0
        counted = self._counted(prompt_tokens, self._produced(), cached)
        if self.job.include_usage and counted is not None:
            for _ in range(2 if self.rule.usage == DOUBLE else 1):
                self.reply.chunk(self.writer.usage(counted))
        self.reply.chunk(shapes.DONE)
        self.reply.finish()
        self._finished("scripted")

    def _observe(self) -> None:
        took_s = self.clock.monotonic_s() - self.received_s
        self.counters.answered(self.key, took_s, sum(self.job.prompt_tokens), self._produced())

    def put_out(self, run: Run, error: EngineError) -> None:
        """The scheduler's: the queue is full, or a higher priority came."""
        if not self.job.stream:
            flat = EngineError(error.message, type_=str(error.status), status=error.status)
            self.reply.whole(error.status, JSON, orjson.dumps(shapes.flat_error(flat)))
            self._finished("refused")
            return
        if not self.started:
            self.started = True
            self.reply.start(200, SSE)
        self.reply.chunk(shapes.error_event(error))
        self._close_stream(0)

    def _produced(self) -> int:
        return sum(min(self.run.position, len(plan.tokens)) for plan in self.run.plans)

    def _counted(self, prompt: int, completion: int, cached: int | None) -> Json | None:
        if self.rule.usage == MISSING:
            return None
        counted = shapes.usage(prompt, completion, cached)
        return {**counted, **self.rule.usage} if isinstance(self.rule.usage, dict) else counted

    def _gone(self) -> None:
        if self.notice_s and not self.job.stream and not self.done:
            asyncio.get_running_loop().call_later(self.notice_s, self._left)
        else:
            self._left()

    def _left(self) -> None:
        if self.done:
            return
        self.scheduler.cancel(self.run, "client_gone")
        self.counters.aborted += 1
        self._finished("client_gone")

    def _finished(self, outcome: str) -> None:
        """Ends the record if the scheduler has not already."""
        if not self.done:
            self.done = True
            self.scheduler.end_record(self.attempt, outcome)
            self.over(self)
