"""An engine that sends nothing without leave: the test gives it for each piece, after its client has the
piece before. Whatever lies between and waits for more than it has been given makes the client time out."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from queue import Queue
from typing import Any

import orjson

from tests.harness.gateway import UNTIL_S

END = None
CREATED = 1_780_000_000
SERVED_NAME = "smollm2-135m"
DONE = b"data: [DONE]\n\n"


class Exchange:
    """One request; its pieces are written when ``leave`` is given."""

    def __init__(self, body: dict[str, Any]) -> None:
        """``body`` is what the gateway asked."""
        self.body = body
        self._leave: Queue[bytes | None] = Queue()

    def give(self, piece: bytes) -> None:
        """Leave to send ``piece``."""
        self._leave.put(piece)

    def end(self) -> None:
        """Leave to end the answer."""
        self._leave.put(END)

    def pieces(self) -> Iterator[bytes]:
        """What may be sent, as leave comes; the engine's side. Raises queue.Empty without leave."""
        while (piece := self._leave.get(timeout=UNTIL_S)) is not END:
            yield piece


class SteppedEngine:
    """Listens on ``port`` of 127.0.0.1. Outside ``stepping`` it answers everything at once."""

    def __init__(self) -> None:
        """Starts it."""
        self.asked: Queue[Exchange] = Queue()
        self.stepping_now = False
        engine = self

        class Handler(BaseHTTPRequestHandler):
            """HTTP/1.1 with chunked answers."""

            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                self.send_response(200)
                self.send_header("content-length", "0")
                self.end_headers()

            def do_POST(self) -> None:
                length = int(self.headers.get("content-length", "0"))
                engine._answer(self, orjson.loads(self.rfile.read(length) or b"{}"))

            def log_message(self, *_: Any) -> None:
                """Quiet: the test shows what matters."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.port = int(self._server.server_address[1])
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        """For ``tidegate up --engine``."""
        return f"http://127.0.0.1:{self.port}"

    @contextmanager
    def stepping(self) -> Iterator[None]:
        """Within, every request waits for leave in ``asked``, after its headers."""
        self.stepping_now = True
        try:
            yield
        finally:
            self.stepping_now = False

    def close(self) -> None:
        """Ends it."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _answer(self, handler: BaseHTTPRequestHandler, body: dict[str, Any]) -> None:
        stream = bool(body.get("stream"))
        handler.send_response(200)
        handler.send_header("content-type", media_type(stream))
        handler.send_header("transfer-encoding", "chunked")
        handler.end_headers()
        handler.wfile.flush()
        exchange = Exchange(body)
        if self.stepping_now:
            self.asked.put(exchange)
        else:
            for piece in (*chat_stream(1), DONE) if stream else (json_answer(),):
                exchange.give(piece)
            exchange.end()
        for piece in exchange.pieces():
            handler.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
            handler.wfile.flush()
        handler.wfile.write(b"0\r\n\r\n")


def media_type(stream: bool) -> str:
    """The media type of an answer."""
    return "text/event-stream; charset=utf-8" if stream else "application/json"


def usage(completion: int) -> dict[str, Any]:
    """SGLang's usage of a prompt of 10 tokens."""
    return {"prompt_tokens": 10, "completion_tokens": completion, "total_tokens": 10 + completion}


def _event(kind: str, choices: list[dict[str, Any]], counted: int | None) -> bytes:
    document = {
        "id": "engine-id",
        "object": kind,
        "created": CREATED,
        "model": SERVED_NAME,
        "choices": choices,
        "usage": None if counted is None else usage(counted),
    }
    return b"data: " + orjson.dumps(document) + b"\n\n"


def chat_stream(words: int) -> tuple[bytes, ...]:
    """SGLang's events of a chat answer of ``words`` words: role, words, finish, usage; not ``[DONE]``."""

    def event(delta: dict[str, str], finish: str | None, counted: int | None) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish, "matched_stop": None}
        return _event("chat.completion.chunk", [choice], counted)

    return (
        event({"role": "assistant", "content": ""}, None, None),
        *(event({"content": f"word{number} "}, None, number + 1) for number in range(words)),
        event({}, "stop", None),
        _event("chat.completion.chunk", [], words),
    )


def text_stream(words: int) -> tuple[bytes, ...]:
    """The same of ``/v1/completions``, where the last word carries the finish reason."""

    def event(number: int) -> bytes:
        finish = "stop" if number == words - 1 else None
        choice = {"index": 0, "text": f"word{number} ", "logprobs": None, "finish_reason": finish}
        return _event("text_completion", [choice], number + 1)

    return (*map(event, range(words)), _event("text_completion", [], words))


def json_answer() -> bytes:
    """SGLang's whole chat answer."""
    message = {"role": "assistant", "content": "word0 word1", "reasoning_content": None, "tool_calls": None}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop", "matched_stop": 2}
    return orjson.dumps(
        {
            "id": "engine-id",
            "object": "chat.completion",
            "created": CREATED,
            "model": SERVED_NAME,
            "choices": [choice],
            "usage": usage(2),
            "metadata": {"weight_version": "default"},
        }
    )
