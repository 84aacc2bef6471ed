"""Chunks reach the client as they are produced, headers first, in lock-step with an engine that may send
chunk k + 1 only when the client has chunk k. Whatever gathered chunks on the way would wait for ever."""

from __future__ import annotations

import json
import queue
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import IO, Any

import pytest
from openai import OpenAI

from tests.clients.served import CLIENT_TIMEOUT_S, ask
from tests.clients.stepped import DONE, Exchange, SteppedEngine, chat_stream, json_answer, text_stream
from tests.harness import api_keys
from tests.harness.gateway import MODEL, UNTIL_S, Gateway, until
from tests.harness.patience import BUSY, PAUSE_S, TRIES

WORDS = 6


@pytest.fixture(scope="module")
def engine() -> Iterator[SteppedEngine]:
    running = SteppedEngine()
    yield running
    running.close()


@pytest.fixture(scope="module")
def gateway(engine: SteppedEngine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    running = Gateway(tmp_path_factory.mktemp("state"), engine=engine.url)
    yield running
    running.close()


@pytest.fixture
def sdk(gateway: Gateway) -> Iterator[OpenAI]:
    with api_keys.sdk(gateway, gateway.api_key).with_options(timeout=UNTIL_S) as client:
        yield client


def next_asked(engine: SteppedEngine) -> Exchange:
    """The request that waits for leave."""
    return engine.asked.get(timeout=UNTIL_S)


def finish(exchange: Exchange) -> None:
    exchange.give(DONE)
    exchange.end()


def test_chat_chunks_come_one_by_one_after_the_headers(engine: SteppedEngine, sdk: OpenAI) -> None:
    asked = ask("lock-step", stream=True)
    with engine.stepping(), sdk.chat.completions.create(**asked) as stream:
        exchange = next_asked(engine)  # the client has the headers, and no chunk has leave yet
        role, *words, finished, usage = chat_stream(WORDS)
        exchange.give(role)
        assert next(stream).choices[0].delta.role == "assistant"
        for number, word in enumerate(words):
            exchange.give(word)
            assert next(stream).choices[0].delta.content == f"word{number} "
        exchange.give(finished)
        assert next(stream).choices[0].finish_reason == "stop"
        exchange.give(usage)
        finish(exchange)
        assert list(stream) == []


def test_completion_chunks_come_one_by_one_after_the_headers(engine: SteppedEngine, sdk: OpenAI) -> None:
    with (
        engine.stepping(),
        sdk.completions.create(model=MODEL, prompt="lock-step", max_tokens=12, stream=True) as stream,
    ):
        exchange = next_asked(engine)
        *words, usage = text_stream(WORDS)
        for number, word in enumerate(words):
            exchange.give(word)
            assert next(stream).choices[0].text == f"word{number} "
        exchange.give(usage)
        finish(exchange)
        assert list(stream) == []


def test_an_event_in_two_pieces_comes_with_its_second(engine: SteppedEngine, sdk: OpenAI) -> None:
    asked = ask("split events", stream=True)
    with engine.stepping(), sdk.chat.completions.create(**asked) as stream:
        exchange = next_asked(engine)
        role, *words, finished, usage = chat_stream(WORDS)
        exchange.give(role)
        assert next(stream).choices[0].delta.role == "assistant"
        for number, word in enumerate(words):
            middle = len(word) // 2
            exchange.give(word[:middle])
            exchange.give(word[middle:])
            assert next(stream).choices[0].delta.content == f"word{number} "
        exchange.give(finished + usage)
        finish(exchange)
        assert [chunk.choices[0].finish_reason for chunk in stream] == ["stop"]


@pytest.fixture(params=["--http1.1", "--http2-prior-knowledge"], ids=["http/1.1", "h2c"])
def curl(request: pytest.FixtureRequest, gateway: Gateway) -> Callable[[dict[str, Any]], list[str]]:
    """The command line of a curl that shows headers and every byte at once."""
    program = shutil.which("curl")
    if program is None:
        pytest.skip("no curl here; .ci/run installs it (Debian: apt-get install curl)")

    def command(body: dict[str, Any]) -> list[str]:
        return [
            *(program, "-sN", "-D", "-", request.param, "--max-time", str(CLIENT_TIMEOUT_S)),
            *("-H", f"authorization: Bearer {gateway.api_key}", "-H", "content-type: application/json"),
            *("-d", json.dumps(body), f"{gateway.base_url}/chat/completions"),
        ]

    return command


def head_of(output: IO[str]) -> str:
    """Status line and headers, up to the empty line."""
    return "".join(iter(output.readline, "\n"))


@contextmanager
def answering(engine: SteppedEngine, command: list[str]) -> Iterator[tuple[subprocess.Popen[str], Exchange]]:
    """The process of ``command`` whose request waits at the engine for leave."""
    for _ in range(TRIES):
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as client:
            exchange = None
            while exchange is None and client.poll() is None:
                with suppress(queue.Empty):
                    exchange = engine.asked.get(timeout=PAUSE_S)
            if exchange is not None:
                yield client, exchange
                return
            refused, _ = client.communicate()
            assert any(code in refused for code in BUSY), refused
    raise AssertionError("the gateway is busy all the time")


def test_bytes_come_one_by_one_by_either_http(
    engine: SteppedEngine, curl: Callable[[dict[str, Any]], list[str]]
) -> None:
    with engine.stepping(), answering(engine, curl(ask("by curl", stream=True))) as (client, exchange):
        assert client.stdout is not None
        head = head_of(client.stdout)  # no chunk has leave yet
        assert " 200" in head.splitlines()[0]
        assert "text/event-stream" in head
        role, *words, finished, usage = chat_stream(WORDS)
        for number, piece in enumerate((role, *words, finished)):
            exchange.give(piece)
            line = client.stdout.readline()
            assert json.loads(line.removeprefix("data: "))["choices"], number
            assert client.stdout.readline() == "\n"
        exchange.give(usage)
        finish(exchange)
        assert client.stdout.read() == "data: [DONE]\n\n"
    assert client.returncode == 0


def test_a_json_answer_in_pieces_comes_whole(engine: SteppedEngine, gateway: Gateway) -> None:
    """One document is one piece to its reader: it may be gathered, for its usage is read and its name mended,
    but nothing beyond its last byte is waited for."""
    body = ask("in pieces", temperature=1)
    with (
        engine.stepping(),
        gateway.client() as client,
        client.stream("POST", "/chat/completions", json=body) as answer,
    ):
        exchange = next_asked(engine)
        assert answer.status_code == 200
        whole = json_answer()
        for start in range(0, len(whole), 50):
            exchange.give(whole[start : start + 50])
        exchange.end()
        document = json.loads(answer.read())
    assert document["choices"][0]["message"]["content"] == "word0 word1"


def test_a_replay_from_the_cache_asks_no_engine_and_is_whole(engine: SteppedEngine, sdk: OpenAI) -> None:
    """A replay may come in one burst: its chunks were produced long ago."""
    asked = ask("kept", stream=True, temperature=0)

    def again() -> tuple[str, str]:
        """Where the answer came from, and its text. An engine that is asked answers as the first time."""
        with (
            engine.stepping(),
            sdk.chat.completions.with_streaming_response.create(**asked) as answer,
        ):
            cache = answer.headers["x-tidegate-cache"]
            if cache != "hit":
                exchange = next_asked(engine)
                for piece in chat_stream(WORDS):
                    exchange.give(piece)
                finish(exchange)
            texts = [chunk.choices[0].delta.content or "" for chunk in answer.parse() if chunk.choices]
            assert engine.asked.empty()
        return cache, "".join(texts)

    words = "".join(f"word{number} " for number in range(WORDS))
    cache, text = again()
    assert cache != "hit" and text == words
    # Nobody waits for the cache's write, and a look-up that takes longer than 25 ms is given up.
    until(lambda: again() == ("hit", words), "a replay")
