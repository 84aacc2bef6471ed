"""The JWKS URL source against a real HTTP server: what is taken, and everything that is not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from ext_authz.keys.fetch import DOCUMENT_BYTES_MAX, FetchFailed, fetch
from ext_authz.keys.jwks import UrlKeys
from gateway.contract.clock import ManualClock
from tests.harness.listening import listening
from tests.unit.ext_authz import forge
from tests.unit.ext_authz.conftest import Bench

Answer = Callable[[asyncio.StreamWriter], Awaitable[None]]


class Server:
    """A raw HTTP/1.1 server on a free port that answers what a test says."""

    def __init__(self) -> None:
        self.requests: list[bytes] = []
        self.answer: Answer = _body(forge.JWKS)
        self.url = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.requests.append(await reader.readuntil(b"\r\n\r\n"))
        try:
            await self.answer(writer)
            await writer.drain()
        except ConnectionError:
            self.requests.append(b"(client went away)")
        finally:
            writer.close()


def _body(body: bytes, status: str = "200 OK", headers: str = "") -> Answer:
    async def answer(writer: asyncio.StreamWriter) -> None:
        head = f"HTTP/1.1 {status}\r\ncontent-length: {len(body)}\r\nconnection: close\r\n{headers}\r\n"
        writer.write(head.encode() + body)

    return answer


@asynccontextmanager
async def _running() -> AsyncIterator[Server]:
    server = Server()
    async with listening(server.serve) as port:
        server.url = f"http://127.0.0.1:{port}/jwks.json"
        yield server


async def test_keys_come_from_the_url_and_rotate() -> None:
    async with _running() as server:
        keys = UrlKeys(server.url, fetch, ManualClock(), wait_s=5)
        assert await keys.find("rsa-1")
        server.answer = _body(forge.jwks(forge.jwk(forge.ED_KEY, "ed-2")))
        assert await keys.find("ed-2")
        assert await keys.find("rsa-1") is None
        assert len(server.requests) == 2
        assert server.requests[0].startswith(b"GET /jwks.json HTTP/1.1\r\n")


async def test_redirects_are_not_followed() -> None:
    async with _running() as canary, _running() as server:
        for status in ("301 Moved", "302 Found", "307 Temporary Redirect", "308 Permanent Redirect"):
            server.answer = _body(b"", status, f"location: {canary.url}\r\n")
            with pytest.raises(FetchFailed, match="HTTP 30"):
                await fetch(server.url)
        assert canary.requests == []


@pytest.mark.parametrize("status", ["204 No Content", "404 Not Found", "500 Oops", "503 Down"])
async def test_other_statuses_are_failures(status: str) -> None:
    async with _running() as server:
        server.answer = _body(b"", status)
        with pytest.raises(FetchFailed):
            await fetch(server.url)


async def test_documents_over_the_limit_are_cut_off() -> None:
    async with _running() as server:

        async def endless(writer: asyncio.StreamWriter) -> None:
            writer.write(b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n")
            for _ in range(64):
                writer.write(b" " * (DOCUMENT_BYTES_MAX // 8))
                await writer.drain()

        server.answer = endless
        with pytest.raises(FetchFailed, match="longer than"):
            await fetch(server.url)


async def test_slow_issuers_are_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ext_authz.keys.fetch.FETCH_S", 0.1)
    async with _running() as server:
        never = asyncio.Event()

        async def drip(writer: asyncio.StreamWriter) -> None:
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n{")
            await writer.drain()
            await never.wait()

        server.answer = drip
        with pytest.raises(FetchFailed):
            await fetch(server.url)
        never.set()


async def test_nobody_listening_is_a_failure() -> None:
    async with _running() as server:
        url = server.url
    with pytest.raises(FetchFailed):
        await fetch(url)


async def test_token_that_names_a_key_url_causes_no_connection() -> None:
    """jku and x5u of a forged token: the canary hears nothing."""
    async with _running() as canary:
        for member in ("jku", "x5u"):
            text = forge.token(key=forge.OTHER_RSA_KEY, header={member: canary.url})
            await Bench().checker.decide([f"Bearer {text}"])
        assert canary.requests == []
