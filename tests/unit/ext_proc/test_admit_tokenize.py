"""Tokenize through admit: a hold of nothing, no cache, the engine's own path and body."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import orjson

from ext_proc.cache.policy import CacheMode, CachePolicy, CacheRule, Match
from ext_proc.phases.admit import Admit
from ext_proc.vocabulary import Continue, Reserve
from gateway.budget.admission import AdmissionRecord, Verdict
from gateway.contract import headers as names
from gateway.models.catalogue import catalogue_of
from gateway.openai.terms import Endpoint
from tests.unit.ext_proc.asked import RULES, body, granted, headers, model, only

COUNTED = replace(
    RULES,
    catalogue=catalogue_of((model("chat", Endpoint.CHAT, Endpoint.TOKENIZE),)),
    caching=CachePolicy(rules=((Match(), CacheRule(name="all", mode=CacheMode.ALL)),)),
)


def reserved(fields: dict[str, Any]) -> tuple[Admit, Reserve]:
    machine = Admit(COUNTED)
    machine.receive(headers(path="/v1/tokenize"))
    return machine, only(Reserve, machine.receive(body({"model": "chat", **fields})))


def test_a_hold_of_nothing_is_asked_and_the_cache_is_not() -> None:
    machine, asked = reserved({"prompt": ["one", "two"]})
    request = asked.request
    assert (request.fixed, request.units_wanted, request.choices, request.units_needed) == (0, 0, 1, 0)
    reply = only(Continue, machine.receive(granted(request, limit=0)))
    record = AdmissionRecord.from_fields(reply.metadata[names.NS_ADMIT])
    assert (record.decision, record.endpoint) == (Verdict.METERED, "tokenize")
    assert (record.amount, record.completion_max, record.clamp, record.cache_key) == (0, 0, "", "")
    assert reply.body is not None
    assert orjson.loads(reply.body) == {"model": "chat", "prompt": ["one", "two"]}
    assert reply.set_headers["x-tidegate-pool"] == "sglang"
