"""Budgets: which accounts there are, and what each adjustment does to them and to the events."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from gateway.admin.budgets import standing_object
from gateway.admin.change import BadValue, Conflict, NotDone, Unknown
from gateway.admin.phrase import limit_phrase, window_phrase
from gateway.budget.ledger import Granted, HoldRequest, Refused
from gateway.budget.outbox import BUDGET_ADJUSTED
from gateway.budget.window import Account, Standing
from gateway.contract.ids import AccountId, HoldId
from gateway.contract.units import Millis, Tokens
from tests.unit.admin.desk import ALICE, BY, Desk, policy, pseudonym


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


async def ask(desk: Desk, hold: str, tokens: int) -> Granted | Refused:
    accounts = policy().accounts_for(ALICE, model="small", user=pseudonym(ALICE.org, ALICE.user))
    return await desk.ledger.reserve(
        HoldRequest(
            hold=HoldId(hold),
            org=ALICE.org,
            accounts=accounts,
            fixed=Tokens(tokens),
            units_wanted=Tokens(1),
            units_min=Tokens(1),
            choices=1,
            ttl=Millis(60_000),
            policy_version=3,
        )
    )


def limits(standings: Sequence[Standing]) -> dict[tuple[str, str], int]:
    return {(one.measure.value, one.span): one.limit for one in standings}


async def test_every_account_is_shown_before_anybody_used_it(desk: Desk) -> None:
    shown = await desk.budgets().show("demo")
    assert list(dict.fromkeys(one.account for one in shown)) == [
        *("org", "team/blue", "user/p-demo-alice", "key/ci", "model/small")
    ]
    assert await desk.budgets().orgs() == ["demo", "empty"]
    assert limits(await desk.budgets().show("demo", "user/alice")) == {("tokens", "day"): 700}


async def test_set_counts_at_once_and_reset_undoes_it(desk: Desk) -> None:
    assert isinstance(await ask(desk, "h0", 1), Granted)
    after = await desk.budgets().set("demo", "key/ci", limit_phrase("tokens=50 per minute"), BY)
    assert limits(after)["tokens", "minute"] == 50
    assert isinstance(await ask(desk, "h1", 60), Refused)
    await desk.budgets().reset("demo", "key/ci", window_phrase("tokens per minute"), BY)
    assert isinstance(await ask(desk, "h2", 60), Granted)
    first, second = desk.events(BUDGET_ADJUSTED)
    assert (first["verdict"], first["c.account"], first["c.actor"]) == ("set", "key/ci", "olga")
    assert first["reason"] == "a test"
    assert (first["c.limit_before"], first["c.limit_after"]) == ("1000", "50")
    assert (second["verdict"], second["c.limit_after"]) == ("reset", "1000")


async def test_a_limit_that_the_policy_has_not_can_be_added(desk: Desk) -> None:
    await desk.budgets().set("demo", "key/ci", limit_phrase("requests=1 per hour"), BY)
    assert isinstance(await ask(desk, "h1", 1), Granted)
    assert isinstance(await ask(desk, "h2", 1), Refused)


async def test_what_is_not_said_is_as_in_the_policy(desk: Desk) -> None:
    after = await desk.budgets().set("demo", "org", limit_phrase("requests=5 per minute"), BY)
    assert limits(after)["requests", "minute"] == 10, "5 and, of the minute before, 5 within a burst of 10"
    user = await desk.budgets().set("demo", "user/alice", limit_phrase("tokens=1 per day"), BY)
    assert [one.enforcement for one in user] == ["soft"]


async def test_raise_and_lower_go_one_way(desk: Desk) -> None:
    budgets = desk.budgets()
    with pytest.raises(Conflict, match="stands at 1000"):
        await budgets.raise_to("demo", "key/ci", limit_phrase("tokens=1000 per minute"), BY)
    with pytest.raises(Conflict, match="name a lower limit"):
        await budgets.lower_to("demo", "key/ci", limit_phrase("tokens=unlimited per minute"), BY)
    assert desk.events(BUDGET_ADJUSTED) == []
    await budgets.raise_to("demo", "key/ci", limit_phrase("tokens=2000 per minute"), BY)
    await budgets.lower_to("demo", "key/ci", limit_phrase("tokens=1 per minute"), BY)
    assert isinstance(await ask(desk, "h1", 60), Refused)


async def test_a_top_up_is_of_this_window_only(desk: Desk) -> None:
    after = await desk.budgets().top_up("demo", "key/ci", limit_phrase("tokens=500 per minute"), BY)
    assert limits(after)["tokens", "minute"] == 1500
    desk.clock.advance_ms(60_000)
    assert limits(await desk.budgets().show("demo", "key/ci"))["tokens", "minute"] == 1000


async def test_a_frozen_account_grants_nothing(desk: Desk) -> None:
    shown = await desk.budgets().freeze("demo", "team/blue", BY)
    assert [standing_object(one)["frozen"] for one in shown] == [True] * len(shown)
    assert isinstance(await ask(desk, "h1", 1), Refused)
    await desk.budgets().unfreeze("demo", "team/blue", BY)
    assert isinstance(await ask(desk, "h2", 1), Granted)


@pytest.mark.parametrize(
    ("org", "account", "words", "kind", "complaint"),
    [
        ("dmeo", "org", "tokens=1 per minute", Unknown, "no org 'dmeo': there are demo, empty"),
        (
            "demo",
            "key/cj",
            "tokens=1 per minute",
            Unknown,
            "there are org, team/blue, user/p-demo-alice",
        ),
        ("demo", "key", "tokens=1 per minute", BadValue, "'key' is no account"),
        ("demo", "org/x", "tokens=1 per minute", BadValue, "'org/x' is no account"),
        ("demo", "planet/x", "tokens=1 per minute", BadValue, "'planet/x' is no account"),
        ("demo", "model/large", "tokens=1 per minute", Unknown, "no account of org demo 'model/large'"),
        ("demo", "key/ci", "requests=1 per day", Unknown, "there are tokens per minute, tokens per month"),
        ("demo", "key/ci", "tokens=1 per month", Conflict, "has no limit on tokens per month: set one first"),
        ("demo", "key/ci", "tokens=0 per minute", BadValue, "an amount of 1 or more"),
        (
            "demo",
            "key/ci",
            "tokens=1 per minute burst 5",
            BadValue,
            "and nothing else",
        ),
    ],
)
async def test_what_is_not_there_is_told_with_what_is(
    desk: Desk, org: str, account: str, words: str, kind: type[NotDone], complaint: str
) -> None:
    with pytest.raises(kind) as refused:
        await desk.budgets().top_up(org, account, limit_phrase(words), BY)
    assert complaint in str(refused.value)
    assert desk.events(BUDGET_ADJUSTED) == []


async def test_an_account_that_no_request_is_counted_on_is_not_adjusted_in_silence(desk: Desk) -> None:
    """The ledger knows the model from an older policy; the policy in force gives it no window."""
    older = policy().accounts_for(ALICE, model="small", user="")[-1]
    await desk.ledger.reserve(
        HoldRequest(
            hold=HoldId("h1"),
            org=ALICE.org,
            accounts=(Account(id=AccountId("model/large"), windows=older.windows),),
            fixed=Tokens(1),
            units_wanted=Tokens(1),
            units_min=Tokens(1),
            choices=1,
            ttl=Millis(60_000),
            policy_version=2,
        )
    )
    with pytest.raises(Unknown, match="the policy gives 'model/large' no window"):
        await desk.budgets().freeze("demo", "model/large", BY)


async def test_a_window_without_end_or_limit_is_null(desk: Desk) -> None:
    shown = await desk.budgets().set("demo", "key/ci", limit_phrase("concurrent=8"), BY)
    by_measure = {one.measure.value + one.span: standing_object(one) for one in shown}
    assert by_measure["concurrentlifetime"]["resets_at_ms"] is None
    assert by_measure["concurrentlifetime"]["unit"] == "requests"
    month = by_measure["tokensmonth"]
    assert (month["limit"], month["remaining"], month["window"], month["unit"]) == (
        None,
        None,
        "month",
        "tokens",
    )
