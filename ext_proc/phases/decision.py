"""Last step of admit: the reply that decides, in each of its four forms. All of them carry the
admission record, and only they do: the second gate lets through nothing that was not decided here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

import orjson

from ext_proc.cache.place import Place
from ext_proc.phases.limits import limit_texts, over_text, tightest_tokens
from ext_proc.phases.plan import Plan, lease_windows_of
from ext_proc.phases.search import Found, Missed
from ext_proc.vocabulary import Continue, Note, Phase, ReplyNow, Texts
from gateway.budget.admission import AdmissionRecord, CacheStatus, Verdict
from gateway.budget.ledger import Granted
from gateway.budget.measure import Measure
from gateway.contract import headers as names
from gateway.contract.errors import GatewayError, MethodNotAllowed
from gateway.contract.ids import RequestId
from gateway.contract.principal import Principal
from gateway.contract.units import Tokens, UnixMillis
from gateway.events.event import EventType
from gateway.openai.error_body import error_body, error_headers
from gateway.openai.mending import answer_id
from gateway.openai.replay import cached_answer_to_json, cached_answer_to_sse

API_POOL: Final = "api"
CREDENTIALS: Final = ("authorization", "proxy-authorization", "cookie", "api-key", "x-api-key")
"""Never shown to an engine or to the API process."""
JSON_TYPE: Final = "application/json"
STREAM_TYPE: Final = "text/event-stream; charset=utf-8"


def in_namespace(record: AdmissionRecord) -> Mapping[str, Texts]:
    """The record as dynamic metadata."""
    return {names.NS_ADMIT: record.to_fields()}


def plain_record(verdict: Verdict, request_id: RequestId, principal: Principal) -> AdmissionRecord:
    """A record of a decision without a hold."""
    return AdmissionRecord(decision=verdict, request_id=request_id, org=principal.org, key=principal.key)


def planned_record(verdict: Verdict, plan: Plan) -> AdmissionRecord:
    """A record with what the plan knows."""
    return AdmissionRecord(
        decision=verdict,
        request_id=plan.request_id,
        org=plan.principal.org,
        key=plan.principal.key,
        prompt_bound=plan.prompt_bound,
        price=plan.price_text,
        # Each prompt and each choice within the context; twice what can be, and far from a bug's 2^40.
        usage_max=Tokens(plan.model.context_tokens * (plan.request.prompts + plan.request.choices)),
        choices=plan.request.choices,
        endpoint=plan.request.endpoint.value,
        model=plan.model.name,
        revision=plan.model.revision,
        stream=plan.request.stream,
        usage_asked=plan.request.usage_asked,
        continuous_usage_asked=plan.request.continuous_usage_asked,
        policy_version=plan.policy_version,
        event_context=orjson.dumps(dict(plan.context)).decode(),
    )


def refusal_record(
    plan: Plan | None,
    request_id: RequestId | None,
    principal: Principal | None,
    missed: Missed,
    *,
    hold: bool,
) -> AdmissionRecord | None:
    """What is known of a refused request; ``hold``: whether the ledger may have held something for it."""
    if plan is not None:
        record = replace(
            planned_record(Verdict.REFUSED, plan), cache=missed.status, cache_reason=missed.reason
        )
        return replace(record, hold=plan.hold) if hold else record
    if principal is None or request_id is None:
        return None
    return plain_record(Verdict.REFUSED, request_id, principal)


def unmetered_note(request_id: RequestId, principal: Principal) -> Note:
    """The event of a request that costs nothing."""
    context = {"request_id": request_id, "team": principal.team, "key": principal.key}
    return Note(org=principal.org, kind=EventType.REQUEST_UNMETERED.value, context=context)


def unmetered(phase: Phase, request_id: RequestId, principal: Principal) -> Continue:
    """To gateway/api, which learns who calls from a header that only this filter can have set."""
    return Continue(
        phase=phase,
        set_headers={
            names.POOL: API_POOL,
            names.STREAM: "false",
            names.PRINCIPAL: orjson.dumps(principal.to_fields()).decode(),
        },
        remove_headers=CREDENTIALS,
        clear_route_cache=True,
        metadata=in_namespace(plain_record(Verdict.UNMETERED, request_id, principal)),
    )


def metered(plan: Plan, grant: Granted, *, missed: Missed, place: Place | None, now: UnixMillis) -> Continue:
    """To the model's pool, with the body written anew. ``place``: where its answer belongs, if anywhere."""
    body = plan.request.engine_body(
        model=plan.model.engine_name,
        max_tokens=grant.units,
        rid=plan.request_id,
        priority=plan.tier.priority,
        cache_salt=plan.engine_salt,
    )
    record = replace(
        _granted_record(plan, grant, now=now),
        cache=missed.status,
        cache_reason=missed.reason,
        cache_key=place.to_text() if place is not None else "",
    )
    return Continue(
        phase=Phase.REQUEST_BODY,
        set_headers={
            names.POOL: plan.model.pool,
            names.STREAM: "true" if plan.request.stream else "false",
            names.PRIORITY: plan.tier.priority_class,
            names.HOLD: grant.hold,
            "content-type": JSON_TYPE,
            # Envoy answers 500 to a changed body whose length is not said.
            "content-length": str(len(body)),
            # The tap must be able to read the answer.
            "accept-encoding": "identity",
        },
        remove_headers=(*CREDENTIALS, "content-encoding", "expect"),
        body=body,
        clear_route_cache=True,
        metadata=in_namespace(record),
    )


def _granted_record(plan: Plan, grant: Granted, *, now: UnixMillis) -> AdmissionRecord:
    tokens = limit_texts(tightest_tokens(grant.tightest), now=now)
    requests = limit_texts(grant.tightest.get(Measure.REQUESTS), now=now)
    _, micro_usd, _ = limit_texts(grant.tightest.get(Measure.MICRO_USD), now=now)
    return replace(
        planned_record(Verdict.METERED, plan),
        hold=grant.hold,
        held=grant.amounts,
        hold_expires_at=grant.expires_at,
        lease=grant.lease,
        lease_windows=lease_windows_of(grant),
        completion_max=grant.units,
        clamp=str(grant.units) if grant.units < plan.asked else "",
        limit_tokens=tokens[0],
        remaining_tokens=tokens[1],
        reset_tokens=tokens[2],
        limit_requests=requests[0],
        remaining_requests=requests[1],
        reset_requests=requests[2],
        remaining_micro_usd=micro_usd,
        over=over_text(grant.over),
        admitted_at_ms=now,
    )


def from_cache(plan: Plan, found: Found, *, now: UnixMillis, trace: str) -> ReplyNow:
    """A hit. ``trace``: what each step of the search said. Raises NotReplayable, which makes it a miss."""
    answer, identity = found.answer, answer_id(plan.request.endpoint.value, plan.request_id)
    if plan.request.stream:
        kind = STREAM_TYPE
        body = cached_answer_to_sse(
            answer.body,
            answer_id=identity,
            usage_asked=plan.request.usage_asked,
            continuous_usage_asked=plan.request.continuous_usage_asked,
        )
    else:
        kind = JSON_TYPE
        body = cached_answer_to_json(answer.body, answer_id=identity)
    similarity = {} if found.similarity is None else {names.CACHE_SIMILARITY: f"{found.similarity:.4f}"}
    return ReplyNow(
        status=200,
        headers={
            "content-type": kind,
            names.REQUEST_ID: plan.request_id,
            names.CACHE: CacheStatus.HIT.value,
            names.CACHE_KIND: found.kind.value,
            names.CACHE_ENTRY: answer.entry,
            names.CACHE_AGE: str(max(0, now - answer.stored_at) // 1000),
            **similarity,
            **({names.CACHE_TRACE: trace} if plan.caching.directives.only_if_cached else {}),
        },
        body=body,
        details="tidegate_cache_hit",
        metadata=in_namespace(replace(planned_record(Verdict.ANSWERED, plan), cache=CacheStatus.HIT)),
    )


def not_cached_headers(missed: Missed, trace: str) -> Mapping[str, str]:
    """Of a refusal for only-if-cached. The SDKs repeat what ends with 504, unless they are told not to."""
    return {names.CACHE_REASON: missed.reason, names.CACHE_TRACE: trace, names.SHOULD_RETRY: "false"}


def refused(
    error: GatewayError,
    *,
    request_id: RequestId | None,
    record: AdmissionRecord | None,
    headers: Mapping[str, str],
) -> ReplyNow:
    """The error in OpenAI's shape."""
    found = {**error_headers(error), **headers}
    if request_id is not None:
        found[names.REQUEST_ID] = request_id
    if isinstance(error, MethodNotAllowed):
        found["allow"] = "POST"
    return ReplyNow(
        status=error.http_status,
        headers=found,
        body=error_body(error),
        details=f"tidegate_{error.code}",
        metadata=in_namespace(record) if record is not None else {},
    )
