"""Windows, expiry and clocks: what a settle after rollover hits, what a leaping clock cannot do."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from gateway.budget.certainty import Certainty
from gateway.budget.ledger import TOMBSTONE_TTL, WINDOW_KEPT, Granted, Outcome
from gateway.budget.window import Window, WindowKind
from gateway.contract.ids import HoldId
from tests.contract.budget.subjects import NOON, ORG, Subject, account, of, used, want

H = HoldId("h")
THOUSAND = account(minute=1000)
HOUR = 3_600_000


def unix_ms(*moment: int) -> int:
    return int(datetime(*moment, tzinfo=UTC).timestamp() * 1000)  # type: ignore[arg-type,misc]  # star into datetime


async def test_expiry_charges_in_full_and_a_late_settle_corrects(subject: Subject) -> None:
    await subject.reserve(want("h", units=300, ttl=30_000))
    await subject.reserve(want("i", units=200, ttl=20_000))
    await subject.reserve(want("later", units=50, ttl=600_000))
    assert list(await subject.ledger.expire(ORG)) == []
    subject.advance(30_000)
    assert list(await subject.ledger.expire(ORG, holds_max=1)) == ["i"]
    assert list(await subject.ledger.expire(ORG)) == ["h"]
    standing = await subject.minute(THOUSAND)
    assert (standing.used, standing.held) == (500, 50)
    blind = await subject.ledger.settle(ORG, H, used(0), certainty=Certainty.UNKNOWN)
    assert (blind.outcome, blind.first, blind.posted.tokens) == (Outcome.EXPIRED, False, 300)
    assert (await subject.ledger.void(ORG, H, reason="late")).outcome is Outcome.EXPIRED
    down = await subject.ledger.settle(ORG, H, used(10))
    up = await subject.ledger.settle(ORG, HoldId("i"), used(230))
    assert (down.outcome, down.first, down.posted.tokens, down.overdraft) == (Outcome.CORRECTED, True, 10, 0)
    assert (up.outcome, up.first, up.posted.tokens, up.overdraft) == (Outcome.CORRECTED, True, 230, 30)
    assert not (await subject.ledger.settle(ORG, H, used(11))).first
    standing = await subject.minute(THOUSAND)
    assert (standing.used, standing.held) == (240, 50)


async def test_an_overdue_hold_that_nobody_swept_settles_as_usual(subject: Subject) -> None:
    await subject.reserve(want("h", units=300, ttl=1_000))
    subject.advance(2_000)
    assert (await subject.ledger.settle(ORG, H, used(10))).outcome is Outcome.POSTED
    assert list(await subject.ledger.expire(ORG)) == []


async def test_a_settle_after_rollover_posts_to_the_window_of_its_reserve(subject: Subject) -> None:
    limited = account(minute=1000, month=10_000)
    await subject.reserve(want("h", limited, units=900))
    await subject.pass_time(50_000)
    fresh = await subject.reserve(want("i", limited, units=1000))
    assert fresh.units == 1000
    await subject.ledger.settle(ORG, H, used(100))
    minute, month = await subject.ledger.standing(ORG, (limited,))
    assert (minute.used, minute.held) == (0, 1000)
    assert (month.used, month.held) == (100, 1000)
    settled = (await subject.outbox())[-1]
    assert settled["accounts"].split()[0] == f"org|minute|{NOON - NOON % 60_000}"


async def test_resolved_holds_are_remembered_for_a_day(subject: Subject) -> None:
    await subject.reserve(want("h"))
    await subject.ledger.settle(ORG, H, used(1))
    await subject.pass_time(TOMBSTONE_TTL - 1)
    assert (await subject.ledger.settle(ORG, H, used(1))).outcome is Outcome.POSTED
    await subject.pass_time(1)
    assert (await subject.ledger.settle(ORG, H, used(1))).outcome is Outcome.UNKNOWN
    assert isinstance(await subject.ledger.reserve(want("h")), Granted)


async def test_a_correction_finds_its_window_however_late_the_sweep_was(subject: Subject) -> None:
    await subject.reserve(want("h", units=300))
    await subject.pass_time(3 * WINDOW_KEPT)
    assert list(await subject.ledger.expire(ORG)) == [H]
    await subject.ledger.expire(ORG)
    await subject.pass_time(TOMBSTONE_TTL - 1)
    await subject.ledger.expire(ORG)
    assert (await subject.ledger.settle(ORG, H, used(5))).outcome is Outcome.CORRECTED


@pytest.mark.parametrize(
    ("now", "resets"),
    [
        ((2026, 1, 31, 23, 59, 59), (2026, 2, 1)),
        ((2026, 2, 1), (2026, 3, 1)),
        ((2027, 12, 31, 23, 59, 59), (2028, 1, 1)),
        ((2028, 2, 29, 12), (2028, 3, 1)),
        ((2028, 3, 1), (2028, 4, 1)),
        ((2100, 2, 28, 23, 59, 59), (2100, 3, 1)),
        ((2400, 2, 29), (2400, 3, 1)),
        ((1970, 1, 1), (1970, 2, 1)),
    ],
)
async def test_months(subject: Subject, now: tuple[int, ...], resets: tuple[int, ...]) -> None:
    subject.clock.now_ms = subject.witness.now_ms = unix_ms(*now)
    minute, month = await subject.ledger.standing(ORG, (account(),))
    assert month.resets_at == unix_ms(*resets)
    assert minute.resets_at == unix_ms(*now) // 60_000 * 60_000 + 60_000


async def test_the_month_rolls(subject: Subject) -> None:
    monthly = account(month=1000)
    subject.clock.now_ms = subject.witness.now_ms = unix_ms(2026, 12, 31, 23, 59, 59)
    await subject.reserve(want("h", monthly, units=1000))
    refusal = await subject.refused(want("i", monthly))
    assert refusal.retry_after == 1000
    await subject.pass_time(999)
    await subject.refused(want("i", monthly))
    await subject.pass_time(1)
    assert (await subject.reserve(want("i", monthly, units=1000))).units == 1000


async def test_a_store_clock_that_leaps_alone_rolls_no_window(subject: Subject) -> None:
    monthly = account(month=1000)
    await subject.reserve(want("h", monthly, units=1000, ttl=HOUR))
    subject.clock.advance_ms(40 * 24 * HOUR)
    for _ in range(5):
        assert await subject.ledger.tick(ORG) <= NOON + 120_000
        await subject.refused(want("i", monthly))
        assert list(await subject.ledger.expire(ORG)) == []
    subject.witness.advance_ms(40 * 24 * HOUR)
    assert await subject.ledger.tick(ORG) == NOON + 40 * 24 * HOUR
    assert list(await subject.ledger.expire(ORG)) == [H]
    await subject.reserve(want("i", monthly, units=1000))


async def test_without_confirmation_time_goes_a_minute_further_at_most(subject: Subject) -> None:
    await subject.reserve(want("h", units=1000))
    subject.advance(2 * HOUR)
    grant = await subject.reserve(want("i", units=1000))
    assert grant.expires_at == NOON + 60_000 + 15 * 60_000
    await subject.refused(want("j"))


async def test_time_never_goes_back(subject: Subject) -> None:
    await subject.reserve(want("h", units=1000))
    await subject.pass_time(60_000)
    subject.advance(-HOUR)
    assert await subject.ledger.tick(ORG) == NOON + 60_000
    await subject.reserve(want("i", units=1000))
    await subject.refused(want("j"))


async def test_a_leap_that_returns_between_two_ticks_grants_nothing_twice(subject: Subject) -> None:
    rolling = of("org", Window(kind=WindowKind.ROLLING, limit=1000, seconds=60))
    await subject.reserve(want("h", rolling, units=400))
    subject.clock.advance_ms(59_000)
    ahead = await subject.reserve(want("i", rolling, units=1000))
    subject.clock.advance_ms(-59_000)
    assert ahead.units == 600
    await subject.refused(want("j", rolling))
    assert (await subject.minute(rolling)).held == 1000


async def test_looking_moves_no_time(subject: Subject) -> None:
    """Nor does telling the store a zone, which looking may need."""
    await subject.reserve(want("h"))
    subject.clock.advance_ms(999)
    await subject.ledger.standing(
        ORG, (of("key/k", Window(kind=WindowKind.DAY, limit=1, zone="Asia/Tokyo")),)
    )
    subject.clock.advance_ms(-999)
    assert await subject.ledger.tick(ORG) == NOON
