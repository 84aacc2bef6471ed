"""What the ledger's values refuse, and words that two modules must share."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from gateway.budget import outbox
from gateway.budget.calendar import window_bounds, zone_offsets
from gateway.budget.ledger import (
    DRAWS_MAX,
    TOMBSTONE_TTL,
    Adjustment,
    AdjustmentKind,
    Draw,
    check_draws,
)
from gateway.budget.measure import AMOUNT_MAX, PRICE_MAX, Amounts, Measure, Price
from gateway.budget.memory_ledger import MemoryLedger
from gateway.budget.window import (
    UNLIMITED,
    Enforcement,
    Standing,
    Window,
    WindowKind,
    window_id,
)
from gateway.contract.clock import ManualClock
from gateway.contract.errors import LedgerEmptied
from gateway.contract.ids import AccountId, HoldId
from gateway.contract.units import TOKENS_MAX, MicroUsd, Tokens, UnixMillis
from gateway.events.event import EventType
from tests.contract.budget.subjects import ORG, account, lend, of, want

MINUTE = WindowKind.MINUTE


def test_outbox_types_are_event_types() -> None:
    assert {EventType(name).value for name in outbox.LEDGER_TYPES} == {
        kind.value for kind in EventType if kind.value.startswith(("hold.", "lease.", "budget."))
    }


def test_prefixes_come_off_again() -> None:
    fields = outbox.prefixed(outbox.CONTEXT, {"key": "k"}) | outbox.prefixed(outbox.AMOUNT, {"held": "1"})
    assert fields == {"c.key": "k", "a.held": "1"}
    assert outbox.unprefixed(outbox.CONTEXT, fields) == {"key": "k"}


SOME = Amounts(tokens=Tokens(9), prompt_tokens=Tokens(2), completion_tokens=Tokens(3), micro_usd=MicroUsd(4))


def test_amounts_are_read_as_they_were_written() -> None:
    assert (SOME.numbers(), SOME.text()) == ((9, 2, 3, 4), "9,2,3,4")
    assert (Amounts.of_numbers([9, 2, 3, 4]), Amounts.of_text("9,2,3,4")) == (SOME, SOME)
    for amounts in (SOME, Amounts(tokens=Tokens(9)), Amounts()):
        counts = outbox.amounts("held", amounts)
        assert outbox.amounts_of("held", {name: str(count) for name, count in counts.items()}) == amounts
    assert outbox.amounts_of("used", {"held": "9"}) == outbox.amounts_of("held", None) == Amounts()


@pytest.mark.parametrize("text", ["", "1,2,3", "1,2,3,4,5", "1,2,3,x", "1,2,3,-4", f"1,2,3,{AMOUNT_MAX + 1}"])
def test_what_are_not_four_amounts_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"invalid literal|not enough|too many|micro_usd: must be 0 to"):
        Amounts.of_text(text)


def test_numbers_must_be_numbers() -> None:
    with pytest.raises(TypeError):
        Amounts.of_numbers("1234")  # type: ignore[arg-type]  # what a spool's line may hold


@pytest.mark.parametrize(
    "make",
    [
        lambda: want("h", fixed=-1),
        lambda: want("h", choices=0),
        lambda: want("h", units=AMOUNT_MAX, fixed=1),
        lambda: want("h", ttl=0),
        lambda: want("h", ttl=TOMBSTONE_TTL + 1),
        lambda: want("h", version=-1),
        lambda: want("h h"),
        lambda: want("h", account("org"), account("org")),
        lambda: account("org|x"),
        lambda: account("ORG"),
        lambda: account(minute=-2),
        lambda: account(minute=TOKENS_MAX + 1),
        lambda: of("org", *(Window(kind=MINUTE, limit=1),) * 2),
        lambda: want("h", price=Price(completion=PRICE_MAX), units=AMOUNT_MAX // 2),
        lambda: lend("l", share=0),
        lambda: lend("l", requests=0),
        lambda: lend("l", ttl=0),
    ],
)
def test_what_a_ledger_could_not_keep_exactly_is_no_value(make: Callable[[], object]) -> None:
    with pytest.raises(ValueError, match=r"hold|account|tokens|limit|ttl|price|lease|policy_version"):
        make()


@pytest.mark.parametrize(
    "shape",
    [
        {"kind": MINUTE, "zone": "Europe/Berlin"},
        {"kind": WindowKind.DAY, "zone": "Europe Berlin"},
        {"kind": MINUTE, "seconds": 60},
        {"kind": WindowKind.ROLLING},
        {"kind": WindowKind.ROLLING, "seconds": 32 * 24 * 3600},
        {"kind": WindowKind.DAY, "burst": 1},
        {"kind": MINUTE, "burst": 1, "limit": UNLIMITED},
        {"kind": MINUTE, "measure": Measure.CONCURRENT},
    ],
)
def test_a_window_is_of_one_kind(shape: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"zone|seconds|burst|concurrent"):
        Window(**{"limit": 5, **shape})


@pytest.mark.parametrize(
    ("kind", "windows", "words"),
    [
        (AdjustmentKind.SET, 0, {}),
        (AdjustmentKind.FREEZE, 1, {}),
        (AdjustmentKind.SET, 1, {"actor": ""}),
        (AdjustmentKind.SET, 1, {"reason": "x" * 501}),
        (AdjustmentKind.TOP_UP, 1, {}),
    ],
)
def test_an_adjustment_says_what_and_why(kind: AdjustmentKind, windows: int, words: dict[str, Any]) -> None:
    changed = of("org", *(Window(kind=MINUTE, limit=UNLIMITED),) * windows)
    with pytest.raises(ValueError, match=r"window|actor|amount"):
        Adjustment(id=HoldId("a"), kind=kind, account=changed, **{"actor": "root", "reason": "x", **words})


def test_draws_are_of_one_lease_and_not_too_many() -> None:
    draw = Draw(
        lease=HoldId("l"),
        windows=(),
        hold=HoldId("h"),
        amounts=Amounts(),
        units=Tokens(0),
        expires_at=UnixMillis(0),
        policy_version=1,
    )
    check_draws(HoldId("l"), [draw] * DRAWS_MAX)
    for lease, draws in (("l", [draw] * (DRAWS_MAX + 1)), ("other", [draw])):
        with pytest.raises(ValueError, match="draw"):
            check_draws(HoldId(lease), draws)


def test_remaining_is_never_negative() -> None:
    def remaining(limit: int) -> int:
        return Standing(
            account=AccountId("org"),
            measure=Measure.TOKENS,
            span="minute",
            limit=limit,
            used=30,
            held=20,
            resets_at=UnixMillis(0),
        ).remaining

    assert (remaining(60), remaining(40), remaining(UNLIMITED)) == (10, 0, UNLIMITED)


@pytest.mark.parametrize(
    ("window", "span", "start"),
    [
        (Window(kind=MINUTE, limit=1), "minute", "org|minute|7"),
        (Window(kind=WindowKind.DAY, limit=1, zone="Asia/Tokyo"), "day@Asia/Tokyo", "org|day@Asia/Tokyo|7"),
        (
            Window(kind=WindowKind.ROLLING, limit=1, seconds=90, measure=Measure.REQUESTS),
            "rolling-90",
            "org|requests|rolling-90|7",
        ),
        (
            Window(kind=WindowKind.HOUR, limit=9, burst=2, enforcement=Enforcement.SOFT),
            "hour",
            "org|hour|7",
        ),
    ],
)
def test_names_of_windows(window: Window, span: str, start: str) -> None:
    assert window.span == span
    assert window_id(AccountId("org"), window.measure, span, UnixMillis(7)) == start
    assert outbox.window_of(outbox.window_text(window)) == window


def test_money_is_rounded_up_once() -> None:
    price = Price(prompt=250_000, completion=1_500_000, request=MicroUsd(3))
    assert [price.cost(prompt=one, completion=other) for one, other in ((0, 0), (1, 0), (4, 0), (1, 1))] == [
        3,
        4,
        4,
        5,
    ]


def _bounds(kind: WindowKind, zone: str, *moment: int) -> tuple[str, str]:
    now = UnixMillis(int(datetime(*moment, tzinfo=UTC).timestamp() * 1000))  # type: ignore[arg-type,misc]  # star
    bounds = window_bounds(Window(kind=kind, limit=1, zone=zone), now)
    shown = [datetime.fromtimestamp(one / 1000, UTC).isoformat(" ", "minutes")[:16] for one in bounds]
    return shown[0], shown[1]


@pytest.mark.parametrize(
    ("kind", "zone", "moment", "bounds"),
    [
        (WindowKind.DAY, "Europe/Berlin", (2026, 10, 25, 12), ("2026-10-24 22:00", "2026-10-25 23:00")),
        (WindowKind.DAY, "Europe/Berlin", (2027, 3, 28, 0, 59), ("2027-03-27 23:00", "2027-03-28 22:00")),
        (WindowKind.MONTH, "Europe/Berlin", (2026, 10, 1), ("2026-09-30 22:00", "2026-10-31 23:00")),
        (WindowKind.DAY, "Asia/Beirut", (2026, 3, 29, 12), ("2026-03-28 22:00", "2026-03-29 21:00")),
        (WindowKind.DAY, "Asia/Kolkata", (2026, 5, 4, 18, 30), ("2026-05-04 18:30", "2026-05-05 18:30")),
        (WindowKind.MONTH, "America/New_York", (2026, 3, 1, 4), ("2026-02-01 05:00", "2026-03-01 05:00")),
    ],
)
def test_days_and_months_begin_when_their_clocks_say(
    kind: WindowKind, zone: str, moment: tuple[int, ...], bounds: tuple[str, str]
) -> None:
    assert _bounds(kind, zone, *moment) == bounds


def test_a_zone_nobody_knows_is_named() -> None:
    with pytest.raises(ValueError, match="Mars/Olympus"):
        zone_offsets("Mars/Olympus")


async def test_a_memory_ledger_can_be_emptied() -> None:
    ledger = MemoryLedger(ManualClock())
    await ledger.note(ORG, "cache.hit", {})
    ledger.lose_everything()
    for ask in (ledger.orgs, lambda: ledger.tick(ORG), lambda: ledger.found_epoch(fresh=False)):
        with pytest.raises(LedgerEmptied):
            await ask()
    await ledger.found_epoch(fresh=True)
    assert await ledger.orgs() == []
