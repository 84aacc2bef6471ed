"""What a changed budgets.yaml does in mid-window: each row of the table in docs/budgets.md, on the ledger."""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import count
from pathlib import Path

from gateway.budget.ledger import Granted, HoldRequest, Refused
from gateway.budget.measure import Amounts
from gateway.budget.memory_ledger import MemoryLedger
from gateway.budget.policy import BudgetPolicy, budget_policy_from
from gateway.config.document import parse_documents
from gateway.contract.clock import ManualClock
from gateway.contract.ids import HoldId, KeyId, OrgId, TeamId, Tier, UserId
from gateway.contract.principal import Principal
from gateway.contract.units import Millis, Tokens

CALLER = Principal(org=OrgId("acme"), team=TeamId("t"), user=UserId("u"), key=KeyId("k"), tier=Tier("s"))
HOUR_START = 1_800_000_000_000
TABLE = (Path(__file__).resolve().parents[3] / "docs" / "budgets.md").read_text().split("## Changes")[1]


def policy(version: int, limit: str) -> BudgetPolicy:
    text = (
        f"version: {version}\ntiers: {{s: {{priority: 0, priority_class: s}}}}\n"
        f"orgs: {{acme: {{models: {{m: {{limits: [{limit}]}}}}}}}}\n"
    )
    return budget_policy_from(parse_documents(text, "budgets.yaml")[0])


class Spender:
    """One org's caller who asks for prompts of so many tokens."""

    def __init__(self) -> None:
        self.clock = ManualClock(HOUR_START)
        self.ledger = MemoryLedger(self.clock)
        self.numbers = count()

    async def ask(self, said: BudgetPolicy, tokens: int) -> Granted | Refused:
        return await self.ledger.reserve(
            HoldRequest(
                hold=HoldId(f"h{next(self.numbers)}"),
                org=CALLER.org,
                accounts=said.accounts_for(CALLER, model="m", user=""),
                fixed=Tokens(tokens),
                choices=1,
                units_wanted=Tokens(0),
                units_min=Tokens(0),
                ttl=Millis(600_000),
                policy_version=said.version,
            )
        )

    async def spend(self, said: BudgetPolicy, tokens: int) -> bool:
        """Whether the prompt was granted; it is used up then."""
        found = await self.ask(said, tokens)
        if isinstance(found, Granted):
            await self.ledger.settle(CALLER.org, found.hold, Amounts.of(tokens, 0))
        return isinstance(found, Granted)

    async def used(self, said: BudgetPolicy) -> Mapping[str, int]:
        """By window, of the model's account."""
        accounts = said.accounts_for(CALLER, model="m", user="")
        found = await self.ledger.standing(CALLER.org, accounts)
        return {one.span: one.used for one in found if one.account == "model/m"}


async def test_raised_and_lowered() -> None:
    one = Spender()
    first, raised, lowered = (
        policy(n, f"{{tokens: {limit}, per: hour}}") for n, limit in ((1, 5), (2, 9), (3, 3))
    )
    assert await one.spend(first, 5) and not await one.spend(first, 1)
    assert await one.spend(raised, 4) and not await one.spend(raised, 1)
    found = await one.ask(lowered, 1)
    assert isinstance(found, Refused)
    assert (found.standing.limit, found.standing.used, found.standing.remaining) == (3, 9, 0)
    one.clock.advance_ms(3_600_000)
    await one.ledger.tick(CALLER.org)
    assert await one.spend(lowered, 3) and not await one.spend(lowered, 1)


async def test_lowered_while_a_request_is_in_flight() -> None:
    one = Spender()
    first, lowered = policy(1, "{tokens: 9, per: hour}"), policy(2, "{tokens: 3, per: hour}")
    granted = await one.ask(first, 8)
    assert isinstance(granted, Granted)
    assert not await one.spend(lowered, 1)
    assert (await one.ledger.settle(CALLER.org, granted.hold, Amounts.of(8, 0))).posted.tokens == 8
    assert await one.used(lowered) == {"hour": 8}


async def test_added_removed_and_put_back() -> None:
    one = Spender()
    plain, added = policy(1, "{tokens: 100, per: hour}"), "{tokens: 100, per: hour}, {tokens: 100, per: day}"
    assert await one.spend(plain, 5)
    assert await one.spend(policy(2, added), 7)
    assert await one.used(policy(2, added)) == {"hour": 12, "day": 7}
    in_flight = await one.ask(policy(2, added), 10)
    assert isinstance(in_flight, Granted)
    removed = policy(3, "{tokens: 100, per: hour}")
    assert await one.spend(removed, 60)
    await one.ledger.settle(CALLER.org, in_flight.hold, Amounts.of(10, 0))
    assert await one.used(removed) == {"hour": 82}
    assert await one.spend(policy(4, added), 1)
    assert await one.used(policy(4, added)) == {"hour": 83, "day": 18}


async def test_the_same_counter_under_another_rule() -> None:
    one = Spender()
    assert await one.spend(policy(1, "{tokens: 5, per: hour}"), 5)
    assert await one.spend(policy(2, "{tokens: 5, per: hour, enforcement: soft}"), 1)
    assert not await one.spend(policy(3, "{tokens: 5, per: hour}"), 1)
    assert await one.spend(policy(4, "{tokens: 5, per: hour, burst: 3}"), 2)
    assert await one.used(policy(4, "{tokens: 5, per: hour}")) == {"hour": 8}


async def test_another_window_begins_at_nought() -> None:
    one = Spender()
    assert await one.spend(policy(1, "{tokens: 5, per: day}"), 5)
    for version, other in enumerate(
        (
            "{tokens: 5, per: day, zone: Asia/Tokyo}",
            "{prompt_tokens: 5, per: day}",
            "{tokens: 5, per: {rolling_seconds: 9}}",
        ),
        start=2,
    ):
        assert await one.spend(policy(version, other), 5)
        assert not await one.spend(policy(version, other), 1)


async def test_an_older_version_never_comes_back_and_the_first_of_a_version_counts() -> None:
    one = Spender()
    older, newer = policy(1, "{tokens: 9, per: hour}"), policy(2, "{tokens: 5, per: hour}")
    assert await one.spend(newer, 5)
    assert not await one.spend(older, 1)
    found = await one.ask(policy(2, "{tokens: 9, per: hour}"), 0)
    assert isinstance(found, Granted) and found.policy_conflict


def test_the_table_has_no_row_that_is_not_tested() -> None:
    assert re.findall(r"(?m)^\| (?!-)([a-z][^|]*?) \| (?!then)", TABLE.split("## Prices")[0]) == [
        "raised",
        "lowered",
        "added",
        "removed",
        "put back in the same window",
        "given another `enforcement` or `burst`",
        "given another measure, `per`, `zone` or number of seconds",
    ]
