"""One generation request from its arrival to its last byte, scripted faults included."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass, field

import orjson

from gateway.contract.clock import Clock
from inference.twin import shapes
from inference.twin.counters import Counters, Key
from inference.twin.http import JSON, SSE, Reply
from inference.twin.request import EngineError, Job
from inference.twin.scheduler import Run, Scheduler
from inference.twin.script import MISSING, Rule
from inference.twin.shapes import Json
from inference.twin.truth import Attempt
from inference.twin.words import Plan


@dataclass(slots=True, eq=False, kw_only=True)
class Exchange:
    """The scheduler's listener for one request: turns tokens into SGLang's bytes on ``reply``.

    ``over`` is called once, when nothing more will happen.
    """

    job: Job
    rule: Rule
    reply: Reply
    cached: tuple[int, ...]
    scheduler: Scheduler
    counters: Counters
    clock: Clock
    over: Callable[[Exchange], None]
    attempt: Attempt
    plans: tuple[Plan, ...]
    token_s: float
    first_s: float
    run: Run = field(init=False)
    identities: tuple[str, ...] = ()
    created: int = 0
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
        )

    def begin(self) -> None:
        """Takes over the reply and submits the run, unless the script says otherwise."""
        self.created = self.clock.unix_ms() // 1000
        self.received_s = self.clock.monotonic_s()
        choices = len(self.run.plans)
        # Like SGLang, which keeps the caller's id for a single choice only.
        alone = self.job.rid if choices == 1 else None
        self.identities = tuple(alone or uuid.uuid4().hex for _ in range(choices))
        self.reply.split_at = self.rule.split_at
        self.reply.gone = self._gone
        self.counters.requests[self.key] += 1
        self.counters.prompt_tokens[self.key] += sum(self.job.prompt_tokens)
        self.counters.cached_tokens[self.key] += sum(self.cached)
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
        if not self.started:
            self.started = True
            self.counters.first_token_s[0] += self.clock.monotonic_s() - self.received_s
            self.counters.first_token_s[1] += 1
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
        identity, text = self.identities[index], "".join(plan.pieces[first:end])
        counted = None
        if self.job.continuous_usage:
            prompt = index // self.job.n
            # SGLang reports cached tokens in chat chunks and leaves them out of completion chunks.
            cached = self.cached[prompt] if self.job.kind == "chat" else None
            counted = self._counted(self.job.prompt_tokens[prompt], end, cached)
        if self.job.kind == "text":
            over = end == len(plan.tokens)
            finish, matched = (plan.finish, plan.matched) if over else (None, None)
            frames = shapes.TextFrames(self.job.model, self.created)
            self.reply.chunk(frames.content(identity, index, text, finish, matched, counted))
            return
        chat = shapes.ChatFrames(self.job.model, self.created)
        if first == 0:
            self.reply.chunk(chat.role(identity, index))
        if text:
            self.reply.chunk(chat.content(identity, index, text, counted))

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
            self.counters.aborted[self.key] += 1
        if not self.job.stream:
            self._answer(reason)
            return
        if not self.started:
            self.tokens(run, 0, 0)
        if self.job.kind == "chat":
            frames = shapes.ChatFrames(self.job.model, self.created)
            for index, plan in enumerate(run.plans):
                finish, matched = (reason, None) if reason else (plan.finish, plan.matched)
                self.reply.chunk(frames.finish(self.identities[-1], index, finish, matched))
        elif reason:
            text = shapes.TextFrames(self.job.model, self.created)
            self.reply.chunk(text.content(self.identities[0], 0, "", reason, None, None))
        self._close_stream(sum(self.job.prompt_tokens))

    def _close_stream(self, prompt_tokens: int) -> None:
        cached = sum(self.cached) if prompt_tokens else 0
        counted = self._counted(prompt_tokens, self._produced(), cached)
        if self.job.include_usage and counted is not None:
            chat = shapes.ChatFrames(self.job.model, self.created)
            text = shapes.TextFrames(self.job.model, self.created)
            frames = chat if self.job.kind == "chat" else text
            self.reply.chunk(frames.usage(self.identities[-1], counted))
        self.reply.chunk(shapes.DONE)
        self.reply.finish()
        self._finished("scripted")

    def _answer(self, reason: str) -> None:
        choices: list[Json] = []
        shape = shapes.chat_choice if self.job.kind == "chat" else shapes.text_choice
        for index, plan in enumerate(self.run.plans):
            text = "".join(plan.pieces[: self.run.position])
            finish, matched = (reason, None) if reason else (plan.finish, plan.matched)
            choices.append(shape(index, text, finish, matched))
        counted = self._counted(sum(self.job.prompt_tokens), self._produced(), sum(self.cached))
        first = min(self.run.position, len(self.run.plans[0].tokens))
        job = self.job
        document = shapes.answer(
            job.kind, self.identities[0], self.created, job.model, choices, counted, first
        )
        self.reply.whole(200, JSON, orjson.dumps(document))
        self._finished("scripted")

    def put_out(self, run: Run, error: EngineError) -> None:
        """The scheduler's: the queue is full, or a higher priority came."""
        self.counters.aborted[self.key] += 1
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
        self.scheduler.cancel(self.run, "client_gone")
        self.counters.aborted[self.key] += 1
        self._finished("client_gone")

    def _finished(self, outcome: str) -> None:
        """Ends the record if the scheduler has not already."""
        if not self.done:
            self.done = True
            self.scheduler.end_record(self.attempt, outcome)
            self.over(self)
