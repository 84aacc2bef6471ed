"""What random histories are made of: few names and few numbers, so that they meet."""

from __future__ import annotations

from typing import Any, Final

from hypothesis import strategies as st

from gateway.budget.ledger import Adjustment, AdjustmentKind
from gateway.budget.measure import FREE, Amounts, Measure, Price
from gateway.budget.window import UNLIMITED, Account, Enforcement, Window, WindowKind
from gateway.contract.ids import HoldId
from gateway.contract.units import MicroUsd
from tests.contract.budget.subjects import NOON, account, of

SECOND: Final = 1_000
MINUTE: Final = 60_000
HOUR: Final = 60 * MINUTE
DAY: Final = 24 * HOUR
BERLIN: Final = "Europe/Berlin"
BEGINNINGS: Final = (
    NOON,
    1_792_879_190_000,  # 2026-10-24 21:59:50 UTC: Berlin's day of 25 hours begins in 10 s
    1_806_188_390_000,  # 2027-03-27 22:59:50 UTC: Berlin's day of 23 hours begins in 10 s
    1_798_757_999_500,  # 2026-12-31 22:59:59.500 UTC: Berlin's year ends in half a second
)
"""Where histories start."""

holds = st.sampled_from([HoldId(f"h{n}") for n in range(6)])
leases = st.sampled_from([HoldId(f"l{n}") for n in range(3)])
tokens = st.one_of(st.integers(0, 40), st.integers(0, 1200))
limits = st.sampled_from([UNLIMITED, 0, 7, 100, 100, 1000, 1000])
enforcements = st.sampled_from([Enforcement.HARD] * 4 + [Enforcement.SOFT, Enforcement.SHADOW])
amounts = st.builds(Amounts.of, st.integers(0, 60), st.integers(0, 300), micro_usd=st.integers(0, 90))
draws = st.builds(Amounts.of, st.integers(0, 6), st.integers(0, 9), micro_usd=st.integers(0, 3))
"""Small: a lease pays a few."""
prices = st.sampled_from([FREE, Price(prompt=250_000, completion=1_500_000, request=MicroUsd(3))])

_SHAPES: Final[tuple[dict[str, Any], ...]] = (
    {"kind": WindowKind.MINUTE},
    {"kind": WindowKind.MONTH},
    {"kind": WindowKind.MINUTE, "burst": 500},
    {"kind": WindowKind.HOUR},
    {"kind": WindowKind.HOUR, "burst": 60},
    {"kind": WindowKind.DAY},
    {"kind": WindowKind.DAY, "zone": BERLIN},
    {"kind": WindowKind.MONTH, "zone": BERLIN},
    {"kind": WindowKind.ROLLING, "seconds": 60},
    {"kind": WindowKind.ROLLING, "seconds": 3700},
    {"kind": WindowKind.LIFETIME},
)


@st.composite
def windows(draw: st.DrawFn) -> Window:
    """Any window."""
    measure = draw(st.sampled_from([Measure.TOKENS] * 4 + list(Measure)))
    limit = draw(limits)
    if measure is Measure.CONCURRENT:
        return Window(
            kind=WindowKind.LIFETIME, measure=measure, limit=min(limit, 3), enforcement=draw(enforcements)
        )
    shape = dict(draw(st.sampled_from(_SHAPES)))
    if limit == UNLIMITED:
        shape.pop("burst", None)
    if measure is Measure.REQUESTS and limit > 0:
        limit = 3
    return Window(measure=measure, limit=limit, enforcement=draw(enforcements), **shape)


lists = st.lists(windows(), max_size=3, unique_by=lambda window: window.name).map(tuple)
accounts = st.one_of(
    st.tuples(
        st.builds(lambda minute, month: account("org", minute=minute, month=month), limits, limits),
        st.builds(
            lambda name, minute: account(name, minute=minute), st.sampled_from(["key/a", "key/b"]), limits
        ),
    ),
    st.tuples(
        st.builds(lambda held: of("org", *held), lists),
        st.builds(lambda name, held: of(name, *held), st.sampled_from(["key/a", "team/t", "model/m"]), lists),
    ),
)
names = st.sampled_from(["org", "org", "key/a", "team/t"])
moves = st.sampled_from(
    [1, 999, 5 * SECOND, 20 * SECOND, MINUTE, 16 * MINUTE, HOUR, 25 * HOUR, 31 * DAY, -5 * MINUTE]
)


@st.composite
def adjustments(draw: st.DrawFn) -> Adjustment:
    """Any change of a budget."""
    kind = draw(
        st.sampled_from(
            [AdjustmentKind.SET, AdjustmentKind.TOP_UP, AdjustmentKind.RESET] * 2 + list(AdjustmentKind)
        )
    )
    bare = kind in (AdjustmentKind.FREEZE, AdjustmentKind.UNFREEZE)
    window = draw(windows().filter(lambda one: kind is not AdjustmentKind.TOP_UP or one.limit >= 0))
    policy: tuple[Window, ...] = draw(st.one_of(st.just(()), lists))
    return Adjustment(
        id=HoldId(draw(st.sampled_from(["a0", "a1", "a2", "a3"]))),
        kind=kind,
        account=Account(id=of(draw(names)).id, windows=() if bare else (window,)),
        actor="root",
        reason="test",
        policy_windows=policy,
        policy_version=draw(st.integers(1, 3)),
    )
