"""Second step of admit: from the body, everything that can be decided without asking anybody."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ext_proc.cache.policy import Directives, cache_key, cacheable, read_directives
from ext_proc.prompt_bound import completion_tokens_wanted, prompt_tokens_bound, prompt_tokens_least
from ext_proc.rules import AdmitRules
from gateway.budget.ledger import Account, HoldRequest
from gateway.budget.policy import TierPolicy
from gateway.contract.errors import ContextLengthExceeded, PermissionDenied
from gateway.contract.ids import HoldId, RequestId
from gateway.contract.principal import Principal
from gateway.contract.units import Tokens
from gateway.models.catalogue import Model
from gateway.openai.requests import WireRequest, parse_request
from gateway.openai.terms import Endpoint
from gateway.path import HOLD_TTL


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A request that may be served, if the budget allows it."""

    request_id: RequestId
    principal: Principal
    model: Model
    request: WireRequest
    prompt_bound: Tokens
    wanted: Tokens
    """max_tokens of each choice, before the affordable clamp."""
    units_min: Tokens
    accounts: tuple[Account, ...]
    tier: TierPolicy
    policy_version: int
    engine_salt: str
    directives: Directives
    cache_key: str
    """Empty when the answer may be neither read from the cache nor put there."""
    context: Mapping[str, str]
    """Fields of every event about this request."""

    @property
    def hold(self) -> HoldId:
        """The request's id: a repeated call of the filter is the same hold."""
        return HoldId(self.request_id)

    def hold_request(self) -> HoldRequest:
        """What to ask of the ledger. Raises ValueError for amounts no ledger can count."""
        return HoldRequest(
            hold=self.hold,
            org=self.principal.org,
            accounts=self.accounts,
            fixed=self.prompt_bound,
            choices=self.request.choices,
            units_wanted=self.wanted,
            units_min=self.units_min,
            ttl=HOLD_TTL,
            policy_version=self.policy_version,
            context=self.context,
        )


def make_plan(
    rules: AdmitRules,
    *,
    request_id: RequestId,
    principal: Principal,
    endpoint: Endpoint,
    body: bytes,
    cache_control: str,
) -> Plan:
    """Raises GatewayError: 400, 403, 404."""
    tier, accounts = rules.budgets.tier(principal), rules.budgets.accounts_for(principal)

    def terms_of(name: str) -> Model:
        model = rules.catalogue.require(name)
        if not principal.may_use(model.name):
            raise PermissionDenied(
                "Your key may not use this model; GET /v1/models lists yours.",
                code="model_not_allowed",
                param="model",
            )
        return model

    request = parse_request(endpoint, body, terms_of)
    model = rules.catalogue.require(request.model_asked)
    _refuse_hopeless(request, model)
    wanted = completion_tokens_wanted(request, model)
    directives = read_directives(cache_control)
    counted = endpoint is not Endpoint.TOKENIZE
    keyed = counted and directives.write and cacheable(model, request)
    return Plan(
        request_id=request_id,
        principal=principal,
        model=model,
        request=request,
        # Ids of a prompt are no tokens read by a model: a hold of 0, which an empty budget grants too.
        prompt_bound=prompt_tokens_bound(request, model) if counted else Tokens(0),
        wanted=wanted,
        units_min=rules.budgets.minimum_completion_tokens,
        accounts=accounts,
        tier=tier,
        policy_version=rules.budgets.version,
        engine_salt=rules.secrets.engine_salt(principal),
        directives=directives,
        cache_key=cache_key(principal, model, request, wanted) if keyed else "",
        context=_event_context(rules, request_id, principal, model, request),
    )


def _refuse_hopeless(request: WireRequest, model: Model) -> None:
    """Raises ContextLengthExceeded for a prompt that fits under no tokenizer, alone or beside the
    completion that was asked for; any other one the engine judges, which counts exactly."""
    least, context = prompt_tokens_least(request), model.context_tokens
    asked = request.max_tokens_asked or Tokens(0)
    # SGLang wants room for one token after the prompt, also where none is asked for.
    if least < context and least + asked <= context:
        return
    counted = "" if request.prompt_token_ids else "at least "
    raise ContextLengthExceeded(
        f"This model's maximum context length is {context} tokens, however you requested"
        f" {counted}{least + asked} tokens ({counted}{least} in your prompt; {asked} for the completion)."
        " Please reduce your prompt; or completion length.",
        param=request.content_name,
    )


def _event_context(
    rules: AdmitRules, request_id: RequestId, principal: Principal, model: Model, request: WireRequest
) -> dict[str, str]:
    return {
        "request_id": request_id,
        "team": principal.team,
        "key": principal.key,
        "user": rules.secrets.user_pseudonym(principal),
        "end_user": rules.secrets.end_user_pseudonym(principal, request.end_user),
        "tier": principal.tier,
        "model": model.name,
        "revision": model.revision,
        "endpoint": request.endpoint.value,
        "stream": "true" if request.stream else "false",
        "policy_version": str(rules.budgets.version),
    }
