"""Under which keys an answer is kept: who shares it, and everything that decides it. Pure.

A look-up never leaves its partition, whose name is a keyed hash of all but the last user text: org and
sharing scope, endpoint, model, revision, adapter, template, the limit of tokens and every parameter,
tool and message of the request. So no distance between vectors and no likeness of texts can lead from one
tenant, system prompt or history to another. ``stream`` is not in it: one entry serves both forms.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import orjson

from ext_proc.cache.last_question import last_question
from ext_proc.cache.policy import CacheRule, Share
from ext_proc.cache.question import read_question
from ext_proc.cache.store import Keys
from gateway.contract.principal import Principal
from gateway.contract.units import Tokens
from gateway.keys.keyed_hash import length_prefixed
from gateway.models.catalogue import Model
from gateway.openai.requests import WireRequest

_VERSION: Final = b"tgc3"
"""Of the keys' composition and of what is stored under them: a change of meaning needs a new one."""
_CUT: Final = b"cut"
_WHOLE: Final = b"whole"


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """Where a request is looked up. For a request that only its own answer may serve, ``partition``,
    ``keys.canonical`` and ``text`` are empty."""

    keys: Keys
    partition: str
    """64 hex digits: the questions this one may be compared with."""
    text: str
    """The last user text, the only one that may differ within the partition."""


def asked_of(
    key: bytes,
    principal: Principal,
    model: Model,
    request: WireRequest,
    rule: CacheRule,
    wanted: Tokens,
    *,
    similar: bool,
) -> Asked:
    """``key``: 32 secret bytes, so that nobody who reads the store can test guesses. ``wanted``: max_tokens
    before any clamp, also where the client named none. ``similar``: as ``eligible`` says; then
    ``last_question`` is not None. ``keys.exact`` does not depend on it."""
    question = last_question(request)
    share, member = share_of(rule, principal)
    covered = length_prefixed(
        _VERSION,
        *(part.encode() for part in (principal.org, share, member)),
        *(part.encode() for part in _model_parts(model)),
        request.endpoint.encode(),
        str(wanted).encode(),
        _WHOLE if question is None else _CUT,
        *_field_parts(request, cut=question is not None),
    )
    base = hmac.digest(key, covered, "sha256")
    exact = _hex(base, "exact", "" if question is None else question)
    if not similar or question is None:
        return Asked(keys=Keys(exact=exact), partition="", text="")
    read = read_question(question)
    partition = _hex(base, "partition", read.language)
    keys = Keys(exact=exact, canonical=_hex(base, "canonical", partition, read.canonical))
    return Asked(keys=keys, partition=partition, text=question)


def share_of(rule: CacheRule, principal: Principal) -> tuple[Share, str]:
    """Kind and id of who shares with ``principal``, inside its org. Outside a rule's group the
    user stands alone, whatever chose the rule."""
    match rule.share:
        case Share.KEY:
            return Share.KEY, principal.key
        case Share.TEAM:
            return Share.TEAM, principal.team
        case Share.ORG:
            return Share.ORG, ""
        case Share.GROUP if rule.group is not None and rule.group.holds(principal):
            return Share.GROUP, rule.group.name
        case Share.USER | Share.GROUP:
            return Share.USER, principal.user


def _model_parts(model: Model) -> tuple[str, ...]:
    return (model.name, model.revision, model.served_name, model.lora, model.template)


def _field_parts(request: WireRequest, *, cut: bool) -> Iterator[bytes]:
    """Name and JSON of each parameter, by name. Of tools and schemas the order of members stays: templates
    print it and grammars follow it."""
    fields = request.cache_fields()
    for name in sorted(fields):
        value = fields[name]
        if cut and name == "messages":
            value = [*value[:-1], _without_content(value[-1])]
        yield name.encode()
        yield orjson.dumps(value, option=orjson.OPT_SORT_KEYS if name == "messages" else None)


def _without_content(message: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in message.items() if name != "content"}


def _hex(base: bytes, *parts: str) -> str:
    return hmac.digest(base, length_prefixed(*(part.encode() for part in parts)), "sha256").hex()
