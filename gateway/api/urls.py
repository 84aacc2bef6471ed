"""The URLs of the gateway, and what to say of one that is none of them."""

from __future__ import annotations

from typing import Final

from gateway.contract.errors import NotFound
from gateway.openai.terms import Endpoint

BASE: Final = "/v1"
MODELS: Final = f"{BASE}/models"
USAGE: Final = f"{BASE}/usage"
POST_ONLY: Final = tuple(endpoint.path for endpoint in Endpoint)
"""Served by the engines' pods; gateway/api answers their other methods only."""
KNOWN: Final = (*POST_ONLY, MODELS, USAGE)


def is_known(path: str) -> bool:
    """Whether some method is served at ``path``."""
    return path in KNOWN or (path.startswith(f"{MODELS}/") and len(path) > len(MODELS) + 1)


def unknown_url(path: str) -> NotFound:
    """404 unknown_url that says what would be right. Nothing of ``path`` is in the message: it may be
    anybody's text."""
    return NotFound(f"Unknown request URL. {_mend(path)}")


def _mend(path: str) -> str:
    whole = path.rstrip("/")
    if is_known(BASE + whole):
        return "The path must begin with /v1: end the client's base URL in /v1."
    if whole.startswith(BASE * 2):
        return "The path begins with /v1 twice: end the client's base URL in one /v1."
    if whole != path and is_known(whole):
        return "Leave out the slash at its end."
    if is_known(whole.lower()):
        return "Paths are written in lower case."
    return f"Check it for typos; served are {', '.join(KNOWN[:-1])} and {KNOWN[-1]}."
