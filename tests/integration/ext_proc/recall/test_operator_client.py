"""The operator's questions to the gateway: what is sent, and what every kind of failure is called."""

from __future__ import annotations

import gzip
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import orjson
import pytest

from ext_proc.recall.operator_client import ANSWER_BYTES_MAX, CALLS_MAX, CouldNotAsk, OperatorClient
from ext_proc.recall.operator_paths import CHAT
from gateway.telemetry.log import logger
from tests.harness.canary import PROMPT
from tests.integration.ext_proc.recall.scripted_gateway import (
    Asked,
    Reply,
    hang,
    ok,
    says,
    scripted_gateway,
)

BODY = orjson.dumps({"model": "m", "messages": [{"role": "user", "content": PROMPT}]})


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    file = tmp_path / "operator.key"
    file.write_text("tg_first\n")
    return file


@asynccontextmanager
async def client_of(url: str, key_file: Path, deadline_s: float = 20.0) -> AsyncIterator[OperatorClient]:
    client = OperatorClient(url, key_file, logger("test"), deadline_s=deadline_s)
    try:
        yield client
    finally:
        await client.close()


async def refused(client: OperatorClient) -> tuple[str, bool]:
    with pytest.raises(CouldNotAsk) as caught:
        await client.ask(CHAT, BODY)
    return caught.value.code, caught.value.again


async def test_a_rotated_key_counts_at_once_and_nothing_is_read_from_the_own_cache(key_file: Path) -> None:
    async with scripted_gateway(says("a")) as gateway, client_of(gateway.url, key_file) as client:
        answer = orjson.loads(await client.ask(CHAT, BODY))
        key_file.write_text("tg_second")
        await client.ask(CHAT, BODY)
    assert answer["choices"][0]["message"]["content"] == "a"
    assert [asked.headers["authorization"] for asked in gateway.asked] == [
        "Bearer tg_first",
        "Bearer tg_second",
    ]
    assert {asked.headers["cache-control"] for asked in gateway.asked} == {"no-store"}
    assert gateway.asked[0].path == CHAT and gateway.asked[0].text == PROMPT


async def test_an_operator_is_told_once_what_to_mend(
    key_file: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    key_file.unlink()
    async with client_of("http://127.0.0.1:9", key_file) as client:
        for _ in range(3):
            assert await refused(client) == ("key", True)
    (line,) = [line for line in capfd.readouterr().out.splitlines() if "recall.check_refused" in line]
    assert "TIDEGATE_OPERATOR_KEY_FILE" in orjson.loads(line)["mend"]
    assert str(key_file) not in line


@pytest.mark.parametrize(
    ("status", "code", "again"),
    [
        *((status, f"http_{status}", True) for status in (401, 403, 404, 429, 500, 503)),
        (400, "http_400", False),
        (418, "http_other", False),
        (302, "http_other", False),
        (599, "http_other", True),
    ],
)
async def test_a_refusal_is_not_an_answer(status: int, code: str, again: bool, key_file: Path) -> None:
    async def reply(asked: Asked) -> Reply:
        return status

    async with scripted_gateway(reply) as gateway, client_of(gateway.url, key_file) as client:
        assert await refused(client) == (code, again)


@pytest.mark.parametrize(
    ("response", "code"),
    [
        (b"rubbish\r\n\r\n", "unreachable"),
        (b"", "unreachable"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{", "unreachable"),
        (b"HTTP/1.1 200 OK\r\nx: " + b"x" * 300_000 + b"\r\n\r\n{}", "unreachable"),
        (ok(b"x" * (ANSWER_BYTES_MAX + 1)), "too_large"),
    ],
)
async def test_a_broken_answer_is_none(response: bytes, code: str, key_file: Path) -> None:
    async def reply(asked: Asked) -> Reply:
        return response

    async with scripted_gateway(reply) as gateway, client_of(gateway.url, key_file) as client:
        assert (await refused(client))[0] == code


async def test_a_compressed_answer_is_not_unpacked(key_file: Path) -> None:
    packed = gzip.compress(b"{}" * 1000)

    async def reply(asked: Asked) -> Reply:
        head = b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: %d\r\n\r\n" % len(packed)
        return head + packed

    async with scripted_gateway(reply) as gateway, client_of(gateway.url, key_file) as client:
        assert await client.ask(CHAT, BODY) == packed
        assert gateway.asked[0].headers["accept-encoding"] == "identity"


async def test_a_frozen_gateway_costs_the_deadline_and_no_more_than_its_share(key_file: Path) -> None:
    async with scripted_gateway(hang) as gateway, client_of(gateway.url, key_file, 0.05) as client:
        for _ in range(CALLS_MAX + 1):  # a turn that was not given back would be missed
            assert await refused(client) == ("late", True)


async def test_nobody_there(key_file: Path) -> None:
    async with scripted_gateway(says("a")) as gateway:
        url = gateway.url
    async with client_of(url, key_file) as client:
        assert await refused(client) == ("unreachable", True)


@pytest.mark.parametrize("content", [None, b"", b"two words", b"line\nline", b"\xff\xfe", b"k" * 2000])
async def test_without_a_key_nothing_is_sent(content: bytes | None, tmp_path: Path) -> None:
    file = tmp_path / "operator.key"
    if content is not None:
        file.write_bytes(content)
    async with scripted_gateway(says("a")) as gateway, client_of(gateway.url, file) as client:
        assert await refused(client) == ("key", True)
    assert gateway.asked == []


@pytest.mark.parametrize("url", ["", "127.0.0.1:80", "ftp://a", "http://", "http://u:p@a", "http://a/v1"])
def test_other_addresses_are_refused(url: str, key_file: Path) -> None:
    with pytest.raises(ValueError, match="must be http"):
        OperatorClient(url, key_file, logger("test"))
