"""Every kind of window and measure: what it counts, when it refuses, what it says."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from gateway.budget.certainty import Certainty
from gateway.budget.ledger import Adjustment, AdjustmentKind
from gateway.budget.measure import Amounts, Measure, Price
from gateway.budget.window import UTC as PLAIN
from gateway.budget.window import Account, Enforcement, Window, WindowKind
from gateway.contract.ids import HoldId
from gateway.contract.units import MicroUsd
from tests.contract.budget.subjects import NOON, ORG, Subject, account, of, used, want

MINUTE = 60_000
BERLIN = "Europe/Berlin"


def limit(
    limit: int,
    kind: WindowKind = WindowKind.MINUTE,
    measure: Measure = Measure.TOKENS,
    *,
    enforcement: Enforcement = Enforcement.HARD,
    zone: str = PLAIN,
    seconds: int = 0,
    burst: int = 0,
) -> Account:
    """The org with one window."""
    return of(
        "org",
        Window(
            kind=kind,
            limit=limit,
            measure=measure,
            enforcement=enforcement,
            zone=zone,
            seconds=seconds,
            burst=burst,
        ),
    )


async def test_prompt_and_completion_have_limits_of_their_own(subject: Subject) -> None:
    both = of(
        "org",
        Window(kind=WindowKind.MINUTE, limit=100, measure=Measure.PROMPT_TOKENS),
        Window(kind=WindowKind.DAY, limit=70, measure=Measure.COMPLETION_TOKENS),
    )
    grant = await subject.reserve(want("h", both, fixed=60, units=50, choices=3))
    assert (grant.units, grant.amounts) == (23, Amounts.of(60, 69))
    assert {measure: one.remaining for measure, one in grant.tightest.items()} == {
        Measure.PROMPT_TOKENS: 40,
        Measure.COMPLETION_TOKENS: 1,
    }
    refusal = await subject.refused(want("i", both, fixed=41, units=1))
    assert (refusal.standing.measure, refusal.needed) == (Measure.PROMPT_TOKENS, 41)
    await subject.ledger.settle(ORG, HoldId("h"), Amounts.of(60, 5))
    assert [one.used for one in await subject.ledger.standing(ORG, (both,))] == [60, 5]


async def test_money_clamps_to_the_micro_dollar(subject: Subject) -> None:
    price = Price(prompt=250_000, completion=1_500_000, request=MicroUsd(3))
    budget = limit(100, WindowKind.LIFETIME, Measure.MICRO_USD)
    grant = await subject.reserve(want("h", budget, fixed=40, units=500, price=price))
    # 100 - 3 a request - 10 for the prompt leave 87 for completion tokens of 1.5.
    assert (grant.units, grant.amounts.micro_usd) == (58, 100)
    refusal = await subject.refused(want("i", budget, price=price))
    assert (refusal.needed, refusal.retry_after, refusal.standing.span) == (5, 0, "lifetime")
    await subject.ledger.settle(ORG, HoldId("h"), Amounts.of(40, 10, micro_usd=28))
    assert (await subject.minute(budget)).remaining == 72


async def test_requests_count_one_each_and_come_back_with_a_void(subject: Subject) -> None:
    two = limit(2, measure=Measure.REQUESTS)
    await subject.reserve(want("a", two))
    await subject.reserve(want("b", two))
    refusal = await subject.refused(want("c", two))
    assert (refusal.needed, refusal.retry_after) == (1, 44_750)
    await subject.ledger.settle(ORG, HoldId("a"), used(1))
    await subject.refused(want("c", two))
    await subject.ledger.void(ORG, HoldId("b"), reason="x")
    await subject.reserve(want("c", two))
    standing = await subject.minute(two)
    assert (standing.used, standing.held) == (1, 1)


async def test_requests_in_flight_are_held_and_never_used(subject: Subject) -> None:
    one = limit(1, WindowKind.LIFETIME, Measure.CONCURRENT)
    await subject.reserve(want("a", one))
    assert (await subject.refused(want("b", one))).retry_after == 0
    await subject.ledger.settle(ORG, HoldId("a"), used(1), certainty=Certainty.UNKNOWN)
    await subject.reserve(want("b", one, ttl=1000))
    subject.advance(1000)
    await subject.ledger.expire(ORG)
    standing = await subject.minute(one)
    assert (standing.used, standing.held) == (0, 0)


async def test_a_rolling_window_forgets_bucket_by_bucket(subject: Subject) -> None:
    rolling = limit(1000, WindowKind.ROLLING, seconds=60)
    await subject.reserve(want("a", rolling, units=600))
    await subject.pass_time(30_000)
    await subject.reserve(want("b", rolling, units=400))
    refusal = await subject.refused(want("c", rolling, units=700, units_min=700))
    # 600 leave with the second of 12:00:15 at 12:01:16, the rest with that of 12:00:45.
    assert refusal.retry_after == 60_750
    assert refusal.standing.resets_at == NOON - NOON % 1000 + 61_000
    sooner = await subject.refused(want("c", rolling, units=600, units_min=600))
    assert sooner.retry_after == 30_750
    await subject.pass_time(30_749)
    await subject.refused(want("c", rolling))
    await subject.pass_time(1)
    assert (await subject.reserve(want("c", rolling, units=1000))).units == 600


async def test_a_late_settle_of_a_bucket_that_left_moves_nothing_that_counts(subject: Subject) -> None:
    rolling = limit(1000, WindowKind.ROLLING, seconds=60)
    await subject.reserve(want("a", rolling, units=600))
    await subject.pass_time(5 * MINUTE)
    await subject.ledger.expire(ORG)
    await subject.ledger.settle(ORG, HoldId("a"), used(900))
    await subject.ledger.expire(ORG)
    assert (await subject.minute(rolling)).used == 0


@pytest.mark.parametrize(
    ("moment", "resets"),
    [
        ((2026, 10, 24, 21, 59), (2026, 10, 24, 22)),
        ((2026, 10, 24, 22), (2026, 10, 25, 23)),
        ((2027, 3, 28, 21, 59), (2027, 3, 28, 22)),
    ],
)
async def test_a_day_ends_at_its_zones_midnight(
    subject: Subject, moment: tuple[int, ...], resets: tuple[int, ...]
) -> None:
    def unix_ms(parts: tuple[int, ...]) -> int:
        return int(datetime(*parts, tzinfo=UTC).timestamp() * 1000)  # type: ignore[arg-type,misc]  # star

    subject.clock.now_ms = subject.witness.now_ms = unix_ms(moment)
    daily = limit(10, WindowKind.DAY, zone=BERLIN)
    await subject.reserve(want("h", daily, units=10))
    assert (await subject.refused(want("i", daily))).retry_after == unix_ms(resets) - unix_ms(moment)
    assert (await subject.minute(daily)).span == "day@Europe/Berlin"


async def test_burst_spends_what_the_minute_before_left(subject: Subject) -> None:
    bursty = limit(100, burst=30)
    assert (await subject.reserve(want("a", bursty, units=500))).units == 130
    await subject.ledger.settle(ORG, HoldId("a"), used(80))
    await subject.pass_time(MINUTE)
    assert (await subject.minute(bursty)).limit == 120
    await subject.pass_time(MINUTE)
    assert (await subject.minute(bursty)).limit == 130


async def test_soft_and_shadow_limits_refuse_nothing_and_are_told(subject: Subject) -> None:
    told = of(
        "org",
        Window(kind=WindowKind.MINUTE, limit=10, enforcement=Enforcement.SOFT),
        Window(kind=WindowKind.HOUR, limit=20, enforcement=Enforcement.SHADOW),
    )
    below = await subject.reserve(want("a", told, units=10))
    above = await subject.reserve(want("b", told, units=100))
    assert (below.over, below.tightest, above.units) == ((), {}, 100)
    assert [(one.span, one.held, one.limit) for one in above.over] == [("minute", 110, 10)]
    assert (await subject.reserve(want("b", told))).over == above.over
    entries = await subject.outbox()
    assert "d.soft_over" not in entries[0]
    assert (entries[1]["d.soft_over"], entries[1]["d.shadow_over"]) == ("org|minute", "org|hour")


async def test_a_window_that_a_newer_policy_adds_counts_from_then_on(subject: Subject) -> None:
    await subject.reserve(want("a", account(minute=1000), units=400))
    wider = of("org", *account(minute=1000).windows, Window(kind=WindowKind.DAY, limit=500))
    grant = await subject.reserve(want("b", wider, units=600, version=2))
    assert grant.units == 500
    await subject.ledger.void(ORG, HoldId("a"), reason="x")
    gone = await subject.reserve(want("c", account(minute=1000), units=600, version=3))
    assert gone.units == 500
    assert len(await subject.ledger.standing(ORG, (of("org"),))) == 2
    back = await subject.refused(want("d", wider, version=4))
    assert (back.standing.span, back.standing.held) == ("day", 500)


def change(kind: AdjustmentKind, account: Account, name: str = "a1", **named: object) -> Adjustment:
    """By somebody, for a reason."""
    return Adjustment(
        id=HoldId(name),
        kind=kind,
        account=account,
        actor="ops",
        reason="asked for",
        **named,  # type: ignore[arg-type]
    )


async def test_an_operators_limit_lies_over_the_policys(subject: Subject) -> None:
    await subject.reserve(want("a", account(minute=1000), units=600))
    raised = await subject.ledger.adjust(ORG, change(AdjustmentKind.SET, limit(5000)))
    assert [one.limit for one in raised] == [5000, -1]
    assert (await subject.reserve(want("b", account(minute=700), units=4000, version=9))).units == 4000
    event = (await subject.outbox())[1]
    assert (event["type"], event["verdict"], event["reason"]) == ("budget.adjusted", "set", "asked for")
    assert (event["c.actor"], event["c.limit_before"], event["c.limit_after"]) == ("ops", "1000", "5000")
    reset = await subject.ledger.adjust(ORG, change(AdjustmentKind.RESET, limit(0), "a2"))
    assert (reset[0].limit, reset[0].remaining) == (700, 0)


async def test_a_top_up_is_for_this_window_and_once(subject: Subject) -> None:
    await subject.reserve(want("a", account(minute=100), units=100))
    for _ in range(2):
        stands = await subject.ledger.adjust(ORG, change(AdjustmentKind.TOP_UP, limit(50)))
        assert stands[0].limit == 150
    assert (await subject.reserve(want("b", account(minute=100), units=100))).units == 50
    await subject.pass_time(MINUTE)
    assert (await subject.minute(account())).limit == 100
    with pytest.raises(ValueError, match="no limit on tokens per hour"):
        await subject.ledger.adjust(ORG, change(AdjustmentKind.TOP_UP, limit(5, WindowKind.HOUR), "a2"))
    assert [entry["type"] for entry in await subject.outbox()].count("budget.adjusted") == 1


async def test_a_frozen_account_grants_nothing_until_it_thaws(subject: Subject) -> None:
    await subject.reserve(want("a", account(minute=100), units=10))
    assert all(
        one.frozen for one in await subject.ledger.adjust(ORG, change(AdjustmentKind.FREEZE, of("org")))
    )
    refusal = await subject.refused(want("b", account(minute=100)))
    assert (refusal.standing.frozen, refusal.standing.account, refusal.retry_after) == (True, "org", 0)
    assert (await subject.outbox())[-1]["reason"] == "org|frozen"
    assert (await subject.ledger.settle(ORG, HoldId("a"), used(5))).first
    await subject.ledger.adjust(ORG, change(AdjustmentKind.UNFREEZE, of("org"), "a2"))
    await subject.reserve(want("b", account(minute=100)))


async def test_so_many_windows_may_be_set_by_hand(subject: Subject) -> None:
    for n in range(16):
        await subject.ledger.adjust(
            ORG, change(AdjustmentKind.SET, limit(5, WindowKind.ROLLING, seconds=n + 1), f"a{n}")
        )
    with pytest.raises(ValueError, match="16 windows set by hand"):
        await subject.ledger.adjust(ORG, change(AdjustmentKind.SET, limit(5), "more"))
    assert await subject.ledger.accounts(ORG) == ["org"]
