"""The twin's paths: the part of SGLang's HTTP API that a gateway touches, and ``/__*`` for tests."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import parse_qs, unquote

import orjson

from inference.twin import counters as metrics
from inference.twin import shapes
from inference.twin.errors import EngineError, invalid, parsed
from inference.twin.http import JSON, HttpRequest, Reply
from inference.twin.intake import Intake
from inference.twin.prompt import Prompt, chat_prompt, checked_messages, keyed
from inference.twin.request import tools_shown
from inference.twin.script import BadScript, rules

VERSION: Final = "0.5.23"
"""The SGLang this is a twin of."""
GENERATE: Final = ("/v1/chat/completions", "/v1/completions")


class Service:
    """Answers requests."""

    def __init__(self, intake: Intake) -> None:
        """``intake`` has the state."""
        self._intake, self._clock, self._settings = intake, intake.clock, intake.settings
        self._created = intake.clock.unix_ms() // 1000

    def handle(self, request: HttpRequest, reply: Reply) -> None:
        """Answers ``request`` on ``reply``, now or later."""
        self._intake.counters.http_requests[(request.target, request.method)] += 1
        route = self._route(request.target)
        try:
            if route is None:
                self._json(request, reply, 404, {"detail": "Not Found"})
            elif route[0] not in (request.method, "ANY"):
                self._count(request, 405)
                body = orjson.dumps({"detail": "Method Not Allowed"})
                reply.whole(405, JSON, body, {"allow": route[0]})
            else:
                route[1](request, reply)
        except EngineError as error:
            if error.status == 500:
                self._count(request, 500)
                reply.bare(500, error.message)
            else:
                self._json(request, reply, error.status, shapes.flat_error(error))

    def _route(self, target: str) -> tuple[str, Callable[[HttpRequest, Reply], None]] | None:
        if target in GENERATE:
            return "POST", self._generate
        if target.startswith("/v1/models/"):
            return "GET", self._model
        return {
            "/v1/embeddings": ("POST", self._embeddings),
            "/v1/models": ("GET", self._models),
            "/tokenize": ("POST", self._tokenize),
            "/v1/tokenize": ("POST", self._tokenize),
            "/health": ("GET", self._health),
            "/health_generate": ("GET", self._health),
            "/ready": ("GET", self._ready),
            "/ping": ("GET", self._ready),
            "/metrics": ("GET", self._metrics),
            "/v1/loads": ("GET", self._loads),
            "/abort_request": ("POST", self._abort),
            "/server_info": ("GET", self._server_info),
            "/get_server_info": ("GET", self._server_info),
            "/__attempts": ("ANY", self._attempts),
            "/__script": ("ANY", self._script),
        }.get(target)

    def _count(self, request: HttpRequest, status: int) -> None:
        self._intake.counters.http_responses[(request.target, request.method, status)] += 1

    def _json(self, request: HttpRequest, reply: Reply, status: int, document: object) -> None:
        self._count(request, status)
        reply.whole(status, JSON, orjson.dumps(document))

    def _body(self, request: HttpRequest) -> dict[str, Any]:
        if not request.headers.get("content-type", "").startswith(JSON):
            detail = (
                "{'loc': ['header', 'content-type'], 'msg': \"Unsupported Media Type: Only "
                "'application/json' is allowed\", 'type': 'value_error'}"
            )
            raise EngineError(f"1 validation error:\n  {detail} [{detail}]", type_="Bad Request")
        return parsed(request.target, request.body)

    # ---- the rest of SGLang's paths

    def _generate(self, request: HttpRequest, reply: Reply) -> None:
        self._count(request, self._intake.generate(request.target, self._body(request), reply))

    def _embeddings(self, request: HttpRequest, reply: Reply) -> None:
        self._count(request, self._intake.embed(request.target, self._body(request), reply))

    def _models(self, request: HttpRequest, reply: Reply) -> None:
        cards = [self._card(name) for name in self._settings.models]
        self._json(request, reply, 200, {"object": "list", "data": cards})

    def _card(self, name: str) -> shapes.Json:
        return shapes.model_card(name, self._created, self._settings.context)

    def _model(self, request: HttpRequest, reply: Reply) -> None:
        name = unquote(request.target.removeprefix("/v1/models/"))
        if name in self._settings.models:
            self._json(request, reply, 200, self._card(name))
            return
        error = {
            "message": f"The model '{name}' does not exist",
            "type": "invalid_request_error",
            "param": "model",
            "code": "model_not_found",
        }
        self._json(request, reply, 404, {"error": error})

    def _tokenize(self, request: HttpRequest, reply: Reply) -> None:
        body, context = self._body(request), self._settings.context
        prompt, messages = body.get("prompt"), body.get("messages")
        if (prompt is None) == (messages is None):
            message = "Value error, Exactly one of 'prompt' or 'messages' must be provided."
            raise invalid(request.target, "value_error", ("body",), message, body)
        if messages is not None:
            shown = chat_prompt(checked_messages(request.target, body), tools_shown(body))
            self._json(request, reply, 200, shapes.tokenized(shown.ids(), shown.tokens, context))
        elif isinstance(prompt, str):
            ids = Prompt(keyed(prompt.encode())).ids()
            self._json(request, reply, 200, shapes.tokenized(ids, len(ids), context))
        elif isinstance(prompt, list) and all(isinstance(text, str) for text in prompt):
            many = [Prompt(keyed(text.encode())).ids() for text in prompt]
            counts = [len(ids) for ids in many]
            self._json(request, reply, 200, shapes.tokenized(many, counts, context))
        else:
            message = "Input should be a valid string"
            raise invalid(request.target, "string_type", ("body", "prompt", "str"), message, prompt)

    def _health(self, request: HttpRequest, reply: Reply) -> None:
        status = 503 if self._intake.draining else 200
        self._count(request, status)
        if status == 200:
            # A generation of one token, which is why it takes its time.
            self._intake.counters.prefilled += 1

        def answer() -> None:
            reply.whole(status, "", b"")

        if self._intake.draining or not self._settings.health_ms:
            answer()
        else:
            timer = asyncio.get_running_loop().call_later(self._settings.health_ms / 1000, answer)
            reply.gone = lambda: timer.cancel()

    def _ready(self, request: HttpRequest, reply: Reply) -> None:
        status = 503 if self._intake.draining else 200
        self._count(request, status)
        reply.whole(status, "", b"")

    def _metrics(self, request: HttpRequest, reply: Reply) -> None:
        scheduler, settings = self._intake.scheduler, self._settings
        engine = metrics.Engine(
            running=scheduler.running,
            waiting=scheduler.waiting,
            priorities=scheduler.seen,
            used_tokens=self._intake.used_tokens(),
            capacity_tokens=settings.capacity_tokens,
            context=settings.context,
            max_running=settings.max_running,
        )
        exposed = metrics.text(self._intake.counters, engine, model=settings.models[0])
        self._count(request, 200)
        reply.whole(200, "text/plain; version=0.0.4; charset=utf-8", exposed)

    def _load(self) -> shapes.Json:
        scheduler, settings = self._intake.scheduler, self._settings
        running, waiting = len(scheduler.running), len(scheduler.waiting)
        return shapes.load(
            now_s=self._clock.unix_ms() / 1000,
            running=running,
            waiting=waiting,
            waiting_tokens=sum(run.attempt.prompt_tokens for run in scheduler.waiting),
            used_tokens=self._intake.used_tokens(),
            capacity_tokens=settings.capacity_tokens,
            max_running=settings.max_running,
        )

    def _loads(self, request: HttpRequest, reply: Reply) -> None:
        now = datetime.fromtimestamp(self._clock.unix_ms() / 1000, UTC)
        document = {
            "timestamp": now.isoformat(timespec="microseconds"),
            "version": VERSION,
            "accelerator": None,
            "num_accelerators": 1,
            "loads": [self._load()],
        }
        self._json(request, reply, 200, document)

    def _abort(self, request: HttpRequest, reply: Reply) -> None:
        body = self._body(request)
        self._intake.scheduler.abort(str(body.get("rid") or ""), everything=bool(body.get("abort_all")))
        self._count(request, 200)
        reply.whole(200, "", b"")

    def _server_info(self, request: HttpRequest, reply: Reply) -> None:
        settings = self._settings
        document = {
            "served_model_name": settings.models[0],
            "model_path": "twin",
            "device": "twin",
            "context_length": settings.context,
            "max_running_requests": settings.max_running,
            "max_queued_requests": settings.max_queued,
            "version": VERSION,
            "internal_states": [self._load()],
        }
        self._json(request, reply, 200, document)

    # ---- for tests

    def _attempts(self, request: HttpRequest, reply: Reply) -> None:
        if request.method == "DELETE":
            self._intake.truth.forget()
        rid = parse_qs(request.query).get("rid", [None])[0]
        reply.whole(200, JSON, orjson.dumps({"attempts": self._intake.truth.attempts(rid)}))

    def _script(self, request: HttpRequest, reply: Reply) -> None:
        if request.method == "POST":
            try:
                self._intake.script.rules = rules(orjson.loads(request.body))
            except (BadScript, ValueError, TypeError) as error:
                reply.whole(400, JSON, orjson.dumps({"error": str(error)}))
                return
        elif request.method == "DELETE":
            self._intake.script.rules = []
        shown = [{"used": rule.used, "contains": rule.contains} for rule in self._intake.script.rules]
        reply.whole(200, JSON, orjson.dumps({"rules": shown}))
