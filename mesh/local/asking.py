"""Puts one request to the running gateway as a client would, but for an answer from the cache or none."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import httpx
import orjson

from gateway.contract import headers as names
from gateway.path import BODY_BYTES_MAX
from mesh.caching.explanation import Explanation, explained
from mesh.local.refusal import Refusal

ANSWER_S: Final = 30.0
"""Longest wait for an answer that asks no engine; a cache answers in milliseconds."""
_ENDPOINTS: Final = {
    "messages": "/chat/completions",
    "prompt": "/completions",
    "input": "/embeddings",
}
"""The field that only this endpoint has."""


def read_request(data: bytes, name: str) -> dict[str, Any]:
    """The body of a request. Raises Refusal for what is none, or is too large."""
    if len(data) > BODY_BYTES_MAX:
        raise Refusal(f"{name}: larger than {BODY_BYTES_MAX // 1024**2} MiB", "no gateway would take it")
    try:
        body = orjson.loads(data)
    except ValueError as error:
        raise Refusal(f"{name}: is no JSON ({error})", "give the body of an OpenAI request") from None
    if not isinstance(body, dict) or not any(field in body for field in _ENDPOINTS):
        raise Refusal(f"{name}: has no messages", "give the body of an OpenAI request")
    return body


def explain(base_url: str, api_key: str, body: dict[str, Any]) -> Explanation:
    """What the cache says of ``body``. Raises Refusal."""
    path = next(path for field, path in _ENDPOINTS.items() if field in body)
    # A stream has the same entry, and an error in JSON is easier to read.
    asked = {name: value for name, value in body.items() if name not in ("stream", "stream_options")}
    headers = {"authorization": f"Bearer {api_key}", "cache-control": "only-if-cached"}
    try:
        answer = httpx.post(base_url + path, json=asked, headers=headers, timeout=ANSWER_S, trust_env=False)
    except httpx.HTTPError as error:
        raise Refusal(
            f"{base_url} does not answer ({type(error).__name__})", "see './tidegate status'"
        ) from error
    found = explained(answer.status_code, answer.headers)
    if found is None:
        code = answer.headers.get(names.REFUSAL, "without a word of its cache")
        raise Refusal(f"the gateway answered {answer.status_code} {code}", _message(answer))
    return found


def read_key_file(file: Path) -> str:
    """The text of an API key. Raises Refusal, OSError."""
    text = file.read_text(encoding="ascii", errors="replace").strip()
    if not text or not text.isascii() or not text.isprintable():
        raise Refusal(f"{file}: holds no API key", "write the key's text into it, and nothing else")
    return text


def _message(answer: httpx.Response) -> str:
    """Of the body's error."""
    try:
        return str(answer.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return "see './tidegate logs'"
