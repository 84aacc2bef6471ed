"""How often the cache answers a question with another one's answer, and how often wrongly.

It runs the filter's own machine, store, recall and embedder on each pair: the first question is asked and
its answer stored, then the second is asked. Each pair has an org of its own, so that pairs do not meet.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import orjson

from ext_proc.cache.memory_store import MemoryStore
from ext_proc.cache.place import Place
from ext_proc.cache.policy import CacheMode, CachePolicy, CacheRule, Match, Profile
from ext_proc.cache.store import Lineage
from ext_proc.lookups import Lookups
from ext_proc.measures import Measures
from ext_proc.phases.admit import Admit
from ext_proc.recall.words import Recall
from ext_proc.rules import AdmitRules, Secrets
from ext_proc.vocabulary import (
    AskCache,
    AskRecall,
    Continue,
    Event,
    Expect,
    HoldAnswered,
    JoinFlight,
    ReplyNow,
    RequestBodyArrived,
    RequestHeadersArrived,
    Reserve,
    Store,
)
from gateway.budget.admission import AdmissionRecord
from gateway.budget.ledger import Granted
from gateway.budget.policy import BudgetPolicy, OrgPolicy, TierPolicy
from gateway.contract import headers as names
from gateway.contract.clock import Clock
from gateway.contract.ids import ModelName, OrgId, Tier
from gateway.contract.units import Tokens, UnixMillis
from gateway.models.catalogue import Model, catalogue_of
from gateway.openai.stored_answer import write_stored
from gateway.openai.terms import Capabilities, Endpoint
from gateway.telemetry.log import logger
from mesh.caching.pairs import Pair

MODEL: Final = "eval"
_TIER: Final = Tier("eval")
_USER: Final = "eval"
_KEY: Final = bytes(32)
"""No secret: nothing of an evaluation outlives it."""


NO_ANSWER: Final = frozenset({"unavailable", "recall_unavailable", "recall_off"})
"""Reasons of which none says anything about a pair: something did not answer."""


class NotEvaluated(Exception):
    """A pair of which nothing can be said: the text says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What became of a pair. ``reason``: a hit's kind, else the code of the miss. ``ms``: from the second
    request's body to the decision."""

    hit: bool
    reason: str
    ms: float


def rules_for(profile: Profile, orgs: int) -> AdmitRules:
    """One model, ``orgs`` orgs without limits, and the rule that is evaluated. Freshness and actions are let
    through: a pair is about two questions, not about their age."""
    rule = CacheRule(
        name="eval", mode=CacheMode.ALL, profile=profile, freshness=True, actions=True, verify_share=0.0
    )
    model = Model(
        name=ModelName(MODEL),
        served_name=MODEL,
        revision="eval",
        context_tokens=100_000,
        max_completion_tokens=1_000,
        template_tokens_base=0,
        template_tokens_per_message=0,
        endpoints=frozenset({Endpoint.CHAT}),
        capabilities=Capabilities(tools=True),
    )
    return AdmitRules(
        catalogue=catalogue_of((model,)),
        budgets=BudgetPolicy(
            version=1,
            tiers={_TIER: TierPolicy(priority=0, priority_class="normal")},
            orgs={_org(index): OrgPolicy() for index in range(orgs)},
        ),
        caching=CachePolicy(version=1, rules=((Match(), rule),)),
        secrets=Secrets(pseudonym=_KEY, cache_salt=_KEY),
    )


class Evaluation:
    """One run over pairs."""

    def __init__(self, recall: Recall, clock: Clock, profile: Profile, pairs: Sequence[Pair]) -> None:
        """``recall`` is ready to be asked."""
        self._clock = clock
        self._pairs = pairs
        self._rules = rules_for(profile, len(pairs))
        store = MemoryStore(clock)
        self._lookups = Lookups(store, store, recall, clock, Measures(clock), logger("eval"))

    async def row(self, index: int) -> Row:
        """The pair at ``index``. Raises NotEvaluated: messages that no request can have, or no answer from
        recall in time, which on the path would be a miss."""
        pair = self._pairs[index]
        self._decided(await self._ask(index, "first", pair.first, answer=True))
        began_s = self._clock.monotonic_s()
        reply = await self._ask(index, "then", pair.then, answer=False)
        ms = (self._clock.monotonic_s() - began_s) * 1000
        kind, reason = self._decided(reply)
        return Row(hit=bool(kind), reason=kind or reason, ms=ms)

    @staticmethod
    def _decided(reply: Continue | ReplyNow) -> tuple[str, str]:
        """The kind of a hit, or empty and the reason of a miss. Raises NotEvaluated."""
        if isinstance(reply, ReplyNow):
            if reply.status != 200:
                raise NotEvaluated(orjson.loads(reply.body)["error"]["message"])
            return reply.headers[names.CACHE_KIND], ""
        reason = _record(reply).cache_reason
        if reason in NO_ANSWER:
            raise NotEvaluated(f"the look-up ended with {reason}")
        return "", reason

    async def _ask(
        self, index: int, turn: str, messages: Sequence[dict[str, Any]], *, answer: bool
    ) -> Continue | ReplyNow:
        machine = Admit(self._rules)
        machine.receive(self._headers(index, turn))
        body = orjson.dumps({"model": MODEL, "messages": messages, "temperature": 0})
        reply = await self._decision(machine, RequestBodyArrived(body=body, at_ms=self._now(), at_s=0.0))
        if answer and isinstance(reply, Continue):
            await self._store(index, _record(reply))
        return reply

    async def _decision(self, machine: Admit, event: Event) -> Continue | ReplyNow:
        todo = list(machine.receive(event))
        for effect in todo:
            match effect:
                case AskCache() | AskRecall() | JoinFlight():
                    todo += machine.receive(await self._lookups.ask(effect))
                case Reserve(request=request):
                    grant = Granted(
                        hold=request.hold,
                        amounts=request.amounts(request.units_wanted),
                        units=request.units_wanted,
                        tightest={},
                        expires_at=UnixMillis(self._now() + request.ttl),
                    )
                    todo += machine.receive(HoldAnswered(answer=grant, at_ms=self._now()))
                case Expect():
                    await self._lookups.expect(effect)
                case Continue() | ReplyNow():
                    return effect
                case _:
                    continue  # notes and metrics of a request that nobody made
        raise AssertionError("a machine that was asked decides")

    async def _store(self, index: int, record: AdmissionRecord) -> None:
        place = Place.from_text(record.cache_key)
        if place is None:
            return
        lineage = Lineage(request_id=record.request_id, model=MODEL, admitted_at=record.admitted_at_ms)
        await self._lookups.keep(
            Store(org=_org(index), place=place, lineage=lineage, answer=write_stored(_ANSWER))
        )

    def _headers(self, index: int, turn: str) -> RequestHeadersArrived:
        principal = {
            "org": _org(index),
            "team": "eval",
            "user": _USER,
            "key": "eval",
            "tier": _TIER,
            "models": [MODEL],
            "scopes": [],
        }
        sent = {
            ":method": "POST",
            ":path": Endpoint.CHAT.path,
            "content-type": "application/json",
            names.REQUEST_ID: f"eval-{index}-{turn}",
        }
        return RequestHeadersArrived(
            headers=sent,
            header_count=len(sent),
            header_bytes=0,
            principal={names.PRINCIPAL_KEY: principal},
            end_of_stream=False,
            at_ms=self._now(),
            at_s=0.0,
        )

    def _now(self) -> UnixMillis:
        return self._clock.unix_ms()


def _org(index: int) -> OrgId:
    return OrgId(f"pair-{index}")


def _record(reply: Continue) -> AdmissionRecord:
    return AdmissionRecord.from_fields(dict(reply.metadata[names.NS_ADMIT]))


_ANSWER: Final = orjson.dumps(
    {
        "id": "chatcmpl-eval",
        "object": "chat.completion",
        "created": 0,
        "model": MODEL,
        "choices": [
            {"index": 0, "message": {"role": "assistant", "content": "stored"}, "finish_reason": "stop"}
        ],
        "usage": {"prompt_tokens": Tokens(1), "completion_tokens": Tokens(1), "total_tokens": Tokens(2)},
    }
)
"""What an engine would have said to the first question; nobody reads it."""
