"""Limits live in the ledger under their policy version; each step appends its event."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.budget.certainty import Certainty
from gateway.budget.measure import Amounts, Measure
from gateway.contract.ids import HoldId, OrgId
from tests.contract.budget.subjects import NOON, ORG, Subject, account, used, want

H = HoldId("h")
MINUTE = f"org|minute|{NOON - NOON % 60_000}"
MONTH = "org|month|1790812800000"


async def test_newer_limits_replace_older_ones_do_not(subject: Subject) -> None:
    await subject.reserve(want("a", account(minute=1000), version=2))
    older = await subject.reserve(want("b", account(minute=5000), version=1))
    assert (older.tightest[Measure.TOKENS].limit, older.policy_conflict) == (1000, False)
    newer = await subject.reserve(want("c", account(minute=3000), version=3))
    assert (newer.tightest[Measure.TOKENS].limit, newer.policy_conflict) == (3000, False)
    assert (await subject.minute(account(minute=7))).limit == 3000


async def test_another_limit_under_the_same_version_is_a_conflict(subject: Subject) -> None:
    await subject.reserve(want("a", account(minute=1000)))
    other = want("b", account(minute=2000))
    grant = await subject.reserve(other)
    assert (grant.tightest[Measure.TOKENS].limit, grant.policy_conflict) == (1000, True)
    assert (await subject.reserve(other)).policy_conflict


async def test_a_refusal_brings_its_limits_too(subject: Subject) -> None:
    await subject.reserve(want("a", account(minute=1000)))
    await subject.refused(want("b", account(minute=50), units=100, version=2))
    assert (await subject.minute(account())).limit == 50


async def test_a_limit_lowered_below_what_is_used_refuses(subject: Subject) -> None:
    await subject.reserve(want("a", account(minute=1000), units=600))
    await subject.ledger.settle(ORG, HoldId("a"), used(600))
    refusal = await subject.refused(want("b", account(minute=500), units=1, version=2))
    assert (refusal.standing.limit, refusal.standing.used, refusal.standing.remaining) == (500, 600, 0)


async def test_a_limit_taken_away_is_still_counted(subject: Subject) -> None:
    await subject.reserve(want("a", account(minute=10), units=10))
    grant = await subject.reserve(want("b", account(), units=100, version=2))
    assert (grant.units, grant.tightest) == (100, {})
    assert (await subject.minute(account())).held == 110


async def test_zero_refuses(subject: Subject) -> None:
    await subject.refused(want("a", account(minute=0), units=1))


def entry(kind: str, verdict: str, **fields: Any) -> dict[str, str]:
    base = {"type": kind, "verdict": verdict, "at_ms": str(NOON), "org": ORG, "hold": "h", "reason": ""}
    base |= {"policy_version": "4", "request_id": "r-1", "accounts": f"{MINUTE} {MONTH}"}
    return base | {"c.request_id": "r-1", "c.model": "m"} | fields


async def test_every_step_appends_its_event(subject: Subject) -> None:
    context = {"request_id": "r-1", "model": "m"}
    limited = account(minute=1000)
    ledger = subject.ledger
    for hold in ("h", "i", "j"):
        await subject.reserve(want(hold, limited, fixed=10, units=90, ttl=1000, version=4, context=context))
    await subject.refused(want("k", limited, fixed=990, units=90, version=4, context=context))
    await ledger.settle(ORG, H, used(40), detail={"finish": "stop"})
    await ledger.void(ORG, HoldId("i"), reason="upstream_4xx")
    subject.advance(1000)
    await ledger.expire(ORG)
    await ledger.settle(ORG, HoldId("j"), used(30))
    await ledger.note(ORG, "cache.hit", {"request_id": "r-2", "key": "k1"})
    later = {"at_ms": str(NOON + 1000)}
    amounts = {"a.held": "100", "a.held_prompt_tokens": "10", "a.held_completion_tokens": "90"}
    charged = {"a.used": "100", "a.used_prompt_tokens": "10", "a.used_completion_tokens": "90"}
    assert await subject.outbox() == [
        entry("hold.granted", "granted", **amounts, **{"a.remaining": "900"}),
        entry("hold.granted", "granted", **amounts, **{"a.remaining": "800", "hold": "i"}),
        entry("hold.granted", "granted", **amounts, **{"a.remaining": "700", "hold": "j"}),
        entry(
            "hold.refused",
            "refused",
            hold="k",
            reason="org|minute",
            accounts=MINUTE,
            **{"a.needed": "991", "a.remaining": "700"},
        ),
        entry(
            "hold.settled", "posted", **amounts, **{"a.used": "40", "a.released": "60", "d.finish": "stop"}
        ),
        entry("hold.voided", "voided", hold="i", reason="upstream_4xx", **amounts, **{"a.released": "100"}),
        entry("hold.expired", "expired", hold="j", **amounts, **charged, **later),
        entry(
            "hold.corrected",
            "corrected",
            hold="j",
            **amounts,
            **{"a.used": "30", "a.released": "70"},
            **later,
        ),
        {
            "type": "cache.hit",
            "at_ms": str(NOON + 1000),
            "org": ORG,
            "request_id": "r-2",
            "hold": "",
            "policy_version": "",
            "verdict": "noted",
            "reason": "",
            "accounts": "",
            "c.request_id": "r-2",
            "c.key": "k1",
        },
    ]


async def test_a_blind_settle_says_so(subject: Subject) -> None:
    await subject.reserve(want("h"))
    await subject.ledger.settle(ORG, H, used(0), certainty=Certainty.UNKNOWN)
    settled = (await subject.outbox())[-1]
    assert (settled["reason"], settled["a.used"], settled["a.released"]) == ("unknown", "100", "0")


async def test_a_provisional_settle_says_so_and_its_correction_what_it_was(subject: Subject) -> None:
    await subject.reserve(want("h"))
    seen, truth = Amounts.of(3, 8, micro_usd=5), Amounts.of(3, 10, micro_usd=6)
    await subject.ledger.settle(ORG, H, seen, certainty=Certainty.PROVISIONAL)
    await subject.ledger.settle(ORG, H, truth)
    settled, corrected = (await subject.outbox())[-2:]
    assert (settled["type"], settled["reason"], settled["a.used"]) == ("hold.settled", "provisional", "11")
    assert "a.was" not in settled
    assert (corrected["type"], corrected["reason"], corrected["a.used"]) == ("hold.corrected", "", "13")
    was = {name: amount for name, amount in corrected.items() if name.startswith("a.was")}
    assert was == {
        "a.was": "11",
        "a.was_prompt_tokens": "3",
        "a.was_completion_tokens": "8",
        "a.was_micro_usd": "5",
    }


async def test_a_guess_that_corrects_an_expiry_was_the_whole_hold(subject: Subject) -> None:
    await subject.reserve(want("h"))
    await subject.ledger.settle(ORG, H, used(0), certainty=Certainty.UNKNOWN)
    await subject.ledger.settle(ORG, H, used(11), certainty=Certainty.PROVISIONAL)
    corrected = (await subject.outbox())[-1]
    assert (corrected["type"], corrected["reason"]) == ("hold.corrected", "provisional")
    assert "a.was" not in corrected


@pytest.mark.parametrize(
    ("org", "hold"), [("a}b", "h"), ("A", "h"), ("acme", "h}"), ("acme", "h i"), ("acme", "")]
)
async def test_names_that_could_leave_their_key_are_refused(subject: Subject, org: str, hold: str) -> None:
    with pytest.raises(ValueError, match=r"org|hold"):
        await subject.ledger.settle(OrgId(org), HoldId(hold), used(1))
