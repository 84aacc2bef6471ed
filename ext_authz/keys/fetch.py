"""Fetch a JWKS by HTTP: bounded in time and size, no redirects, never a URL that a token brought."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

import httpx

FETCH_S: Final = 5.0
"""Whole exchange, connecting included."""
DOCUMENT_BYTES_MAX: Final = 256 * 1024
"""Large issuers publish some 20 KiB."""

Fetch = Callable[[str], Awaitable[bytes]]
"""URL to body. Raises FetchFailed."""


class FetchFailed(Exception):
    """No document came: down, slow, too large, redirected or not 200."""


async def fetch(url: str) -> bytes:
    """The body at ``url``. Raises FetchFailed."""
    try:
        async with (
            asyncio.timeout(FETCH_S),
            httpx.AsyncClient(follow_redirects=False, trust_env=False, timeout=FETCH_S) as client,
            client.stream("GET", url, headers={"accept": "application/json"}) as response,
        ):
            if response.status_code != 200:
                raise FetchFailed(f"HTTP {response.status_code}")
            body = bytearray()
            async for chunk in response.aiter_bytes():
                body += chunk
                if len(body) > DOCUMENT_BYTES_MAX:
                    raise FetchFailed(f"longer than {DOCUMENT_BYTES_MAX} bytes")
            return bytes(body)
    except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError) as error:
        raise FetchFailed(type(error).__name__) from error
