"""What a generation request meets before the scheduler: settings, script, prefix cache, record."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Final, Literal

import orjson

from gateway.contract.clock import Clock
from inference.twin import calls, embedding, shapes, words
from inference.twin.counters import Counters
from inference.twin.errors import EngineError
from inference.twin.exchange import Exchange
from inference.twin.http import JSON, SSE, Reply
from inference.twin.instances import instance
from inference.twin.prefixes import PrefixCache
from inference.twin.prompt import Prompt
from inference.twin.request import Job, job
from inference.twin.scheduler import Scheduler
from inference.twin.script import Rule, Script
from inference.twin.truth import Attempt, Truth

MODELS_FOLDER: Final = "/srv/models"
"""Where the model is said to stand: SGLang tells its path in answers to embeddings."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What the command line chooses. ``tokens_per_s`` 0 is as fast as it goes; ``natural`` bounds the
    length of answers in tokens; ``health_ms`` is what SGLang's one-token health check takes, ``notice_ms``
    how long it goes on for a client that left an answer that is not streamed (SGLang: up to
    ``SGLANG_REQUEST_STATE_WAIT_TIMEOUT``). A real one serves either generation or embeddings."""

    models: tuple[str, ...] = ("twin",)
    seed: int = 0
    tokens_per_s: float = 400.0
    ttft_ms: float = 5.0
    max_running: int = 2048
    max_queued: int | None = None
    context: int = 8192
    natural: tuple[int, int] = (8, 64)
    health_ms: float = 1000.0
    notice_ms: float = 0.0
    serves: Literal["both", "generation", "embeddings"] = "both"
    capacity_tokens: int = 1 << 20


def scripted_answer(rule: Rule, stream: bool) -> tuple[int, str, bytes] | None:
    """Status, content type and body that ``rule`` gives instead of a generation, if it does."""
    junk = rule.junk_bytes
    if rule.status is not None:
        if rule.body is None:
            return rule.status, JSON, b""
        body = rule.body.encode() if isinstance(rule.body, str) else orjson.dumps(rule.body)
        return rule.status, JSON, body
    if junk is not None:
        return 200, SSE if stream else JSON, junk
    if rule.error_frame:
        return 200, SSE, shapes.error_event(rule.stream_error) + shapes.DONE
    return None


class Intake:
    """Takes generation and embedding requests. ``drained`` is set once a drain has nothing left."""

    def __init__(self, *, settings: Settings, clock: Clock, truth: Truth, script: Script) -> None:
        """Must be made within the running event loop."""
        self.settings, self.clock, self.truth, self.script = settings, clock, truth, script
        self.scheduler = Scheduler(truth, max_running=settings.max_running, max_queued=settings.max_queued)
        self.counters = Counters()
        self.draining = False
        self.drained = asyncio.Event()
        self._prefixes = PrefixCache()
        self._active: set[object] = set()

    def generate(self, path: str, body: dict[str, Any], reply: Reply) -> int:
        """Answers a chat or completion request on ``reply``; the status it will have. Raises EngineError."""
        try:
            asked = job(path, body, context=self.settings.context)
        except EngineError:
            model = str(body.get("model") or "default")
            refused = self._begin(path, body.get("rid"), model, bool(body.get("stream")), 0)
            self.truth.end(refused, "rejected")
            raise
        rule = self.script.choose(path=path, model=asked.model, stream=asked.stream, text=asked.last_user)
        attempt = self._begin(path, asked.rid, asked.model, asked.stream, asked.priority)
        if scripted := scripted_answer(rule, asked.stream):
            self._answer_by_script(scripted, rule, attempt, reply, "scripted")
            return scripted[0]
        exchange = self._exchange(asked, rule, attempt, reply)
        self._active.add(exchange)
        self._after(rule.delay_ms, exchange.begin, reply, attempt, exchange)
        return 200

    def embed(self, path: str, body: dict[str, Any], reply: Reply) -> int:
        """Answers an embedding request, like ``generate``."""
        serves = self.settings.serves
        if serves == "generation":
            raise EngineError(
                "This model does not appear to be an embedding model by default. Please add `--is-embedding` "
                "when launching the server or try another model."
            )
        asked = embedding.embedding(path, body, context=self.settings.context, dimensions=serves == "both")
        model = str(body.get("model") or "default")
        rule = self.script.choose(path=path, model=model, stream=False, text=asked.texts[0])
        attempt = self._begin(path, body.get("rid"), model, False, 0)
        scripted, outcome = scripted_answer(rule, False), "scripted"
        if scripted is None:
            outcome = "stop"
            attempt.prompt_tokens = asked.tokens
            self.truth.planned(attempt)
            size = body.get("dimensions") or embedding.DIMENSIONS
            vectors = [embedding.vector(text, size) for text in asked.texts]
            where = f"{MODELS_FOLDER}/{self.settings.models[0]}"
            document = shapes.embeddings(where, vectors, asked.encoding, asked.tokens)
            scripted = 200, JSON, orjson.dumps(document)
        self._answer_by_script(scripted, rule, attempt, reply, outcome)
        return scripted[0]

    def drain(self) -> None:
        """SIGTERM: running requests finish, new ones are still answered, as in SGLang."""
        self.draining = True
        if not self._active:
            self.drained.set()

    def used_tokens(self) -> int:
        """Tokens of running requests, as a KV cache would hold them."""
        return sum(run.attempt.prompt_tokens + run.position for run in self.scheduler.running)

    def _begin(self, path: str, rid: object, model: str, stream: bool, priority: int) -> Attempt:
        shown = rid if isinstance(rid, str) else ""
        return self.truth.begin(rid=shown, path=path, model=model, stream=stream, priority=priority)

    def _exchange(self, asked: Job, rule: Rule, attempt: Attempt, reply: Reply) -> Exchange:
        cached = tuple(self._prefixes.admit(prompt.key, asked.salt) for prompt in asked.prompts)
        if asked.n > 1:
            # SGLang runs the prompt of several choices once before, for their common prefix.
            cached = tuple(prompt.tokens - 1 for prompt in asked.prompts)
        plans = tuple(
            self._plan(asked, rule, prompt, choice) for prompt in asked.prompts for choice in range(asked.n)
        )
        attempt.prompt_tokens, attempt.cached_tokens = sum(asked.prompt_tokens), sum(cached)
        attempt.planned_tokens = sum(len(plan.tokens) for plan in plans)
        self.truth.planned(attempt)
        speed = self.settings.tokens_per_s if rule.tokens_per_s is None else rule.tokens_per_s
        ttft_ms = self.settings.ttft_ms if rule.ttft_ms is None else rule.ttft_ms
        return Exchange(
            job=asked,
            rule=rule,
            reply=reply,
            cached=cached,
            scheduler=self.scheduler,
            counters=self.counters,
            clock=self.clock,
            over=self._over,
            remember=self._remember,
            notice_s=self.settings.notice_ms / 1000,
            attempt=attempt,
            plans=plans,
            token_s=1 / speed if speed else 0.0,
            first_s=ttft_ms / 1000,
        )

    def _plan(self, asked: Job, rule: Rule, prompt: Prompt, choice: int) -> words.Plan:
        identity = f"{asked.model}\0{self.settings.seed}\0{asked.seed}\0{choice}\0".encode() + prompt.key
        limit, literal, endless = asked.max_tokens + rule.extra_tokens, rule.text, asked.endless
        if literal is None and (asked.tools or asked.schema is not None):
            seed = int.from_bytes(blake2b(identity, digest_size=8).digest())
            functions = calls.called(asked.tools, asked.last_user, required=asked.must_call, seed=seed)
            if functions:
                return calls.calls_plan(functions, max_tokens=limit, seed=seed)
            if asked.schema is not None:
                # A grammar that has come to its end ends the answer, whatever ignore_eos says.
                value, endless = instance(asked.schema, random.Random(seed)), False
                literal = json.dumps(value, ensure_ascii=False)
        return words.plan(
            identity,
            natural=self.settings.natural if rule.length is None else (rule.length, rule.length),
            max_tokens=limit,
            stop=asked.stop,
            # An engine that ignores the limit also goes on until it has broken it.
            endless=endless or rule.extra_tokens > 0,
            literal=literal,
        )

    def _remember(self, done: Exchange) -> None:
        """The cache has answers too: the next turn of a chat begins with them."""
        for index, plan in enumerate(done.run.plans):
            prompt = done.job.prompts[index // done.job.n]
            self._prefixes.admit(prompt.continued(plan.text), done.job.salt)

    def _answer_by_script(
        self, scripted: tuple[int, str, bytes], rule: Rule, attempt: Attempt, reply: Reply, outcome: str
    ) -> None:
        token = object()
        self._active.add(token)

        def answer() -> None:
            status, content_type, body = scripted
            reply.whole(status, content_type, body, rule.headers)
            self.truth.end(attempt, outcome)
            self._over(token)

        self._after(rule.delay_ms, answer, reply, attempt, token)

    def _after(
        self, delay_ms: int, then: Callable[[], None], reply: Reply, attempt: Attempt, token: object
    ) -> None:
        if not delay_ms:
            then()
            return
        timer = asyncio.get_running_loop().call_later(delay_ms / 1000, then)

        def gone() -> None:
            timer.cancel()
            self.truth.end(attempt, "client_gone")
            self._over(token)

        reply.gone = gone

    def _over(self, done: object) -> None:
        self._active.discard(done)
        if self.draining and not self._active:
            self.drained.set()
