"""Budgets: look at them and adjust them. Each adjustment is one step of the ledger, which writes its audit
event (``budget.adjusted``) in that step."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Final

from gateway.admin.accounts import Accounts, window_named
from gateway.admin.change import BadValue, By, Conflict, unknown
from gateway.admin.phrase import Phrase, words_of, words_of_span
from gateway.budget.ledger import ACCOUNTS_MAX, Adjustment, AdjustmentKind, BudgetLedger
from gateway.budget.window import UNLIMITED, Account, Standing, Window
from gateway.contract.ids import HoldId, OrgId

ID_PREFIX: Final = "adj-"
ID_BYTES: Final = 12
UNITS: Final = {"micro_usd": "micro_usd", "requests": "requests", "concurrent": "requests"}
"""Of measures that count no tokens."""


class Budgets:
    """Of one region. Raises LedgerUnavailable where the ledger does not answer."""

    def __init__(self, ledger: BudgetLedger, accounts: Accounts) -> None:
        """``accounts`` of the same ledger."""
        self._ledger = ledger
        self._accounts = accounts

    async def show(self, org: str, account: str | None = None) -> Sequence[Standing]:
        """Every window of the account, or of all accounts of the org. Raises Unknown, BadValue."""
        found = await self._accounts.org(org)
        if account is not None:
            return await self._standing(found, [await self._accounts.one(found, account)])
        return await self._standing(found, list((await self._accounts.known(found)).values()))

    async def orgs(self) -> Sequence[str]:
        """Every org that has a budget of its own, a key or a past."""
        return await self._accounts.orgs()

    async def set(self, org: str, account: str, phrase: Phrase, by: By) -> Sequence[Standing]:
        """A limit in place of the policy's, until it is reset; all windows of the account after it. What
        the phrase does not say is as in the policy. Raises Unknown, BadValue."""
        found, one = await self._named(org, account)
        window = self._set_to(one, phrase)
        return await self._adjust(found, AdjustmentKind.SET, one, window, by)

    async def raise_to(self, org: str, account: str, phrase: Phrase, by: By) -> Sequence[Standing]:
        """As ``set``, but refuses to lower. Raises Unknown, BadValue, Conflict."""
        return await self._move(org, account, phrase, by, up=True)

    async def lower_to(self, org: str, account: str, phrase: Phrase, by: By) -> Sequence[Standing]:
        """As ``set``, but refuses to raise. Below what is used it refuses until the window ends. Raises
        Unknown, BadValue, Conflict."""
        return await self._move(org, account, phrase, by, up=False)

    async def top_up(self, org: str, account: str, phrase: Phrase, by: By) -> Sequence[Standing]:
        """So much more in the current window only. Raises Unknown, BadValue, Conflict for a window without
        a limit."""
        found, one = await self._named(org, account)
        present = await self._present(found, one, phrase.window)
        if phrase.window.limit < 1 or phrase.said & {"burst", "enforcement"}:
            raise BadValue("a top-up is an amount of 1 or more, and nothing else", "give the amount only")
        if present.limit == UNLIMITED:
            raise Conflict(f"{one.id} has no limit on {words_of(phrase.window)}", "set one first")
        return await self._adjust(found, AdjustmentKind.TOP_UP, one, phrase.window, by)

    async def reset(self, org: str, account: str, window: Window, by: By) -> Sequence[Standing]:
        """The policy's limit counts again. Raises Unknown, BadValue."""
        found, one = await self._named(org, account)
        await self._present(found, one, window)
        return await self._adjust(found, AdjustmentKind.RESET, one, window, by)

    async def freeze(self, org: str, account: str, by: By) -> Sequence[Standing]:
        """Grant nothing on the account until it is unfrozen, whatever is left; what was granted goes on.
        Raises Unknown, BadValue."""
        found, one = await self._named(org, account)
        return await self._adjust(found, AdjustmentKind.FREEZE, one, None, by)

    async def unfreeze(self, org: str, account: str, by: By) -> Sequence[Standing]:
        """Raises Unknown, BadValue."""
        found, one = await self._named(org, account)
        return await self._adjust(found, AdjustmentKind.UNFREEZE, one, None, by)

    async def _named(self, org: str, account: str) -> tuple[OrgId, Account]:
        found = await self._accounts.org(org)
        return found, await self._accounts.one(found, account)

    @staticmethod
    def _set_to(account: Account, phrase: Phrase) -> Window:
        try:
            return phrase.after(window_named(account.windows, phrase.window))
        except ValueError as error:
            raise BadValue(str(error), "say burst and enforcement with the limit") from None

    async def _move(self, org: str, account: str, phrase: Phrase, by: By, *, up: bool) -> Sequence[Standing]:
        found, one = await self._named(org, account)
        present = await self._present(found, one, phrase.window)
        window = self._set_to(one, phrase)
        before, after = _height(present.limit), _height(window.limit)
        if (after <= before) if up else (after >= before):
            shown = "unlimited" if present.limit == UNLIMITED else str(present.limit)
            raise Conflict(
                f"{words_of(window)} of {one.id} stands at {shown}, credit and burst included",
                f"name a {'higher' if up else 'lower'} limit, or use 'set'",
            )
        return await self._adjust(found, AdjustmentKind.SET, one, window, by)

    async def _present(self, org: OrgId, account: Account, window: Window) -> Standing:
        """The window as it stands. Raises Unknown."""
        standings = await self._standing(org, [account])
        for standing in standings:
            if (standing.measure, standing.span) == window.name:
                return standing
        known = [words_of_span(standing.measure, standing.span) for standing in standings]
        raise unknown(f"window of {account.id}", words_of(window), known)

    async def _adjust(
        self, org: OrgId, kind: AdjustmentKind, account: Account, window: Window | None, by: By
    ) -> Sequence[Standing]:
        await self._ledger.adjust(
            org,
            Adjustment(
                id=HoldId(ID_PREFIX + secrets.token_hex(ID_BYTES)),
                kind=kind,
                account=Account(id=account.id, windows=() if window is None else (window,)),
                actor=by.actor,
                reason=by.reason,
                policy_windows=account.windows,
                policy_version=self._accounts.policy_version,
            ),
        )
        return await self._standing(org, [account])

    async def _standing(self, org: OrgId, accounts: Sequence[Account]) -> Sequence[Standing]:
        """In the order asked, some accounts a call: each is one step of the ledger, bounded as a hold is."""
        found: list[Standing] = []
        for first in range(0, len(accounts), ACCOUNTS_MAX):
            found += await self._ledger.standing(org, accounts[first : first + ACCOUNTS_MAX])
        return found


def _height(limit: int) -> float:
    return float("inf") if limit == UNLIMITED else limit


def standing_object(standing: Standing) -> dict[str, object]:
    """JSON-ready, with the keys of ``GET /v1/usage``'s windows; null where there is no limit or end."""
    limited = standing.limit != UNLIMITED
    return {
        "account": standing.account,
        "measure": standing.measure.value,
        "window": standing.kind.value,
        "span": standing.span,
        "unit": UNITS.get(standing.measure.value, "tokens"),
        "enforcement": standing.enforcement.value,
        "frozen": standing.frozen,
        "limit": standing.limit if limited else None,
        "used": standing.used,
        "held": standing.held,
        "remaining": standing.remaining if limited else None,
        "resets_at_ms": standing.resets_at or None,
    }
