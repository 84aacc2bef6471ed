"""Asks the gateway itself, as the operator: what is asked off the path is metered, balanced and charged like
any request, to the operator's org and never to a tenant.

Whatever is not an answer is CouldNotAsk. Nothing here says whether an answer is right.
"""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Final

import httpx

from gateway.telemetry import names
from gateway.telemetry.log import EventLog
from gateway.telemetry.metrics import counter

DEADLINE_S: Final = 60.0
"""Of one call, whole. Nobody waits for it, and an answer worth caching seldom takes longer."""
CALLS_MAX: Final = 4
"""At once: checks must not crowd out what they check."""
ANSWER_BYTES_MAX: Final = 1024 * 1024
"""Of one answer; no larger one is cached."""
KEY_BYTES_MAX: Final = 4096
"""Of the key's file."""
SAID_EVERY_S: Final = 600.0
"""Each kind of refusal is logged so often: nobody waits for a check, so that nobody else would say it."""
_KEY: Final = re.compile(r"[!-~]{1,1024}")
_AGAIN: Final = frozenset({401, 403, 404, 408, 425, 429})
"""Refusals that may pass: a key being rotated, a grant or a model that is not there yet, a spent budget."""
_MENDS: Final = {
    "key": "write the operator's API key into the file of TIDEGATE_OPERATOR_KEY_FILE",
    "http_401": "write a valid API key into the file of TIDEGATE_OPERATOR_KEY_FILE",
    "http_403": "grant the operator's key the models whose hits are checked",
    "http_404": "name a model of the catalogue in TIDEGATE_JUDGE_MODEL, or leave it empty",
    "http_429": "raise the budget of the operator's org in budgets.yaml",
}
_TOLD: Final = _AGAIN | {400, 413, 422, 500, 502, 503, 504}
"""Statuses with a code of their own; others are ``http_other``, so that the codes are a closed set."""


class CouldNotAsk(Exception):
    """The question was not answered: no verdict. The text is a code: ``key``, ``unreachable``, ``late``,
    ``too_large``, ``http_<status>`` or ``http_other``. ``again``: it is worth asking once more, later."""

    def __init__(self, code: str, *, again: bool) -> None:
        """``code`` without anything that was sent or received."""
        super().__init__(code)
        self.code = code
        self.again = again


class OperatorClient:
    """One gateway, one key. The key's file is read for each call, so that a rotated key counts at once."""

    def __init__(
        self, gateway_url: str, key_file: Path, log: EventLog, *, deadline_s: float = DEADLINE_S
    ) -> None:
        """``gateway_url``: ``http(s)://host[:port]``, without a path. Raises ValueError for another one."""
        url = httpx.URL(gateway_url)
        if url.scheme not in ("http", "https") or not url.host or url.path not in ("", "/") or url.userinfo:
            raise ValueError("must be http(s)://host[:port]")
        self._key_file, self._log = key_file, log
        self._said_at: dict[str, float] = {}
        self._deadline_s = deadline_s
        self._turns = asyncio.Semaphore(CALLS_MAX)
        # Neither proxies nor credentials of the environment; a redirect would take the key elsewhere. No
        # connection is kept: calls are minutes apart, and must not meet a gateway that closes an idle one.
        self._http = httpx.AsyncClient(
            base_url=url,
            trust_env=False,
            follow_redirects=False,
            limits=httpx.Limits(max_connections=CALLS_MAX, max_keepalive_connections=0),
            timeout=deadline_s,
        )
        self._calls = counter(names.OPERATOR_CALLS, "Requests of the cache's own checks", ["result"])

    async def ask(self, path: str, body: bytes) -> bytes:
        """The JSON answer to ``body``, POSTed to ``path`` (of operator_paths). Raises CouldNotAsk."""
        try:
            async with self._turns:
                answer = await self._asked(path, body)
        except CouldNotAsk as error:
            self._calls.labels(result=error.code).inc()
            self._say(error.code)
            raise
        self._calls.labels(result="answered").inc()
        return answer

    def _say(self, code: str) -> None:
        now_s = asyncio.get_running_loop().time()
        if now_s - self._said_at.get(code, float("-inf")) >= SAID_EVERY_S:
            self._said_at[code] = now_s
            mend = _MENDS.get(code, "see './tidegate status'")
            self._log.warning("recall.check_refused", code=code, mend=mend)

    async def _asked(self, path: str, body: bytes) -> bytes:
        headers = {
            "authorization": f"Bearer {self._key()}",
            "content-type": "application/json",
            # Its own cache must not answer the question whether a cached answer is right.
            "cache-control": "no-store",
            # A compressed answer has no bound before it is unpacked.
            "accept-encoding": "identity",
        }
        try:
            async with (
                asyncio.timeout(self._deadline_s),
                self._http.stream("POST", path, content=body, headers=headers) as response,
            ):
                if response.status_code != 200:
                    status = response.status_code
                    code = f"http_{status}" if status in _TOLD else "http_other"
                    raise CouldNotAsk(code, again=status in _AGAIN or status >= 500)
                answer = bytearray()
                async for piece in response.aiter_raw():
                    answer += piece
                    if len(answer) > ANSWER_BYTES_MAX:
                        raise CouldNotAsk("too_large", again=False)
                return bytes(answer)
        except (TimeoutError, httpx.TimeoutException):
            raise CouldNotAsk("late", again=True) from None
        except httpx.HTTPError:
            raise CouldNotAsk("unreachable", again=True) from None

    def _key(self) -> str:
        try:
            with self._key_file.open("rb") as file:
                text = file.read(KEY_BYTES_MAX).decode("ascii").strip()
        except (OSError, ValueError):
            text = ""
        if _KEY.fullmatch(text) is None:
            raise CouldNotAsk("key", again=True)
        return text

    async def close(self) -> None:
        """End the connections."""
        await self._http.aclose()
