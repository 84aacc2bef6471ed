"""One request of a tenant on the filter's own path: admit's machine, its look-ups, and the storing of what an
engine would have said."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any, Final

import orjson

from ext_proc.cache.partition import asked_of
from ext_proc.cache.place import Place
from ext_proc.cache.policy import Profile
from ext_proc.cache.store import CachedAnswer, HitKind, Keys, Lineage
from ext_proc.lookups import Lookups
from ext_proc.phases.admit import Admit
from ext_proc.recall.words import Ask
from ext_proc.rules import AdmitRules, Secrets
from ext_proc.vocabulary import (
    AskCache,
    AskRecall,
    AwaitLanding,
    Bar,
    CacheAnswered,
    Continue,
    Effect,
    Event,
    Expect,
    HoldAnswered,
    JoinFlight,
    Land,
    RecallAnswered,
    ReplyNow,
    RequestBodyArrived,
    RequestHeadersArrived,
    Reserve,
    Store,
    Verify,
)
from gateway.budget.admission import AdmissionRecord
from gateway.budget.ledger import Granted
from gateway.budget.policy import BudgetPolicy, OrgPolicy, TierPolicy
from gateway.contract import headers as names
from gateway.contract.clock import SystemClock
from gateway.contract.ids import ModelName
from gateway.contract.principal import NotAPrincipal, Principal
from gateway.contract.units import Tokens, UnixMillis
from gateway.models.catalogue import Model, catalogue_of
from gateway.openai.requests import parse_request
from gateway.openai.stored_answer import read_stored, write_stored
from gateway.openai.terms import Capabilities, Endpoint
from tests.fuzz.tenants import MODELS, TIER, Tenant, World

SECRETS: Final = Secrets(pseudonym=b"p" * 32, cache_salt=b"s" * 32)
CATALOGUE: Final = catalogue_of(
    tuple(
        Model(
            name=ModelName(name),
            served_name="served",
            revision="r1",
            context_tokens=4000,
            max_completion_tokens=100,
            template_tokens_base=1,
            template_tokens_per_message=1,
            endpoints=frozenset({Endpoint.CHAT}),
            capabilities=Capabilities(),
        )
        for name in MODELS
    )
)
QUESTIONS: Final = (
    (
        "How do I delete my account?",
        "how do i delete my account",
        "Hi, how can I delete my account? Thanks!",
        "How do I remove my account?",
        "how do I delet my acount?",
        "How do I close my account?",
    ),
    (
        "Where is my parcel?",
        "where is my parcel",
        "Where's my package?",
        "Please tell me, where is my parcel?",
    ),
    ("Where can I download my invoice?", "where can i download my invoice", "Where do I find my invoice?"),
    ("Wo ist mein Paket?", "wo ist mein paket"),
)
"""Each line is one question; those of different lines need different answers. Everybody asks these."""
SYSTEMS: Final = ("", "", "", "Be brief.", "Be  brief.")
_HISTORY: Final = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]
CONTROL: Final = ("", "", "", "", "", "exact-only", "strict-only", "max-age=0", "no-cache", "only-if-cached")
_STORED_OF_TEN: Final = 9
"""Of ten misses, those whose answer is stored; the rest fail."""


@dataclass(kw_only=True)
class Outcome:
    """What became of a request. ``kind``: of a hit, else empty. ``wanted``: stands in every right answer.
    ``outside``: texts that leave the path, by place. ``entry``: as the client was told it.
    ``let_through``: although no caller can have its name."""

    tenant: Tenant
    model: str
    wanted: str
    kind: str = ""
    answer: str = ""
    entry: str = ""
    let_through: bool = False
    toward_engine: str = ""
    outside: dict[str, str] = field(default_factory=dict)


class Asking:
    """Requests to one worker."""

    def __init__(self, world: World, lookups: Lookups) -> None:
        """``lookups`` are the worker's."""
        self._lookups, self._clock, self._policy = lookups, SystemClock(), world.policy
        orgs = {tenant.who.org: OrgPolicy() for tenant in world.tenants}
        self._rules = AdmitRules(
            catalogue=CATALOGUE,
            budgets=BudgetPolicy(
                version=1, tiers={TIER: TierPolicy(priority=0, priority_class="normal")}, orgs=orgs
            ),
            caching=world.policy,
            secrets=SECRETS,
        )

    async def one(self, rng: random.Random, tenant: Tenant, request_id: str, wrong: str) -> Outcome:
        """``wrong``: an entry that the client complains of, anybody's; or empty."""
        line = rng.randrange(len(QUESTIONS))
        text, system, model = rng.choice(QUESTIONS[line]), rng.choice(SYSTEMS), rng.choice(MODELS)
        history = _HISTORY if rng.random() < 0.1 else []
        if rng.random() < 0.1:
            text = f"{text} My name is {tenant.canary}."
        messages = [*history, {"role": "user", "content": text}]
        if system or rng.random() < 0.1:
            said = system or f"You work for {tenant.canary}."
            messages = [{"role": "system", "content": said}, *messages]
            system = system or "own"
        outcome = Outcome(tenant=tenant, model=model, wanted=f"<{line}|{system}|{len(history)}|{model}>")
        fields = {"model": model, "messages": messages, "temperature": 0, "stream": rng.random() < 0.3}
        body = orjson.dumps(fields)
        try:
            Principal.from_fields(tenant.who.to_fields())
        except NotAPrincipal:
            effects = Admit(self._rules).receive(self._headers(tenant, request_id, "", ""))
            outcome.let_through = not any(
                isinstance(effect, ReplyNow) and effect.status == 503 for effect in effects
            )
            await self._below(outcome, request_id, body, rng, wrong)
            return outcome
        feedback = f'wrong; entry="{wrong}"' if wrong else ""
        reply = await self._through(outcome, request_id, body, rng.choice(CONTROL), feedback)
        if isinstance(reply, Continue):
            await self._answered(outcome, reply, stored=rng.randrange(10) < _STORED_OF_TEN)
        return outcome

    # --- through admit ---

    async def _through(
        self, outcome: Outcome, request_id: str, body: bytes, control: str, feedback: str
    ) -> Continue | ReplyNow:
        machine = Admit(self._rules)
        todo = list(machine.receive(self._headers(outcome.tenant, request_id, control, feedback)))
        todo += machine.receive(RequestBodyArrived(body=body, at_ms=self._now(), at_s=0.0))
        decided: list[Continue | ReplyNow] = []
        while todo:
            todo += await self._carried_out(machine, todo.pop(0), outcome, decided)
        reply = decided[-1]
        outcome.outside["the metadata"] = repr(reply.metadata)
        if isinstance(reply, Continue):
            outcome.toward_engine = (reply.body or b"").decode()
            outcome.outside["headers to the engine"] = repr(reply.set_headers)
            return reply
        outcome.outside["the headers"] = repr(reply.headers)
        if names.CACHE_KIND in reply.headers:
            outcome.kind, outcome.answer = reply.headers[names.CACHE_KIND], reply.body.decode()
            outcome.entry = reply.headers[names.CACHE_ENTRY]
        else:
            outcome.outside["the refusal"] = reply.body.decode()
        return reply

    async def _carried_out(
        self, machine: Admit, effect: Effect, outcome: Outcome, decided: list[Continue | ReplyNow]
    ) -> tuple[Effect, ...]:
        event: Event | None = None
        match effect:
            case AskCache():
                event = self._lookups.at_once(effect) or await self._lookups.ask(effect)
            case AskRecall() | JoinFlight():
                event = await self._lookups.ask(effect)
            case AwaitLanding():
                event = await self._lookups.landing(effect)
            case Reserve(request=request):
                grant = Granted(
                    hold=request.hold,
                    amounts=request.amounts(request.units_wanted),
                    units=request.units_wanted,
                    tightest={},
                    expires_at=UnixMillis(self._now() + request.ttl),
                )
                event = HoldAnswered(answer=grant, at_ms=self._now())
            case Continue() | ReplyNow():
                decided.append(effect)
            case Land():
                await self._lookups.land(effect)
            case Bar():
                await self._lookups.bar(effect)
            case Expect():
                await self._lookups.expect(effect)
            case Verify():
                await self._lookups.verify(effect)
            case deed:
                place = f"a {type(deed).__name__}"
                outcome.outside[place] = outcome.outside.get(place, "") + repr(deed)
        return () if event is None else machine.receive(event)

    async def _answered(self, outcome: Outcome, reply: Continue, *, stored: bool) -> None:
        record = AdmissionRecord.from_fields(dict(reply.metadata[names.NS_ADMIT]))
        place, org = Place.from_text(record.cache_key), outcome.tenant.who.org
        if place is not None and stored:
            await self._lookups.keep(self._store(outcome, record.request_id, place))
        elif place is not None and place.flight:
            await self._lookups.land(Land(org=org, key=place.keys.exact))

    def _store(self, outcome: Outcome, request_id: str, place: Place) -> Store:
        lineage = Lineage(request_id=request_id, model=outcome.model, admitted_at=self._now())
        answer = write_stored(_completion(f"{outcome.tenant.canary} {outcome.wanted}"))
        return Store(org=outcome.tenant.who.org, place=place, lineage=lineage, answer=answer)

    def _headers(self, tenant: Tenant, request_id: str, control: str, feedback: str) -> RequestHeadersArrived:
        sent = {
            ":method": "POST",
            ":path": Endpoint.CHAT.path,
            "content-type": "application/json",
            "cache-control": control,
            names.CACHE_FEEDBACK_KEPT: feedback,
            names.REQUEST_ID: request_id,
        }
        return RequestHeadersArrived(
            headers={name: value for name, value in sent.items() if value},
            header_count=len(sent),
            header_bytes=0,
            principal={names.PRINCIPAL_KEY: tenant.who.to_fields()},
            end_of_stream=False,
            at_ms=self._now(),
            at_s=0.0,
        )

    # --- below it, for names that it refuses ---

    async def _below(
        self, outcome: Outcome, request_id: str, body: bytes, rng: random.Random, wrong: str
    ) -> None:
        """Keys, look-up, recall and storing, as admit asks for them."""
        who, request = outcome.tenant.who, parse_request(Endpoint.CHAT, body, CATALOGUE.require)
        rule = self._policy.rule_for(who, outcome.model, Endpoint.CHAT)
        similar = rule.profile is not Profile.OFF
        asked = asked_of(
            SECRETS.partition_key(),
            who,
            CATALOGUE.require(outcome.model),
            request,
            rule,
            Tokens(50),
            similar=similar,
        )
        if wrong:
            await self._lookups.bar(Bar(org=who.org, asked=asked.keys.exact, entry=wrong))
        found = await self._lookups.ask(AskCache(org=who.org, keys=asked.keys))
        assert isinstance(found, CacheAnswered) and found.lookup is not None
        epoch, answer, kind = found.lookup.epoch, found.lookup.answer, found.lookup.kind
        if answer is None and similar:
            recalled = await self._lookups.ask(
                AskRecall(ask=_ask(outcome, asked.partition, asked.keys, asked.text, rule.profile))
            )
            assert isinstance(recalled, RecallAnswered)
            if recalled.lookup is not None:
                answer, kind = recalled.lookup.answer, recalled.lookup.kind
        if answer is not None and kind is not None:
            _served(outcome, answer, kind)
        elif rng.randrange(10) < _STORED_OF_TEN:
            place = Place(keys=asked.keys, epoch=epoch, ttl_seconds=600, partition=asked.partition)
            await self._lookups.keep(self._store(outcome, request_id, place))

    def _now(self) -> UnixMillis:
        return self._clock.unix_ms()


def _served(outcome: Outcome, answer: CachedAnswer, kind: HitKind) -> None:
    outcome.kind, outcome.entry = kind.value, answer.entry
    outcome.answer = read_stored(answer.body)[0].decode()


def _ask(outcome: Outcome, partition: str, keys: Keys, text: str, profile: Profile) -> Ask:
    return Ask(
        org=outcome.tenant.who.org,
        model=ModelName(outcome.model),
        partition=partition,
        asked=keys.exact,
        text=text,
        profile=profile,
        keep_s=60,
    )


def _completion(content: str) -> bytes:
    fields: dict[str, Any] = {
        "id": "chatcmpl-fuzz",
        "object": "chat.completion",
        "created": 0,
        "model": "served",
        "choices": [
            {"index": 0, "message": {"role": "assistant", "content": content}, "finish_reason": "stop"}
        ],
        "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
    }
    return orjson.dumps(fields)
