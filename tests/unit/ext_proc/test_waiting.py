"""Lines of waiting requests: who is first, who may try, for whom waiting is of no use."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ext_proc.vocabulary import AwaitTurn, Behind
from ext_proc.waiting import POLL, Lines, pause_before_retry
from gateway.budget.ledger import Refused
from gateway.budget.measure import Measure
from gateway.contract.ids import AccountId, HoldId, OrgId
from gateway.contract.units import Millis, Seconds
from tests.unit.ext_proc.asked import standing

ORG = OrgId("acme")
OTHER = OrgId("other")
MINUTE = AccountId("org")
KEY = AccountId("key/k1")


def wait(hold: str, *, account: AccountId = MINUTE, priority: int = 0, org: OrgId = ORG) -> AwaitTurn:
    return AwaitTurn(
        org=org,
        hold=HoldId(hold),
        account=account,
        priority=priority,
        pause=Seconds(1.0),
        at_most=Seconds(5.0),
    )


def lines(*waits: AwaitTurn, **bounds: int) -> Lines:
    made = Lines(**bounds)
    for one in waits:
        assert made.join(one)
    return made


def ahead(made: Lines, hold: str, *accounts: AccountId, priority: int = 0, org: OrgId = ORG) -> str | None:
    return made.ahead(HoldId(hold), org, accounts or (MINUTE,), priority)


def refused(*, needed: int = 50, retry_after: int = 0, recalled: bool = False, **changed: Any) -> Refused:
    return Refused(
        standing=standing(**changed), needed=needed, retry_after=Millis(retry_after), recalled=recalled
    )


@pytest.mark.parametrize(
    ("answer", "pause"),
    [
        (refused(retry_after=200), 0.2),
        (refused(retry_after=3_000), POLL),
        (refused(retry_after=5_000), POLL),
        (refused(retry_after=5_001), None),
        (refused(retry_after=200, needed=101), None),
        (refused(retry_after=200, frozen=True), None),
        (refused(span="lifetime"), None),
        (refused(span="lifetime", recalled=True), POLL),
        (refused(span="lifetime", recalled=True, needed=101), None),
        (refused(span="lifetime", measure=Measure.CONCURRENT, limit=1, used=0, held=1, needed=1), POLL),
        (refused(span="lifetime", measure=Measure.CONCURRENT, limit=0, used=0, needed=1), None),
        (Behind(account=MINUTE), 5.0),
    ],
)
def test_a_wait_is_for_what_comes_in_time(answer: Refused | Behind, pause: float | None) -> None:
    assert pause_before_retry(answer, Seconds(5.0)) == pause
    assert pause_before_retry(answer, Seconds(0.0)) is None


def test_a_line_is_in_the_order_of_priority_then_of_arrival() -> None:
    made = lines(wait("a"), wait("b"), wait("high", priority=9))
    order = []
    while made.firsts(ORG):
        (first,) = made.firsts(ORG)
        assert made.is_first(first)
        order.append(first)
        made.leave(first)
    assert order == ["high", "a", "b"]
    assert len(made) == 0


def test_somebody_new_goes_behind_who_waits_for_one_of_its_accounts() -> None:
    made = lines(wait("a", priority=5), wait("k", account=KEY))
    assert ahead(made, "new", priority=5) == MINUTE
    assert ahead(made, "new", priority=4) == MINUTE
    assert ahead(made, "new", priority=6) is None
    assert ahead(made, "new", AccountId("key/k2")) is None
    assert ahead(made, "new", AccountId("key/k2"), KEY) == KEY
    assert ahead(made, "new", org=OTHER) is None


def test_who_waits_is_not_behind_itself_nor_behind_those_after_it() -> None:
    made = lines(wait("a"), wait("b"), wait("k", account=KEY))
    assert ahead(made, "a", MINUTE, KEY) is None
    assert ahead(made, "b", MINUTE, KEY) == MINUTE
    assert ahead(made, "k", KEY, MINUTE) == MINUTE


def test_who_moves_to_another_line_keeps_its_rank() -> None:
    made = lines(wait("a"), wait("b"), wait("k", account=KEY))
    assert made.move(HoldId("a"), KEY) == "b", "its turn has come"
    assert made.move(HoldId("a"), KEY) is None
    assert made.is_first(HoldId("a")) and not made.is_first(HoldId("k"))
    assert made.leave(HoldId("a")) == "k"
    assert made.leave(HoldId("a")) is None
    assert made.leave(HoldId("never")) is None


def test_only_who_becomes_the_first_is_called() -> None:
    made = lines(wait("a"), wait("b"), wait("c"))
    assert made.leave(HoldId("b")) is None
    assert made.leave(HoldId("a")) == "c"
    assert made.leave(HoldId("c")) is None


def test_places_are_bounded_for_all_and_for_an_org() -> None:
    made = lines(wait("a"), wait("b"), wait("c", org=OTHER), most=3, most_of_org=2)
    assert not made.join(wait("d"))
    assert not made.join(wait("e", org=OTHER))
    made.leave(HoldId("a"))
    assert made.join(wait("d"))
    assert HoldId("d") in made and HoldId("a") not in made


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["join", "leave", "move"]),
            st.integers(0, 7),
            st.sampled_from([MINUTE, KEY, AccountId("team/t")]),
            st.integers(0, 2),
        ),
        max_size=40,
    )
)
def test_no_two_ever_wait_for_each_other(steps: list[tuple[str, int, AccountId, int]]) -> None:
    made = Lines()
    present: set[HoldId] = set()
    for verb, number, account, priority in steps:
        hold = HoldId(f"h{number}")
        if verb == "join" and hold not in present:
            assert made.join(wait(hold, account=account, priority=priority))
            present.add(hold)
        elif verb == "leave":
            made.leave(hold)
            present.discard(hold)
        elif verb == "move" and hold in present:
            made.move(hold, account)
    firsts = made.firsts(ORG)
    assert len(made) == len(present)
    assert bool(firsts) == bool(present)
    accounts = (MINUTE, KEY, AccountId("team/t"))
    free = [hold for hold in firsts if made.ahead(hold, ORG, accounts, 0) is None]
    assert len(free) == bool(present), "exactly one may try, whatever accounts they share"
