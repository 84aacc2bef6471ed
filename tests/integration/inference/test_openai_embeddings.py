"""The embedder that asks ``/v1/embeddings``: of the twin, and of servers that answer anything."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import orjson
import pytest

from gateway.contract.units import Millis
from inference.embedders.embedder import Embedder, EmbedderUnavailable, Overloaded, TooLong
from inference.embedders.openai_embeddings import OpenAIEmbedder, RemoteModel
from tests.harness.engines import Twin, twin
from tests.harness.gateway import MODEL
from tests.harness.listening import listening

PATIENT = Millis(60_000)
IMPATIENT = Millis(100)
SMALL = RemoteModel(name="small", revision="1", dimensions=2)
KEY = "sk-embeddings-key-0123456789"


def answer(*numbers: float, tokens: int = 3) -> bytes:
    return orjson.dumps({"data": [{"embedding": numbers}], "usage": {"prompt_tokens": tokens}})


def whole(body: bytes, status: str = "200 OK", more: str = "") -> bytes:
    return f"HTTP/1.1 {status}\r\ncontent-length: {len(body)}\r\n{more}\r\n".encode() + body


Reply = Callable[[asyncio.StreamWriter, dict[str, Any]], Awaitable[None]]


@dataclass(slots=True)
class Pod:
    """A server that notes what it is asked and answers what a test says."""

    reply: Reply
    asked: list[dict[str, Any]] = field(default_factory=list)
    heads: list[bytes] = field(default_factory=list)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            try:
                head = await reader.readuntil(b"\r\n\r\n")
            except asyncio.IncompleteReadError:
                return
            [length] = [line[15:] for line in head.lower().split(b"\r\n") if line[:15] == b"content-length:"]
            self.heads.append(head)
            self.asked.append(orjson.loads(await reader.readexactly(int(length))))
            await self.reply(writer, self.asked[-1])
            await writer.drain()


def always(data: bytes) -> Reply:
    async def reply(writer: asyncio.StreamWriter, _: dict[str, Any]) -> None:
        writer.write(data)

    return reply


@asynccontextmanager
async def asking(
    reply: Reply, *, model: RemoteModel = SMALL, **options: Any
) -> AsyncIterator[tuple[OpenAIEmbedder, Pod]]:
    pod = Pod(reply)
    async with listening(pod.serve) as port:
        options = {"deadline": PATIENT, **options}
        embedder = OpenAIEmbedder(model, base_url=f"http://127.0.0.1:{port}", **options)
        try:
            yield embedder, pod
        finally:
            await embedder.close()


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Twin]:
    with twin(tmp_path_factory.mktemp("twin")) as running:
        yield running


async def test_the_twins_vectors(engine: Twin) -> None:
    model = RemoteModel(name=MODEL, revision="1", dimensions=384)
    embedder: Embedder = OpenAIEmbedder(model, base_url=engine.url, deadline=PATIENT)
    texts = ("how do I reset my password", "how can I reset my password", "an unrelated text of words")
    own, near, far = await asyncio.gather(*(embedder.embed(text) for text in texts))
    assert own.shape == (embedder.dimensions,)
    assert float(np.linalg.norm(own)) == pytest.approx(1, abs=1e-6)
    assert float(own @ near) > float(own @ far)
    with pytest.raises(TooLong):
        await embedder.embed("word " * 200)
    with pytest.raises(EmbedderUnavailable, match="HTTP 400"):
        await embedder.embed(" ")
    await embedder.close()
    wrong = OpenAIEmbedder(
        RemoteModel(name=MODEL, revision="1", dimensions=768), base_url=engine.url, deadline=PATIENT
    )
    with pytest.raises(EmbedderUnavailable, match="shape"):
        await wrong.embed(texts[0])
    await wrong.close()


async def test_a_text_is_asked_for_once_and_then_remembered() -> None:
    async with asking(always(whole(answer(3, 4))), api_key=KEY) as (embedder, pod):
        together = await asyncio.gather(*(embedder.embed("a") for _ in range(20)))
        again = await embedder.embed("a")
        assert all(one is again for one in together)
        assert again == pytest.approx([0.6, 0.8])
        assert [one["input"] for one in pod.asked] == ["a"]
        await embedder.embed("A")
        assert len(pod.asked) == 2
        assert f"Bearer {KEY}".encode() in pod.heads[0]


async def test_what_was_asked_longest_ago_is_forgotten_first() -> None:
    async with asking(always(whole(answer(3, 4))), entries_max=2) as (embedder, pod):
        for text in ("a", "b", "a", "c", "a", "b"):
            await embedder.embed(text)
        assert [one["input"] for one in pod.asked] == ["a", "b", "c", "b"]


async def test_the_engines_count_of_tokens_decides_and_is_remembered() -> None:
    async with asking(always(whole(answer(3, 4, tokens=65)))) as (embedder, pod):
        for _ in range(2):
            with pytest.raises(TooLong):
                await embedder.embed("a")
        with pytest.raises(TooLong):
            await embedder.embed("x" * 2000)
        assert len(pod.asked) == 1


async def test_a_failure_is_not_remembered() -> None:
    async with asking(always(whole(b"", "503 Service Unavailable"))) as (embedder, pod):
        with pytest.raises(EmbedderUnavailable, match="HTTP 503"):
            await embedder.embed("a")
        pod.reply = always(whole(answer(3, 4)))
        assert await embedder.embed("a") == pytest.approx([0.6, 0.8])


ENDLESS = (
    b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" + (b"8000\r\n" + b" " * 0x8000 + b"\r\n") * 8
)
FAILURES: dict[str, tuple[bytes, str]] = {
    "rubbish": (whole(b"<html>"), "no embedding"),
    "another dimension": (whole(answer(1, 2, 3)), "shape"),
    "NaN": (whole(b'{"data": [{"embedding": [NaN, 1]}]}'), "no embedding"),
    "zeros": (whole(answer(0, 0)), "zeros"),
    "no end": (ENDLESS, "longer than"),
    "huge": (whole(b" " * 100_000), "longer than"),
    "compressed": (whole(b"\x1f\x8b" + bytes(20), more="content-encoding: gzip\r\n"), "no embedding"),
    "elsewhere": (whole(b"", "307 Temporary Redirect", "location: /v1/embeddings\r\n"), "HTTP 307"),
    "no key": (whole(b"", "401 Unauthorized"), "HTTP 401"),
    "no HTTP": (b"SSH-2.0-OpenSSH\r\n\r\n", "RemoteProtocolError"),
}


@pytest.mark.parametrize("case", FAILURES)
async def test_what_is_no_answer_is_no_vector(case: str, caplog: pytest.LogCaptureFixture) -> None:
    data, said = FAILURES[case]
    caplog.set_level(logging.DEBUG)
    async with asking(always(data), api_key=KEY) as (embedder, pod):
        with pytest.raises(EmbedderUnavailable, match=said) as failed:
            await embedder.embed("a private question")
        assert "private" not in str(failed.value)
        assert len(pod.asked) == 1
    ours = [record for record in caplog.records if not record.name.startswith("asyncio")]
    assert [record for record in ours if KEY in record.getMessage()] == []


async def test_a_connection_that_ends_or_is_refused_is_no_answer() -> None:
    async def ended(writer: asyncio.StreamWriter, _: dict[str, Any]) -> None:
        writer.write(whole(answer(3, 4))[:-5])
        await writer.drain()
        writer.close()

    async with asking(ended) as (embedder, _):
        with pytest.raises(EmbedderUnavailable, match="RemoteProtocolError"):
            await embedder.embed("a")
    nobody = OpenAIEmbedder(SMALL, base_url="http://127.0.0.1:1")
    with pytest.raises(EmbedderUnavailable, match="ConnectError"):
        await nobody.embed("a")
    await nobody.close()


async def never(_: asyncio.StreamWriter, __: dict[str, Any]) -> None:
    await asyncio.Event().wait()


async def test_a_server_that_is_silent_or_drips_is_given_up() -> None:
    async def dripping(writer: asyncio.StreamWriter, _: dict[str, Any]) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 9000\r\n\r\n")
        while not writer.is_closing():
            writer.write(b" ")
            await writer.drain()
            await asyncio.sleep(0.01)

    for reply in (never, dripping):
        async with asking(reply, deadline=IMPATIENT) as (embedder, _):
            with pytest.raises(EmbedderUnavailable, match=r"in time|Timeout"):
                await embedder.embed("a")


async def test_who_stops_waiting_leaves_the_call_to_the_next() -> None:
    asked, let_go = asyncio.Event(), asyncio.Event()

    async def late(writer: asyncio.StreamWriter, _: dict[str, Any]) -> None:
        asked.set()
        await let_go.wait()
        writer.write(whole(answer(3, 4)))

    async with asking(late) as (embedder, pod):
        first = asyncio.ensure_future(embedder.embed("a"))
        await asked.wait()
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        second = asyncio.ensure_future(embedder.embed("a"))
        let_go.set()
        assert await second == pytest.approx([0.6, 0.8])
        assert len(pod.asked) == 1


async def test_no_more_calls_at_once_than_allowed_and_no_more_wait() -> None:
    two_came = asyncio.Barrier(3)

    async def counted(writer: asyncio.StreamWriter, body: dict[str, Any]) -> None:
        await two_came.wait()
        await never(writer, body)

    async with asking(counted, calls_max=2, waiting_max=3) as (embedder, pod):
        waiting = [asyncio.ensure_future(embedder.embed(str(number))) for number in range(5)]
        await asyncio.sleep(0)
        with pytest.raises(Overloaded):
            await embedder.embed("another")
        await two_came.wait()
        await embedder.close()
        ended = await asyncio.gather(*waiting, return_exceptions=True)
        assert {type(one) for one in ended} == {EmbedderUnavailable}
        assert len(pod.asked) == 2
        with pytest.raises(EmbedderUnavailable, match="closed"):
            await embedder.embed("0")
