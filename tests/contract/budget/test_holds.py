"""Holds: granted on all accounts or on none, clamped, counted once, resolved once."""

from __future__ import annotations

import asyncio

import pytest

from gateway.budget.certainty import Certainty
from gateway.budget.ledger import Granted, Outcome, Refused
from gateway.budget.measure import AMOUNT_MAX, Measure
from gateway.budget.window import UNLIMITED, WindowKind
from gateway.contract.ids import HoldId, OrgId
from gateway.contract.units import TOKENS_MAX
from tests.contract.budget.subjects import NOON, ORG, TTL, Subject, account, used, want

H = HoldId("h")
THOUSAND = account(minute=1000)


async def test_a_hold_counts_on_every_window_of_every_account(subject: Subject) -> None:
    accounts = (account("org", minute=1000, month=5000), account("key/k1", minute=400))
    grant = await subject.reserve(want("h", *accounts, fixed=30, units=50, choices=2))
    assert (grant.amounts.tokens, grant.units, grant.repeated, grant.policy_conflict) == (
        130,
        50,
        False,
        False,
    )
    assert grant.expires_at == NOON + TTL
    assert (
        grant.tightest[Measure.TOKENS].account,
        grant.tightest[Measure.TOKENS].kind,
        grant.tightest[Measure.TOKENS].remaining,
    ) == (
        "key/k1",
        "minute",
        270,
    )
    standings = await subject.ledger.standing(ORG, accounts)
    assert [
        (found.account, found.kind.value, found.limit, found.used, found.held) for found in standings
    ] == [
        ("org", "minute", 1000, 0, 130),
        ("org", "month", 5000, 0, 130),
        ("key/k1", "minute", 400, 0, 130),
        ("key/k1", "month", UNLIMITED, 0, 130),
    ]


async def test_all_or_none(subject: Subject) -> None:
    org, key = account("org", minute=1000), account("key/k1", minute=10)
    refusal = await subject.refused(want("h", org, key, fixed=20))
    assert (refusal.standing.account, refusal.standing.remaining, refusal.needed) == ("key/k1", 10, 21)
    assert refusal.retry_after == 44_750
    assert [found.held for found in await subject.ledger.standing(ORG, (org, key))] == [0, 0, 0, 0]


async def test_units_are_lowered_to_what_every_account_can_pay(subject: Subject) -> None:
    grant = await subject.reserve(
        want("h", account(minute=1000), account("key/k", minute=107), fixed=10, units=500, choices=3)
    )
    assert (grant.units, grant.amounts.tokens, grant.tightest[Measure.TOKENS].remaining) == (32, 106, 1)


async def test_a_hold_of_nothing_is_granted_when_nothing_is_left(subject: Subject) -> None:
    await subject.reserve(want("h", THOUSAND, fixed=1000, units=0))
    grant = await subject.reserve(want("free", THOUSAND, fixed=0, units=0, units_min=16))
    assert (grant.amounts.tokens, grant.units, grant.tightest[Measure.TOKENS].remaining) == (0, 0, 0)
    settled = await subject.ledger.settle(ORG, HoldId("free"), used(0))
    assert (settled.outcome, settled.posted.tokens, settled.overdraft) == (Outcome.POSTED, 0, 0)


@pytest.mark.parametrize(("units_min", "granted"), [(32, True), (33, False)])
async def test_below_the_minimum_it_is_refused(subject: Subject, units_min: int, granted: bool) -> None:
    request = want("h", account(minute=107), fixed=10, units=500, choices=3, units_min=units_min)
    answer = await subject.ledger.reserve(request)
    assert isinstance(answer, Granted if granted else Refused)


async def test_a_minimum_above_what_is_wanted_asks_for_no_more_than_that(subject: Subject) -> None:
    grant = await subject.reserve(want("h", account(minute=8), units=8, units_min=16))
    assert grant.units == 8


async def test_the_window_that_resets_last_speaks_for_a_refusal(subject: Subject) -> None:
    refusal = await subject.refused(want("h", account(minute=1, month=5), fixed=10))
    assert refusal.standing.kind is WindowKind.MONTH
    assert refusal.retry_after > 60_000


async def test_prompt_only_requests(subject: Subject) -> None:
    exact = account(minute=40)
    assert (await subject.reserve(want("h", exact, fixed=40, units=0, units_min=0))).amounts.tokens == 40
    assert (await subject.refused(want("i", exact, fixed=1, units=0, units_min=0))).needed == 1


async def test_the_same_id_holds_once_and_gets_the_same_grant(subject: Subject) -> None:
    first = await subject.reserve(want("h", units=300))
    await subject.reserve(want("other", units=100))
    again = await subject.reserve(want("h", units=900, fixed=7))
    assert again.repeated
    assert (again.amounts.tokens, again.units, again.tightest, again.expires_at) == (
        first.amounts.tokens,
        first.units,
        first.tightest,
        first.expires_at,
    )
    assert (await subject.minute(THOUSAND)).held == 400
    assert [entry["type"] for entry in await subject.outbox()] == ["hold.granted", "hold.granted"]


async def test_a_resolved_id_cannot_hold_again(subject: Subject) -> None:
    await subject.reserve(want("h"))
    await subject.ledger.void(ORG, H, reason="test")
    with pytest.raises(ValueError, match="already voided"):
        await subject.ledger.reserve(want("h"))


async def test_settle_posts_what_was_used_once(subject: Subject) -> None:
    await subject.reserve(want("h", units=300))
    first = await subject.ledger.settle(ORG, H, used(120))
    again = await subject.ledger.settle(ORG, H, used(7))
    voided = await subject.ledger.void(ORG, H, reason="late")
    assert (first.outcome, first.first, first.posted.tokens, first.overdraft) == (
        Outcome.POSTED,
        True,
        120,
        0,
    )
    for later in (again, voided):
        assert (later.outcome, later.first, later.posted.tokens) == (Outcome.POSTED, False, 120)
    standing = await subject.minute(THOUSAND)
    assert (standing.used, standing.held) == (120, 0)


async def test_more_used_than_held_is_posted_in_full(subject: Subject) -> None:
    await subject.reserve(want("h", units=900))
    found = await subject.ledger.settle(ORG, H, used(1100))
    assert (found.posted.tokens, found.overdraft) == (1100, 200)
    assert (await subject.ledger.settle(ORG, H, used(1))).overdraft == 200
    standing = await subject.minute(THOUSAND)
    assert (standing.used, standing.remaining) == (1100, 0)
    await subject.refused(want("i", units=1))


async def test_void_releases(subject: Subject) -> None:
    await subject.reserve(want("h", units=1000))
    found = await subject.ledger.void(ORG, H, reason="4xx")
    assert (found.outcome, found.first, found.posted.tokens) == (Outcome.VOIDED, True, 0)
    late = await subject.ledger.settle(ORG, H, used(5))
    assert (late.outcome, late.first, late.posted.tokens) == (Outcome.VOIDED, False, 0)
    assert (await subject.minute(THOUSAND)).remaining == 1000


async def test_nothing_seen_costs_the_whole_hold_until_somebody_knows(subject: Subject) -> None:
    await subject.reserve(want("h", units=300))
    blind = await subject.ledger.settle(ORG, H, used(0), certainty=Certainty.UNKNOWN)
    assert (blind.outcome, blind.posted.tokens) == (Outcome.POSTED, 300)
    assert not (await subject.ledger.settle(ORG, H, used(0), certainty=Certainty.UNKNOWN)).first
    known = await subject.ledger.settle(ORG, H, used(40))
    assert (known.outcome, known.first, known.posted.tokens) == (Outcome.CORRECTED, True, 40)
    assert not (await subject.ledger.settle(ORG, H, used(50))).first
    assert (await subject.minute(THOUSAND)).used == 40


@pytest.mark.parametrize("known", Certainty)
@pytest.mark.parametrize("told", Certainty)
async def test_only_who_knows_more_corrects(subject: Subject, known: Certainty, told: Certainty) -> None:
    await subject.reserve(want("h", units=300))
    first = await subject.ledger.settle(ORG, H, used(40), certainty=known)
    assert (first.outcome, first.first) == (Outcome.POSTED, True)
    charged = 300 if known is Certainty.UNKNOWN else 40
    again = await subject.ledger.settle(ORG, H, used(50), certainty=told)
    corrected = (Outcome.CORRECTED, True, 50)
    expected = corrected if told > known else (Outcome.POSTED, False, charged)
    assert (again.outcome, again.first, again.posted.tokens) == expected
    assert (await subject.minute(THOUSAND)).used == again.posted.tokens


async def test_from_expiry_over_what_was_seen_to_the_truth(subject: Subject) -> None:
    """Each step is the difference to the last, and void comes too late for all of them."""
    await subject.reserve(want("h", units=300, ttl=1))
    await subject.pass_time(1)
    assert list(await subject.ledger.expire(ORG)) == [H]
    for certainty, tokens in ((Certainty.PROVISIONAL, 11), (Certainty.EXACT, 13)):
        corrected = await subject.ledger.settle(ORG, H, used(tokens), certainty=certainty)
        assert (corrected.outcome, corrected.first, corrected.posted.tokens) == (
            Outcome.CORRECTED,
            True,
            tokens,
        )
        assert not (await subject.ledger.void(ORG, H, reason="late")).first
        assert (await subject.minute(THOUSAND)).used == tokens
    assert not (await subject.ledger.settle(ORG, H, used(99))).first


async def test_an_unknown_hold_changes_nothing(subject: Subject) -> None:
    for found in (
        await subject.ledger.settle(ORG, HoldId("nobody"), used(5)),
        await subject.ledger.void(ORG, HoldId("nobody"), reason="x"),
    ):
        assert (found.outcome, found.first, found.posted.tokens) == (Outcome.UNKNOWN, False, 0)
    assert await subject.outbox() == []


async def test_64_at_once_never_hold_more_than_there_is(subject: Subject) -> None:
    answers = await asyncio.gather(
        *(subject.ledger.reserve(want(f"h{n}", THOUSAND, fixed=7, units=41, units_min=5)) for n in range(64))
    )
    granted = [answer for answer in answers if isinstance(answer, Granted)]
    assert 1000 - 12 < sum(grant.amounts.tokens for grant in granted) <= 1000
    assert (await subject.minute(THOUSAND)).held == sum(grant.amounts.tokens for grant in granted)


async def test_64_tries_of_one_request_hold_once(subject: Subject) -> None:
    await asyncio.gather(*(subject.ledger.reserve(want("h", units=9)) for _ in range(64)))
    resolved = await asyncio.gather(*(subject.ledger.settle(ORG, H, used(n)) for n in range(64)))
    assert sum(found.first for found in resolved) == 1
    assert len({found.posted.tokens for found in resolved}) == 1
    assert len(await subject.outbox()) == 2


async def test_largest_numbers_stay_exact(subject: Subject) -> None:
    most = account(minute=TOKENS_MAX, month=TOKENS_MAX)
    for n in range(3):
        grant = await subject.reserve(want(f"h{n}", most, fixed=AMOUNT_MAX - 2, units=1))
        assert grant.amounts.tokens == AMOUNT_MAX - 1
        await subject.ledger.settle(ORG, HoldId(f"h{n}"), used(AMOUNT_MAX))
    standing = await subject.minute(most)
    assert (standing.limit, standing.used) == (TOKENS_MAX, 3 * AMOUNT_MAX)
    assert standing.remaining == TOKENS_MAX - 3 * AMOUNT_MAX
    assert (await subject.outbox())[-1]["a.used"] == str(AMOUNT_MAX)


async def test_orgs_do_not_meet(subject: Subject) -> None:
    other = OrgId("beta")
    await subject.reserve(want("h", units=1000))
    assert (await subject.reserve(want("h", units=1000, org=other))).units == 1000
    await subject.ledger.void(other, H, reason="x")
    assert (await subject.minute(THOUSAND)).held == 1000
    assert await subject.ledger.orgs() == [ORG, other]
