"""The outbox entries of the ledger in memory: the fields that the Lua appends, in the same step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from gateway.budget import outbox
from gateway.budget.ledger import Adjustment, HoldRequest, LeaseState, Outcome
from gateway.budget.measure import Amounts, Measure
from gateway.budget.memory_books import Hold, Lease, Placed, over, tightest
from gateway.budget.window import UNLIMITED, Enforcement
from gateway.contract.ids import HoldId, OrgId
from gateway.contract.units import UnixMillis

_VERDICTS: Final = {Outcome.POSTED: "posted", Outcome.CORRECTED: "corrected"}


class MemoryOutbox:
    """``entries``: all of all orgs, in order."""

    def __init__(self) -> None:
        """Empty."""
        self.entries: list[dict[str, str]] = []

    def refused(
        self, request: HoldRequest, now: UnixMillis, *, reason: str, window: str, needed: int, remaining: int
    ) -> None:
        """``window``: the id of the one that refused, empty on a frozen account."""
        self._add(
            outbox.HOLD_REFUSED,
            request.org,
            now,
            verdict="refused",
            reason=reason,
            hold=request.hold,
            version=request.policy_version,
            accounts=window,
            amounts={"needed": needed, "remaining": remaining},
            context=request.context,
        )

    def granted(self, org: OrgId, hold: Hold, now: UnixMillis, after: Sequence[Placed]) -> None:
        """``after``: the windows with the hold on them; none for a draw."""
        amounts = outbox.amounts("held", hold.grant.amounts)
        tight = tightest(after).get(Measure.TOKENS)
        if tight is not None:
            amounts["remaining"] = tight.remaining
        self._of_hold(
            org, hold, outbox.HOLD_GRANTED, now, "granted", amounts=amounts, detail=_over_detail(after)
        )

    def resolved(
        self,
        org: OrgId,
        hold: Hold,
        kind: str,
        now: UnixMillis,
        *,
        reason: str = "",
        was: Amounts | None = None,
        detail: Mapping[str, str] | None = None,
    ) -> None:
        """A hold that has been posted, voided, expired or corrected. ``was``: its provisional charge."""
        held = hold.grant.amounts
        amounts = outbox.amounts("held", held)
        if kind != outbox.HOLD_VOIDED:
            amounts |= outbox.amounts("used", hold.posted)
        if was is not None:
            amounts |= outbox.amounts("was", was)
        if kind != outbox.HOLD_EXPIRED:
            amounts["released"] = max(0, held.tokens - hold.posted.tokens)
        verdict = _VERDICTS.get(hold.outcome, hold.outcome.value)
        self._of_hold(org, hold, kind, now, verdict, reason=reason, amounts=amounts, detail=detail or {})

    def lease(
        self,
        org: OrgId,
        name: HoldId,
        lease: Lease,
        kind: str,
        now: UnixMillis,
        *,
        was: LeaseState = LeaseState.LIVE,
        after: Sequence[Placed] = (),
    ) -> None:
        """``held``: what the lease holds, held until now, or held when it expired. ``after``: the windows
        with a lease that was granted on them."""
        self._add(
            kind,
            org,
            now,
            verdict=kind.rpartition(".")[2],
            reason="reconciled" if was is LeaseState.EXPIRED else "",
            hold=name,
            version=lease.version,
            accounts=" ".join(lease.windows),
            amounts=outbox.amounts("held", lease.rest) | {"held_requests": lease.requests},
            context=lease.context,
            detail=_over_detail(after),
        )

    def adjusted(
        self,
        org: OrgId,
        adjustment: Adjustment,
        now: UnixMillis,
        before: Sequence[Placed],
        after: Sequence[Placed],
    ) -> None:
        """``before`` and ``after``: the account's windows."""
        context = {"actor": adjustment.actor, "account": adjustment.account.id}
        accounts = ""
        if adjustment.account.windows:
            window = adjustment.account.windows[0]
            context |= {"window": outbox.window_text(window)}
            context |= {
                "limit_before": _limit(before, window.name),
                "limit_after": _limit(after, window.name),
            }
            accounts = next((one.id for one in after if one.window.name == window.name), "")
        self._add(
            outbox.BUDGET_ADJUSTED,
            org,
            now,
            verdict=adjustment.kind.value,
            reason=adjustment.reason,
            hold=adjustment.id,
            version=adjustment.policy_version,
            accounts=accounts,
            context=context,
        )

    def note(self, org: OrgId, kind: str, now: UnixMillis, context: Mapping[str, str]) -> None:
        """An event that moves nothing."""
        self._add(kind, org, now, verdict=outbox.NOTED, context=context)

    def _of_hold(
        self,
        org: OrgId,
        hold: Hold,
        kind: str,
        now: UnixMillis,
        verdict: str,
        *,
        reason: str = "",
        amounts: Mapping[str, int],
        detail: Mapping[str, str],
    ) -> None:
        self._add(
            kind,
            org,
            now,
            verdict=verdict,
            reason=reason,
            hold=hold.grant.hold,
            version=hold.version,
            accounts=" ".join(hold.windows),
            amounts=amounts,
            context=hold.context,
            detail=detail,
        )

    def _add(
        self,
        kind: str,
        org: OrgId,
        now: UnixMillis,
        *,
        verdict: str,
        reason: str = "",
        hold: str = "",
        version: int | None = None,
        accounts: str = "",
        amounts: Mapping[str, int] | None = None,
        context: Mapping[str, str] | None = None,
        detail: Mapping[str, str] | None = None,
    ) -> None:
        context = context or {}
        fields = {
            "type": kind,
            "at_ms": str(now),
            "org": org,
            "request_id": context.get("request_id", ""),
            "hold": hold,
            "policy_version": "" if version is None else str(version),
            "verdict": verdict,
            "reason": reason,
            "accounts": accounts,
        }
        fields |= outbox.prefixed(
            outbox.AMOUNT, {name: str(count) for name, count in (amounts or {}).items()}
        )
        fields |= outbox.prefixed(outbox.CONTEXT, context)
        fields |= outbox.prefixed(
            outbox.DETAIL, {name: text for name, text in (detail or {}).items() if text}
        )
        self.entries.append(fields)


def _over_detail(after: Sequence[Placed]) -> dict[str, str]:
    return {
        f"{enforcement.value}_over": " ".join(one.name for one in over(after, enforcement))
        for enforcement in (Enforcement.SOFT, Enforcement.SHADOW)
    }


def _limit(placed: Sequence[Placed], name: tuple[Measure, str]) -> str:
    """Empty where there is no such window or it has no limit."""
    found = next((one.limit for one in placed if one.window.name == name), UNLIMITED)
    return "" if found == UNLIMITED else str(found)
