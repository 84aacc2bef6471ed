"""The embedder that asks an OpenAI-compatible ``POST /v1/embeddings``, such as SGLang's embedding pods.

Source of the shapes: OpenAI's API reference, "Create embeddings". Nothing that comes back is trusted: it is
bounded before it is read, and a vector only if it has as many finite numbers as it should and they point
somewhere.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, Final

import httpx
import numpy as np
import orjson

from gateway.contract.units import Millis
from inference.embedders.embedder import (
    TOKENS_MAX,
    EmbedderUnavailable,
    NotEmbedded,
    Overloaded,
    TooLong,
    Vector,
    refuse_long,
    unit_vector,
)

DEADLINE: Final = Millis(1000)
"""Of one call. A look-up has stopped waiting long before; the answer then serves who asks the same next."""
CALLS_MAX: Final = 8
"""At once: an embedding pod batches about as many."""
WAITING_MAX: Final = 64
"""Calls that wait for one of the CALLS_MAX; at 10 ms each the last is 80 ms late."""
ENTRIES_MAX: Final = 10_000
"""Remembered vectors: 15 MB at 384 dimensions."""
_ANSWER_BYTES: Final = 16 * 1024
"""For everything in an answer but the numbers."""
_NUMBER_BYTES: Final = 32
"""Of one number as JSON: a float64 has 24 characters, and a comma and a blank stand between two."""
_KEY: Final = re.compile(r"[!-~]{1,4096}")


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteModel:
    """Which model is asked; its ``revision`` is the operator's word, since no answer says it."""

    name: str
    revision: str
    dimensions: int
    languages: frozenset[str] = frozenset()
    tokens_max: int = TOKENS_MAX
    prefix: str = ""
    """Put before every text, as some models were trained with."""
    asks_dimensions: bool = False
    """Whether ``dimensions`` is sent, for models that can shorten their vectors; others refuse it."""

    @property
    def identity(self) -> str:
        """The same for every pod that serves it: no URL is in it."""
        decisive = [self.name, self.revision, self.dimensions, self.prefix, self.tokens_max]
        digest = hashlib.sha256(json.dumps(decisive).encode()).hexdigest()
        return f"openai-embeddings:{digest[:16]}"

    def request_body(self, text: str) -> bytes:
        """Raises EmbedderUnavailable: half a surrogate pair, which no JSON can carry."""
        body: dict[str, Any] = {"model": self.name, "input": self.prefix + text, "encoding_format": "float"}
        if self.asks_dimensions:
            body["dimensions"] = self.dimensions
        try:
            return orjson.dumps(body)
        except TypeError:
            raise EmbedderUnavailable("the text is not Unicode") from None

    @property
    def answer_bytes_max(self) -> int:
        """A longer answer is not read to its end."""
        return self.dimensions * _NUMBER_BYTES + _ANSWER_BYTES


def read_answer(body: bytes, model: RemoteModel) -> Vector:
    """The unit vector in an answer to one text.

    Raises EmbedderUnavailable: not one vector of ``model``'s dimensions; TooLong: the engine counted more
    than ``model.tokens_max`` tokens.
    """
    try:
        answer = orjson.loads(body)
        [item] = answer["data"]
        numbers = item["embedding"]
        tokens = (answer.get("usage") or {}).get("prompt_tokens", 0)
    except (ValueError, TypeError, KeyError, AttributeError):
        raise EmbedderUnavailable("the answer holds no embedding of one text") from None
    if not isinstance(numbers, list) or {type(one) for one in numbers} - {float, int}:
        raise EmbedderUnavailable("the embedding is no list of numbers")
    if type(tokens) is int and tokens > model.tokens_max:
        raise TooLong(f"more than {model.tokens_max} tokens")
    return unit_vector(np.array(numbers, dtype=np.float64), model.dimensions)


class OpenAIEmbedder:
    """Implements Embedder. What was asked lately is remembered; the same text asked for at once is one call.

    A call goes on when nobody waits for it any more, until DEADLINE: its vector is remembered.
    """

    def __init__(
        self,
        model: RemoteModel,
        *,
        base_url: str,
        api_key: str | None = None,
        deadline: Millis = DEADLINE,
        calls_max: int = CALLS_MAX,
        waiting_max: int = WAITING_MAX,
        entries_max: int = ENTRIES_MAX,
    ) -> None:
        """``base_url`` ends before ``/v1``; nothing of ``api_key`` is ever shown.

        Raises ValueError: ``base_url`` is not http(s) or holds a user, ``api_key`` fits in no header.
        """
        if api_key is not None and not _KEY.fullmatch(api_key):
            # What the HTTP library says of a header that it cannot send holds the header.
            raise ValueError("the API key is not 1 to 4096 printable ASCII characters")
        self._model, self._deadline_s = model, deadline / 1000
        self._calls = asyncio.Semaphore(calls_max)
        self._flights: dict[bytes, asyncio.Task[Vector]] = {}
        self._flights_max = calls_max + waiting_max
        self._known: OrderedDict[bytes, Vector | None] = OrderedDict()
        self._entries_max = entries_max
        self._closed = False
        self._client = httpx.AsyncClient(
            base_url=_checked(base_url),
            headers={"content-type": "application/json", "accept-encoding": "identity"}
            | ({"authorization": f"Bearer {api_key}"} if api_key else {}),
            follow_redirects=False,
            trust_env=False,
            timeout=self._deadline_s,
            limits=httpx.Limits(max_connections=calls_max, max_keepalive_connections=calls_max),
        )

    @property
    def identity(self) -> str:
        """See Embedder."""
        return self._model.identity

    @property
    def dimensions(self) -> int:
        """See Embedder."""
        return self._model.dimensions

    @property
    def languages(self) -> frozenset[str]:
        """See Embedder."""
        return self._model.languages

    @property
    def tokens_max(self) -> int:
        """See Embedder. The engine counts; a text that it would have to be far too long for is not sent."""
        return self._model.tokens_max

    async def embed(self, text: str) -> Vector:
        """The unit vector of ``text``, remembered or asked for. Raises NotEmbedded."""
        if self._closed:
            raise EmbedderUnavailable("the embedder is closed")
        refuse_long(text, self.tokens_max)
        body = self._model.request_body(text)
        key = hashlib.sha256(body).digest()
        if key in self._known:
            self._known.move_to_end(key)
            return self._told(self._known[key])
        flight = self._flights.get(key) or self._take_off(key, body)
        try:
            return await asyncio.shield(flight)
        except asyncio.CancelledError:
            asking = asyncio.current_task()
            if not flight.cancelled() or asking is None or asking.cancelling():
                raise
            raise EmbedderUnavailable("the embedder is closed") from None

    def _told(self, known: Vector | None) -> Vector:
        if known is None:
            raise TooLong(f"more than {self.tokens_max} tokens")
        return known

    def _take_off(self, key: bytes, body: bytes) -> asyncio.Task[Vector]:
        if len(self._flights) >= self._flights_max:
            raise Overloaded(f"{self._flights_max} texts wait already")
        flight = asyncio.get_running_loop().create_task(self._asked(body))
        self._flights[key] = flight
        flight.add_done_callback(lambda done: self._landed(key, done))
        return flight

    def _landed(self, key: bytes, flight: asyncio.Task[Vector]) -> None:
        del self._flights[key]
        if flight.cancelled():
            return
        error = flight.exception()
        if error is None:
            self._remember(key, flight.result())
        elif isinstance(error, TooLong):
            self._remember(key, None)

    def _remember(self, key: bytes, known: Vector | None) -> None:
        self._known[key] = known
        if len(self._known) > self._entries_max:
            self._known.popitem(last=False)

    async def _asked(self, body: bytes) -> Vector:
        try:
            async with asyncio.timeout(self._deadline_s), self._calls:
                return read_answer(await self._answer(body), self._model)
        except NotEmbedded:
            raise
        except TimeoutError:
            raise EmbedderUnavailable("no answer in time") from None
        except (httpx.HTTPError, httpx.StreamError, OSError, ValueError) as error:
            raise EmbedderUnavailable(type(error).__name__) from error

    async def _answer(self, body: bytes) -> bytes:
        async with self._client.stream("POST", "/v1/embeddings", content=body) as response:
            if response.status_code != httpx.codes.OK:
                raise EmbedderUnavailable(f"HTTP {response.status_code}")
            answer = bytearray()
            async for chunk in response.aiter_raw():
                answer += chunk
                if len(answer) > self._model.answer_bytes_max:
                    raise EmbedderUnavailable(f"longer than {self._model.answer_bytes_max} bytes")
            return bytes(answer)

    async def close(self) -> None:
        """See Embedder."""
        self._closed = True
        flights = list(self._flights.values())
        for flight in flights:
            flight.cancel()
        await asyncio.gather(*flights, return_exceptions=True)
        await self._client.aclose()


def _checked(base_url: str) -> httpx.URL:
    try:
        url = httpx.URL(base_url)
    except httpx.InvalidURL:
        raise ValueError("base_url is no URL") from None
    if url.scheme not in ("http", "https") or not url.host or url.userinfo:
        raise ValueError("base_url is http(s)://HOST[:PORT], without a user or password")
    return url
