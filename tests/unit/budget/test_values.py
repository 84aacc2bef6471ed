"""What the ledger's values refuse, and words that two modules must share."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from gateway.budget import outbox
from gateway.budget.ledger import AMOUNT_MAX, TOMBSTONE_TTL, UNLIMITED, Account, Standing, Window, WindowKind
from gateway.budget.memory_ledger import MemoryLedger
from gateway.contract.clock import ManualClock
from gateway.contract.errors import LedgerEmptied
from gateway.contract.ids import AccountId
from gateway.contract.units import TOKENS_MAX, Tokens, UnixMillis
from gateway.events.event import EventType
from tests.contract.budget.subjects import ORG, account, want


def test_outbox_types_are_event_types() -> None:
    assert {EventType(name).value for name in outbox.LEDGER_TYPES} == {
        kind.value for kind in EventType if kind.value.startswith("hold.")
    }


def test_prefixes_come_off_again() -> None:
    fields = outbox.prefixed(outbox.CONTEXT, {"key": "k"}) | outbox.prefixed(outbox.AMOUNT, {"held": "1"})
    assert fields == {"c.key": "k", "a.held": "1"}
    assert outbox.unprefixed(outbox.CONTEXT, fields) == {"key": "k"}


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
        lambda: Account(id=AccountId("org"), windows=()),
        lambda: Account(id=AccountId("org"), windows=(Window(kind=WindowKind.MINUTE, limit=Tokens(1)),) * 2),
    ],
)
def test_what_a_ledger_could_not_keep_exactly_is_no_value(make: Callable[[], object]) -> None:
    with pytest.raises(ValueError, match=r"hold|account|amount|limit"):
        make()


def test_remaining_is_never_negative() -> None:
    def remaining(limit: int) -> int:
        return Standing(
            account=AccountId("org"),
            kind=WindowKind.MINUTE,
            limit=Tokens(limit),
            used=Tokens(30),
            held=Tokens(20),
            resets_at=UnixMillis(0),
        ).remaining

    assert (remaining(60), remaining(40), remaining(UNLIMITED)) == (10, 0, UNLIMITED)


async def test_a_memory_ledger_can_be_emptied() -> None:
    ledger = MemoryLedger(ManualClock())
    await ledger.note(ORG, "cache.hit", {})
    ledger.lose_everything()
    for ask in (ledger.orgs, lambda: ledger.tick(ORG), lambda: ledger.found_epoch(fresh=False)):
        with pytest.raises(LedgerEmptied):
            await ask()
    await ledger.found_epoch(fresh=True)
    assert await ledger.orgs() == []
