"""Requests that are asked again when the machine was too busy for one of the gateway's deadlines.

A filter or the ledger that takes longer than its deadline is a typed 503 by design (gateway/path.py): a
ledger whose disk stalls has 50 ms. Tests of something else ask again, as a client does that is told to.
The transports are httpx's, and those of the copy of it that the OpenAI SDK brings.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, TypeVar

import httpx
import httpx2
import openai

T = TypeVar("T")
BUSY: Final = frozenset({"identity_unavailable", "admission_unavailable", "budget_unavailable"})
"""Refusals because a filter or the ledger took longer than its deadline, 50 ms to a second, as on a machine
that is busy: no word about engines or budgets, and to be asked again."""
TRIES: Final = 40
PAUSE_S: Final = 0.1
"""Four seconds in all: a stall is over by then, an outage is not, and its refusal is the answer."""


met: Final = Counter[str]()
"""What was met in this run, by code. Shown at its end: more than a few on a quiet machine are no accident."""
given_up: Final[set[str]] = set()
"""Ids of the requests that were refused so: they have access entries of their own."""


def busy(headers: Mapping[str, str]) -> bool:
    """Whether an answer with such ``headers`` (names in lower case) is to be asked for again; counted."""
    code = headers.get("x-tidegate-refusal")
    if code not in BUSY:
        return False
    met[code] += 1
    given_up.add(headers.get("x-request-id", ""))
    return True


def patiently(ask: Callable[[], T], headers_of: Callable[[T], Mapping[str, str]]) -> T:
    """The first answer that is not of a busy machine, or the last of TRIES."""
    for _ in range(TRIES - 1):
        answer = ask()
        if not busy(headers_of(answer)):
            return answer
        time.sleep(PAUSE_S)
    return ask()


def _tries(request: Any) -> int:
    """What is sent piece by piece cannot be sent a second time."""
    return TRIES if isinstance(request.stream, (httpx.ByteStream, httpx2.ByteStream)) else 1


def _asked(send: Callable[[Any], Any], request: Any) -> Any:
    for _ in range(_tries(request) - 1):
        answer = send(request)
        if not busy(answer.headers):
            return answer
        answer.close()
        time.sleep(PAUSE_S)
    return send(request)


async def _awaited(send: Callable[[Any], Awaitable[Any]], request: Any) -> Any:
    for _ in range(_tries(request) - 1):
        answer = await send(request)
        if not busy(answer.headers):
            return answer
        await answer.aclose()
        await asyncio.sleep(PAUSE_S)
    return await send(request)


class Patient(httpx.HTTPTransport):
    """Asks again."""

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """See httpx.HTTPTransport."""
        answer: httpx.Response = _asked(super().handle_request, request)
        return answer


class AsyncPatient(httpx.AsyncHTTPTransport):
    """Asks again."""

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """See httpx.AsyncHTTPTransport."""
        answer: httpx.Response = await _awaited(super().handle_async_request, request)
        return answer


class SdkPatient(httpx2.HTTPTransport):
    """Asks again, for the OpenAI SDK."""

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        """See httpx2.HTTPTransport."""
        answer: httpx2.Response = _asked(super().handle_request, request)
        return answer


class AsyncSdkPatient(httpx2.AsyncHTTPTransport):
    """Asks again, for the OpenAI SDK with asyncio."""

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """See httpx2.AsyncHTTPTransport."""
        answer: httpx2.Response = await _awaited(super().handle_async_request, request)
        return answer


def patient(**options: Any) -> httpx.Client:
    """A client of a gateway, with ``options`` of httpx.Client. It reads no certificates: that would take
    30 ms of a core each time, which polling takes from the processes that it waits for."""
    return httpx.Client(transport=Patient(verify=False), **{"timeout": 30, **options})


def async_patient(**options: Any) -> httpx.AsyncClient:
    """The same, for asyncio. ``limits`` of connections are the transport's."""
    limits = options.pop("limits", httpx.Limits(max_connections=1000))
    transport = AsyncPatient(verify=False, limits=limits)
    return httpx.AsyncClient(transport=transport, **{"timeout": 30, **options})


class SdkClient(openai.DefaultHttpxClient):
    """The SDK's own HTTP client, but that it asks again. Closed with the last who has it, as the SDK's is."""

    def __init__(self) -> None:
        """Reads no certificates."""
        super().__init__(transport=SdkPatient(verify=False))

    def __del__(self) -> None:
        if not self.is_closed:
            self.close()
