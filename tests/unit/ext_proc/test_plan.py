"""What a request is worth: accounts, price, multiples, limits of one request, the workflow's name."""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType
from typing import Any

import orjson
import pytest

from ext_proc.phases.admit import Admit
from ext_proc.rules import AdmitRules, Secrets
from ext_proc.vocabulary import Continue, ReplyNow, Void
from gateway.budget.admission import AdmissionRecord
from gateway.budget.measure import Amounts, Measure, Price
from gateway.budget.policy_limits import Limits, RequestLimits
from gateway.budget.window import Enforcement, Window, WindowKind
from gateway.contract.ids import AccountId, HoldId, TeamId
from gateway.contract.principal import Principal
from gateway.contract.units import MicroUsd, Tokens
from gateway.keys.pseudonym import user_pseudonym
from gateway.models.catalogue import Prices, catalogue_of
from gateway.openai.terms import Capabilities, Endpoint
from tests.unit.ext_proc.asked import (
    CATALOGUE,
    GONE,
    PRINCIPAL,
    RULES,
    SAY,
    admitted,
    body,
    budgets,
    granted,
    headers,
    model,
    only,
    shown_error,
    standing,
)

WINDOWS = ("org|minute|60000", "key/k1|month|0")
DAY = Limits(windows=(Window(kind=WindowKind.DAY, limit=1000, measure=Measure.MICRO_USD),))
PRICES = Prices(prompt=MicroUsd(20), cached=MicroUsd(10), completion=MicroUsd(80), request=MicroUsd(7))


def rules(**org: Any) -> AdmitRules:
    return replace(RULES, budgets=budgets(**org))


def of_one_request(**limits: int) -> AdmitRules:
    found = RequestLimits(**{name: Tokens(value) for name, value in limits.items()})
    return rules(limits=Limits(request=found))


def priced() -> AdmitRules:
    models = [replace(one, prices=PRICES) for one in CATALOGUE.models]
    tokenizer = model("ids", Endpoint.TOKENIZE, prices=PRICES)
    return replace(RULES, catalogue=catalogue_of((*models, tokenizer)))


def accounts(*, arrived: Any = None, **fields: Any) -> list[str]:
    listed = rules(
        teams=MappingProxyType({TeamId("t1"): DAY}),
        users=MappingProxyType({"alice": DAY}),
        models=MappingProxyType({"chat": DAY}),
        workflows=MappingProxyType({"nightly": DAY, "*": DAY}),
    )
    _, request = admitted(rules=listed, arrived=arrived, **fields)
    return [account.id for account in request.accounts]


def test_every_level_pays_and_a_user_only_by_a_pseudonym() -> None:
    org, team, user, key, chat = accounts()
    assert (org, team, key, chat) == ("org", "team/t1", "key/k1", "model/chat")
    _, request = admitted()
    assert user == f"user/{request.context['user']}"


def test_pseudonyms_stay_those_of_the_accounts_in_ledger_and_books() -> None:
    secrets, caller = Secrets(pseudonym=b"k" * 32, cache_salt=b"s" * 32), Principal.from_fields(PRINCIPAL)
    alice = "a1130135409d8cbd2017934d65c8488a"
    assert secrets.user_pseudonym(caller) == user_pseudonym(b"k" * 32, caller.org, caller.user) == alice
    assert secrets.end_user_pseudonym(caller, "bob") == "4831a7a477819aec8b0b5730dc3bf950"
    assert secrets.workflow_pseudonym(caller, "w") == "a43bffa677bb78290c6450a83a36fa97"


@pytest.mark.parametrize(
    ("header", "metadata", "listed"),
    [
        ("nightly", None, True),
        ("", {"workflow": "nightly"}, True),
        ("", {"session_id": "nightly", "other": "x"}, True),
        ("nightly", {"workflow": "nightly", "session_id": "s"}, True),
        ("", {"workflow": "nightly", "session_id": "s"}, True),
        ("someone@example.com", None, False),
        ("", {"session_id": "Session 1: caf"}, False),
    ],
)
def test_a_workflow_is_named_by_header_or_metadata(
    header: str, metadata: dict[str, str] | None, listed: bool
) -> None:
    arrived = headers(tidegate_workflow=header)
    named = accounts(arrived=arrived, **({"metadata": metadata} if metadata else {}))[-1]
    assert named.startswith("workflow/")
    assert (named == "workflow/nightly") == listed
    assert "example" not in named


def test_a_workflow_stands_in_the_events_and_is_no_ones_elsewhere() -> None:
    _, one = admitted(arrived=headers(tidegate_workflow="w"))
    _, again = admitted(arrived=headers(tidegate_workflow="w"))
    assert one.context["workflow"] == again.context["workflow"] != "w"
    elsewhere = Principal.from_fields({**PRINCIPAL, "org": "other"})
    assert RULES.secrets.workflow_pseudonym(elsewhere, "w") != one.context["workflow"]
    assert "workflow" not in admitted()[1].context


@pytest.mark.parametrize(
    ("header", "metadata", "param"),
    [
        ("a" * 129, {}, "x-tidegate-workflow"),
        ("caf\xe9", {}, "x-tidegate-workflow"),
        (" a", {}, "x-tidegate-workflow"),
        ("a", {"workflow": "b"}, "metadata.workflow"),
        ("", {"workflow": ""}, "metadata.workflow"),
        ("", {"session_id": "a\n"}, "metadata.session_id"),
    ],
)
def test_a_name_that_is_none_is_refused(header: str, metadata: dict[str, str], param: str) -> None:
    machine = Admit(RULES)
    machine.receive(headers(tidegate_workflow=header))
    reply = only(ReplyNow, machine.receive(body(metadata=metadata)))
    error = shown_error(reply)
    assert (reply.status, error["code"], error["param"]) == (400, "invalid_workflow", param)


def test_no_engine_sees_the_workflow() -> None:
    arrived = headers(tidegate_workflow="nightly")
    machine, request = admitted(arrived=arrived, metadata={"workflow": "nightly"})
    reply = only(Continue, machine.receive(granted(request)))
    assert "tidegate-workflow" in reply.remove_headers
    assert b"nightly" not in (reply.body or b"")


@pytest.mark.parametrize(
    ("path", "fields", "choices", "wanted"),
    [
        ("/v1/chat/completions", {**SAY, "n": 3, "max_tokens": 40}, 3, 40),
        ("/v1/completions", {"model": "chat", "prompt": ["a", "b"], "n": 2, "max_tokens": 40}, 4, 40),
        ("/v1/completions", {"model": "chat", "prompt": "a", "n": 2, "best_of": 2, "max_tokens": 9}, 2, 9),
        ("/v1/embeddings", {"model": "embed", "input": ["one", "two", "three"]}, 1, 0),
    ],
)
def test_what_is_produced_is_held(path: str, fields: dict[str, Any], choices: int, wanted: int) -> None:
    _, request = admitted(fields, rules=priced(), arrived=headers(path=path))
    assert (request.choices, request.units_wanted) == (choices, wanted)
    assert request.price == Price(prompt=20, completion=80, request=MicroUsd(7))
    held = request.amounts(request.units_wanted)
    assert held.completion_tokens == choices * wanted
    assert held.micro_usd == 7 + -(-(request.fixed * 20 + choices * wanted * 80) // 1_000_000)


def test_ids_of_a_prompt_cost_nothing() -> None:
    everything = {**PRINCIPAL, "models": ["*"]}
    arrived = headers(path="/v1/tokenize", principal=everything)
    machine, request = admitted({"model": "ids", "prompt": "x"}, rules=priced(), arrived=arrived)
    assert request.amounts(request.units_wanted) == Amounts()
    reply = only(Continue, machine.receive(granted(request)))
    assert AdmissionRecord.from_fields(reply.metadata["tidegate.admit"]).price == ""


def test_a_prompt_above_the_limit_of_one_request_is_refused_by_name() -> None:
    _, request = admitted()
    exactly = of_one_request(prompt_tokens_max=request.fixed)
    assert admitted(rules=exactly)[1].fixed == request.fixed
    machine = Admit(of_one_request(prompt_tokens_max=request.fixed - 1))
    machine.receive(headers())
    reply = only(ReplyNow, machine.receive(body()))
    error = shown_error(reply)
    assert (reply.status, error["code"], error["param"]) == (400, "prompt_tokens_above_limit", "messages")
    assert f"the limit for one request is {request.fixed - 1}" in error["message"]


@pytest.mark.parametrize("asked", [{}, {"max_tokens": 400}, {"max_tokens": 30}])
def test_a_completion_is_clamped_to_the_limit_of_one_request_and_says_so(asked: dict[str, int]) -> None:
    machine, request = admitted(rules=of_one_request(completion_tokens_max=60), **asked)
    assert request.units_wanted == min(60, asked.get("max_tokens", 600))
    reply = only(Continue, machine.receive(granted(request)))
    assert orjson.loads(reply.body or b"")["max_tokens"] == request.units_wanted
    record = AdmissionRecord.from_fields(reply.metadata["tidegate.admit"])
    assert record.clamp == ("60" if asked.get("max_tokens", 600) > 60 else "")


def test_what_the_grant_says_stands_in_the_record() -> None:
    machine, request = admitted(rules=priced(), max_tokens=50)
    soft = standing(account=AccountId("team/t1"), enforcement=Enforcement.SOFT, used=120)
    event = granted(
        request,
        standing(measure=Measure.REQUESTS, limit=60, used=10),
        standing(measure=Measure.MICRO_USD, span="month", limit=500, used=10),
        over=(soft,),
        lease=HoldId("lease-1"),
        lease_windows=WINDOWS,
    )
    reply = only(Continue, machine.receive(event))
    record = AdmissionRecord.from_fields(reply.metadata["tidegate.admit"])
    assert record.held == request.amounts(Tokens(50))
    assert record.price == "20,10,80,7"
    assert (record.limit_tokens, record.reset_tokens) == ("10000", "6s")
    assert (record.limit_requests, record.remaining_requests, record.reset_requests) == ("60", "50", "6s")
    assert record.remaining_micro_usd == "490"
    assert record.over == "team;measure=tokens;window=minute;limit=100;used=120"
    draw = record.draw()
    assert draw is not None
    assert (draw.lease, draw.windows, draw.hold) == ("lease-1", WINDOWS, "r-1")
    assert (draw.amounts, draw.units) == (record.held, 50)
    assert dict(draw.context) == dict(request.context)


def test_a_grant_out_of_a_lease_that_nobody_hears_of_is_released_with_its_draw() -> None:
    machine, request = admitted()
    machine.receive(GONE)
    void = only(Void, machine.receive(granted(request, lease=HoldId("lease-1"), lease_windows=WINDOWS)))
    assert void.draw is not None
    assert (void.draw.lease, void.draw.windows) == ("lease-1", WINDOWS)


def test_every_input_of_a_batch_is_held() -> None:
    def fixed(*inputs: str) -> int:
        _, request = admitted({"model": "embed", "input": inputs}, arrived=headers(path="/v1/embeddings"))
        return request.fixed

    assert fixed("one", "two", "three") == fixed("one") + fixed("two") + fixed("three")


def test_what_no_ledger_can_count_is_the_clients_mistake_and_no_fault_of_ours() -> None:
    huge = model(
        "chat",
        Endpoint.CHAT,
        context_tokens=2**22,
        max_completion_tokens=2**20,
        capabilities=Capabilities(n_max=128, batch_max=1),
        prices=Prices(completion=MicroUsd(75_000_000)),
    )
    machine = Admit(replace(RULES, catalogue=catalogue_of((huge,))))
    machine.receive(headers())
    reply = only(ReplyNow, machine.receive(body(n=128, max_tokens=2**20, temperature=1)))
    assert (reply.status, shown_error(reply)["code"]) == (400, "invalid_request")
    assert "max_tokens" in shown_error(reply)["message"]
