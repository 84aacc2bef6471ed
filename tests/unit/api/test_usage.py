"""``GET /v1/usage``: windows of every account of the caller, and reports that never leave its org, its key
and its user."""

from __future__ import annotations

import asyncio
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.api.application import Application
from gateway.api.state import ApiState
from gateway.api.usage import ORG_SCOPE
from gateway.bookkeeper.outbox_events import event_of
from gateway.bookkeeper.projection import Projection
from gateway.budget.ledger import HoldRequest
from gateway.budget.measure import Amounts
from gateway.budget.memory_ledger import MemoryLedger
from gateway.budget.policy import budget_policy_from
from gateway.config.document import parse_documents
from gateway.config.watch import Watched
from gateway.contract import headers
from gateway.contract.clock import ManualClock
from gateway.contract.ids import HoldId, KeyId, OrgId, RegionName, TeamId, Tier, UserId
from gateway.contract.principal import Principal
from gateway.contract.units import Millis, Tokens
from gateway.events.books import open_books
from gateway.events.segment import Limits
from gateway.keys.pseudonym import user_pseudonym
from gateway.models.catalogue import load_catalogue

MODELS = Path(__file__).resolve().parents[3] / "mesh" / "base" / "policy" / "models.yaml"
POLICY = """
version: 1
tiers: {standard: {priority: 0, priority_class: standard}}
orgs:
  "*":
    teams: {"*": {tokens_per_month: 1000}}
    users: {"*": {limits: [{tokens: 7, per: day, enforcement: soft}]}}
    models: {smollm2-135m: {limits: [{micro_usd: 9, per: lifetime}]}}
"""
LOCAL = RegionName("local")
KEY = bytes(range(32))


def caller(org: str, user: str, key: str, *scopes: str) -> Principal:
    return Principal(
        org=OrgId(org),
        team=TeamId("blue"),
        user=UserId(user),
        key=KeyId(key),
        tier=Tier("standard"),
        scopes=scopes,
    )


ALICE = caller("demo", "alice", "k1")
BOB = caller("demo", "bob", "k2")
OTHER = caller("other", "alice", "k1")
SPENT = {ALICE: 5, replace(ALICE, user=UserId("carol")): 11, BOB: 17, OTHER: 23}
"""Tokens of each; carol shares alice's key id, as users of one JWT claim may."""


class Server:
    """The API on a ledger whose requests are in the books of ``directory``."""

    def __init__(self, directory: Path) -> None:
        self.clock = ManualClock()
        self.ledger = MemoryLedger(self.clock)
        self.policy = budget_policy_from(parse_documents(POLICY, "budgets.yaml")[0])
        self.directory = directory
        self.state = ApiState(
            catalogue=Watched(lambda: load_catalogue(MODELS), (MODELS,)),
            budgets=Watched(lambda: self.policy, ()),
            ledger=self.ledger,
            metrics_dir=str(directory),
            books_dir=directory,
            pseudonym_key=KEY,
            clock=self.clock,
        )
        transport = httpx.ASGITransport(app=Application(self.state))
        self.client = httpx.AsyncClient(transport=transport, base_url="http://gateway")

    async def get(self, who: Principal, query: str = "") -> httpx.Response:
        header = {headers.PRINCIPAL: json.dumps(who.to_fields())}
        return await self.client.get(f"/v1/usage{query}", headers=header)

    async def report(self, who: Principal, query: str) -> dict[str, Any]:
        found: dict[str, Any] = (await self.get(who, query)).json()["report"]
        return found

    async def spend(self) -> None:
        """What SPENT says, settled, in the books and projected."""
        for number, (who, tokens) in enumerate(SPENT.items()):
            user = user_pseudonym(KEY, who.org, who.user)
            hold = HoldId(f"h{number}")
            await self.ledger.reserve(
                HoldRequest(
                    hold=hold,
                    org=who.org,
                    accounts=self.policy.accounts_for(who, model="smollm2-135m", user=user),
                    fixed=Tokens(tokens),
                    choices=1,
                    units_wanted=Tokens(0),
                    units_min=Tokens(0),
                    ttl=Millis(60_000),
                    policy_version=1,
                    context={"team": who.team, "key": who.key, "user": user, "model": "smollm2-135m"},
                )
            )
            await self.ledger.settle(who.org, hold, Amounts.of(tokens, 0))
        books = open_books(
            self.directory, LOCAL, None, clock=self.clock, limits=Limits(events=50, age_ms=2**50)
        )
        books.append(
            [event_of(LOCAL, OrgId(one["org"]), f"{n}-0", one) for n, one in enumerate(self.ledger.outbox)]
        )
        books.close()
        await asyncio.to_thread(Projection(self.directory, LOCAL).advance)


@pytest.fixture
def server(tmp_path: Path) -> Server:
    return Server(tmp_path)


async def test_windows_of_every_account_of_the_caller(server: Server) -> None:
    windows = (await server.get(ALICE)).json()["windows"]
    user = user_pseudonym(KEY, ALICE.org, ALICE.user)
    assert [(one["account"], one["measure"], one["span"]) for one in windows] == [
        ("org", "tokens", "minute"),
        ("org", "tokens", "month"),
        ("team/blue", "tokens", "month"),
        (f"user/{user}", "tokens", "day"),
        ("key/k1", "tokens", "minute"),
        ("key/k1", "tokens", "month"),
        ("model/smollm2-135m", "micro_usd", "lifetime"),
    ]
    soft, lifetime = windows[3], windows[-1]
    assert (soft["enforcement"], soft["frozen"], soft["limit"], soft["unit"]) == ("soft", False, 7, "tokens")
    assert (lifetime["resets_at_ms"], lifetime["unit"]) == (None, "micro_usd")


async def test_reports_stay_with_who_may_see_them(server: Server) -> None:
    await server.spend()
    own = await server.report(ALICE, "?by=org,key")
    assert (own["total"]["tokens"], own["scope"]) == (5, "key")
    assert own["rows"] == [{"org": "demo", "key": "k1"} | own["total"]]
    whole = await server.report(replace(BOB, scopes=(ORG_SCOPE,)), "?by=key")
    assert [(row["key"], row["tokens"]) for row in whole["rows"]] == [("k1", 16), ("k2", 17)]
    assert whole["scope"] == "org"
    everybody = await server.report(replace(OTHER, scopes=(ORG_SCOPE,)), "?by=org")
    assert [(row["org"], row["tokens"]) for row in everybody["rows"]] == [("other", 23)]
    assert (await server.report(caller("demo", "dora", "k3"), "?by=org"))["rows"] == []


async def test_a_report_is_of_whole_days(server: Server) -> None:
    await server.spend()
    day = await server.report(ALICE, "?from=2027-01-15&to=2027-01-15&by=day")
    assert [(row["day"], row["requests"]) for row in day["rows"]] == [("2027-01-15", 1)]
    assert (await server.report(ALICE, "?from=2027-01-14&to=2027-01-14"))["rows"] == []


@pytest.mark.parametrize(
    ("query", "param", "code"),
    [
        ("?by=colour", "by", "invalid_value"),
        ("?by=key,key", "by", "invalid_value"),
        ("?by=key&by=day", "by", "invalid_value"),
        ("?by=" + "k" * 101, "by", "invalid_value"),
        ("?from=yesterday", "from", "invalid_value"),
        ("?from=2027-01-02&to=2027-01-01", "from", "invalid_value"),
        ("?from=1970-01-01", "from", "invalid_value"),
        ("?to=2027-02-30", "to", "invalid_value"),
        ("?org=other", "org", "unknown_parameter"),
        ("?" + "x" * 200 + "=1", "x" * 100, "unknown_parameter"),
    ],
)
async def test_bad_parameters_are_named(server: Server, query: str, param: str, code: str) -> None:
    answer = await server.get(ALICE, query)
    error = answer.json()["error"]
    assert (answer.status_code, error["param"], error["code"]) == (400, param, code)
    assert len(error["message"]) < 300


async def test_a_report_without_a_projection_is_an_outage_and_gives_its_turn_back(server: Server) -> None:
    for _ in range(3):
        answer = await server.get(ALICE, "?by=key")
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "budget_unavailable")
        assert answer.headers["retry-after"] == "5"
    assert not server.state.reports.locked()


async def test_the_api_starts_without_lancedb() -> None:
    """It takes seconds and 100 MB to import, for a page that few ask for."""
    program = "import gateway.api.main, sys; sys.exit(bool({'lancedb', 'pyarrow'} & set(sys.modules)))"
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", program)
    assert await process.wait() == 0
