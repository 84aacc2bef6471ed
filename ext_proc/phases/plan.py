"""Second step of admit: from the body, everything that can be decided without asking anybody."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ext_proc.cache.directives import read_directives
from ext_proc.phases.caching import Caching, caching_of
from ext_proc.phases.workflow import workflow_asked
from ext_proc.prompt_bound import completion_tokens_wanted, prompt_tokens_bound, prompt_tokens_least
from ext_proc.rules import AdmitRules
from gateway.budget.lease_hand import LeaseGrant
from gateway.budget.ledger import Draw, Granted, HoldRequest
from gateway.budget.measure import FREE, Price
from gateway.budget.policy import TierPolicy
from gateway.budget.window import Account
from gateway.contract.errors import ContextLengthExceeded, InvalidRequest, PermissionDenied
from gateway.contract.ids import HoldId, RequestId
from gateway.contract.principal import Principal
from gateway.contract.units import Seconds, Tokens
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
    asked: Tokens
    """max_tokens of each choice: the client's, else the model's default."""
    wanted: Tokens
    """The same within the policy's limit for one request, before the affordable clamp."""
    units_min: Tokens
    accounts: tuple[Account, ...]
    tier: TierPolicy
    wait_max: Seconds
    """How long it may wait for its turn; 0: it is refused at once."""
    policy_version: int
    engine_salt: str
    caching: Caching
    context: Mapping[str, str]
    """Fields of every event about this request."""

    @property
    def hold(self) -> HoldId:
        """The request's id: a repeated call of the filter is the same hold."""
        return HoldId(self.request_id)

    def hold_request(self) -> HoldRequest:
        """What to ask of the ledger. Raises InvalidRequest for amounts no ledger can count."""
        try:
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
                price=self.model.prices.ledger_price() if self.costs else FREE,
                context=self.context,
            )
        except ValueError as error:
            raise InvalidRequest(
                "The request could use more tokens, or cost more, than can be counted. Lower n or max_tokens."
            ) from error

    def hit_request(self) -> HoldRequest:
        """What a hit costs, where the policy gives hits a price: no tokens, that price, one request."""
        return HoldRequest(
            hold=self.hold,
            org=self.principal.org,
            accounts=self.accounts,
            fixed=Tokens(0),
            choices=1,
            units_wanted=Tokens(0),
            units_min=Tokens(0),
            ttl=HOLD_TTL,
            policy_version=self.policy_version,
            price=Price(request=self.caching.rule.hit_micro_usd),
            context=self.context,
        )

    @property
    def costs(self) -> bool:
        """Whether a model reads or writes tokens for it."""
        return self.request.endpoint is not Endpoint.TOKENIZE

    @property
    def price_text(self) -> str:
        """As the admission record has it."""
        if not self.costs:
            return ""
        prices = self.model.prices
        return f"{prices.prompt},{prices.cached},{prices.completion},{prices.request}"


def make_plan(
    rules: AdmitRules,
    *,
    request_id: RequestId,
    principal: Principal,
    endpoint: Endpoint,
    body: bytes,
    cache_control: str,
    cache_feedback: str = "",
    workflow: str = "",
) -> Plan:
    """The last three: values of headers. Raises GatewayError: 400, 403, 404."""
    budgets = rules.budgets
    tier, wait_max = budgets.tier(principal), budgets.wait_max(principal)

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
    counted = endpoint is not Endpoint.TOKENIZE
    # Ids of a prompt are no tokens read by a model: a hold of 0, which an empty budget grants too.
    bound = prompt_tokens_bound(request, model) if counted else Tokens(0)
    limits = budgets.request_limits(principal, model=model.name)
    _refuse_above(limits.prompt_tokens_max, bound, request)
    asked = completion_tokens_wanted(request, model)
    most = limits.completion_tokens_max
    wanted = asked if most is None else min(asked, most)
    label = _workflow_label(rules, principal, workflow_asked(workflow, request.labels))
    context = _event_context(rules, request_id, principal, model, request, label)
    directives = read_directives(cache_control, cache_feedback)
    return Plan(
        request_id=request_id,
        principal=principal,
        model=model,
        request=request,
        prompt_bound=bound,
        asked=asked,
        wanted=wanted,
        units_min=budgets.minimum_completion_tokens,
        accounts=budgets.accounts_for(principal, model=model.name, user=context["user"], workflow=label),
        tier=tier,
        wait_max=wait_max,
        policy_version=budgets.version,
        engine_salt=rules.secrets.engine_salt(principal),
        caching=caching_of(rules, principal, model, request, wanted, directives),
        context=context,
    )


def lease_windows_of(grant: Granted) -> tuple[str, ...]:
    """The windows of the lease that funds ``grant``; none for the ledger's own."""
    return grant.lease_windows if isinstance(grant, LeaseGrant) else ()


def draw_of(plan: Plan, grant: Granted) -> Draw | None:
    """What a void tells the ledger of a grant out of a worker's lease; None for the ledger's own."""
    if not grant.lease:
        return None
    return Draw(
        lease=grant.lease,
        windows=lease_windows_of(grant),
        hold=grant.hold,
        amounts=grant.amounts,
        units=grant.units,
        expires_at=grant.expires_at,
        policy_version=plan.policy_version,
        context=plan.context,
    )


def _refuse_above(most: Tokens | None, bound: Tokens, request: WireRequest) -> None:
    """Raises InvalidRequest for a prompt that may have more tokens than one request may."""
    if most is None or bound <= most:
        return
    raise InvalidRequest(
        f"The prompt may have up to {bound} tokens, and the limit for one request is {most}"
        " (prompt_tokens_max of the budget policy; text counts as a token a byte, with what the chat"
        " template adds). Shorten the prompt, or ask an administrator to raise the limit.",
        code="prompt_tokens_above_limit",
        param=request.content_name,
    )


def _workflow_label(rules: AdmitRules, principal: Principal, asked: str) -> str:
    """What stands for the workflow in accounts and events: names that the policy lists as they are."""
    if not asked or rules.budgets.names_workflow(principal, asked):
        return asked
    return rules.secrets.workflow_pseudonym(principal, asked)


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
    rules: AdmitRules,
    request_id: RequestId,
    principal: Principal,
    model: Model,
    request: WireRequest,
    workflow: str,
) -> dict[str, str]:
    named = {"workflow": workflow} if workflow else {}
    return {
        **named,
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
