"""What the exact cache may repeat, to whom, and under which key. Pure.

The partition is hard: org, sharing scope (the user), endpoint, model, revision, adapter and the whole
validated request are in the key; ``stream`` is not, so that one entry serves both forms.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import Final

from gateway.contract.principal import Principal
from gateway.contract.units import Tokens
from gateway.keys.keyed_hash import length_prefixed
from gateway.models.catalogue import CacheMode, Model
from gateway.openai.requests import WireRequest
from gateway.openai.terms import Endpoint

_VERSION: Final = b"tgc2"
"""Of the key's composition and of what is stored under it: a change of meaning needs a new one."""
_SECONDS: Final = re.compile(r"[0-9]{1,9}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Directives:
    """What the client's Cache-Control asks (RFC 9111, 5.2.1): no-store neither reads nor writes,
    no-cache only writes, max-age bounds the age of what is read."""

    read: bool = True
    write: bool = True
    max_age_s: int | None = None


def read_directives(cache_control: str) -> Directives:
    """Unknown directives mean nothing; a max-age that is no number is stale at once (RFC 9111, 4.2.1)."""
    read, write, max_age = True, True, None
    for part in cache_control.split(","):
        name, _, value = part.strip().lower().partition("=")
        if name == "no-store":
            read = write = False
        elif name == "no-cache":
            read = False
        elif name == "max-age":
            text = value.strip('"')
            max_age = int(text) if _SECONDS.fullmatch(text) else 0
    return Directives(read=read, write=write, max_age_s=max_age)


def cacheable(model: Model, request: WireRequest) -> bool:
    """Whether an answer to ``request`` may be repeated: one choice, and under ``deterministic`` a request
    that asks for one and the same answer (temperature 0, top_k 1, a seed; embeddings always). Tokens cost
    nothing and are not kept."""
    if model.cache.mode is CacheMode.OFF or request.choices != 1 or request.endpoint is Endpoint.TOKENIZE:
        return False
    if model.cache.mode is CacheMode.ALL or request.endpoint is Endpoint.EMBEDDINGS:
        return True
    return request.sampling.greedy or request.sampling.seed is not None


def cache_key(principal: Principal, model: Model, request: WireRequest, wanted: Tokens) -> str:
    """64 hex digits. ``wanted``: max_tokens before any clamp, also where the client named none."""
    parts = (
        principal.org,
        "user",
        principal.user,
        request.endpoint.value,
        model.name,
        model.revision,
        model.engine_name,
        str(wanted),
    )
    covered = length_prefixed(_VERSION, *(part.encode() for part in parts), request.cache_text())
    return hashlib.sha256(covered).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where and for how long an answer is to be stored, as the admission record carries it to the tap."""

    key: str
    epoch: str
    ttl_seconds: int

    def to_text(self) -> str:
        """``<key>.<epoch>.<seconds>``."""
        return f"{self.key}.{self.epoch}.{self.ttl_seconds}"

    @classmethod
    def from_text(cls, text: str) -> Place | None:
        """None for an empty text (do not store) and for anything ``to_text`` does not write."""
        key, _, rest = text.partition(".")
        epoch, _, seconds = rest.partition(".")
        if not key or not epoch or not _SECONDS.fullmatch(seconds) or int(seconds) < 1:
            return None
        return cls(key=key, epoch=epoch, ttl_seconds=int(seconds))
