"""The operators' desk of a state directory: gateway.admin's operations on its files and its ledger."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

from ext_authz.policy import FILE as AUTH_FILE
from ext_authz.policy import load_auth_policy
from gateway.admin.accounts import Accounts
from gateway.admin.budgets import Budgets
from gateway.admin.change import NotDone
from gateway.admin.keys import Keys, Recorder, stored
from gateway.budget.policy import FILE as BUDGETS_FILE
from gateway.budget.policy import BudgetPolicy, load_budget_policy
from gateway.contract.clock import Clock
from gateway.contract.errors import LedgerUnavailable
from gateway.contract.ids import OrgId, UserId
from gateway.contract.units import Millis
from gateway.keys.key_file import KeyFile
from gateway.keys.pseudonym import FILE as PSEUDONYM_FILE
from gateway.keys.pseudonym import key_from, user_pseudonym
from gateway.models.catalogue import load_catalogue
from mesh.local.books import with_ledger
from mesh.local.layout import Layout
from mesh.local.refusal import Refusal

T = TypeVar("T")
LEDGER_DEADLINE: Final = Millis(5_000)
"""Of one call: nobody's request waits for it, and an answer late is better than none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Desk:
    """What the commands call."""

    keys: Keys
    budgets: Budgets
    accounts: Accounts
    recorder: Recorder
    """Takes audit events."""


def at_desk(layout: Layout, clock: Clock, work: Callable[[Desk], Awaitable[T]]) -> T:
    """What ``work`` makes at the desk of ``layout``. Raises Refusal, PolicyError, OSError."""
    from gateway.budget.redis_connection import connect
    from gateway.budget.redis_ledger import RedisLedger

    budgets = policy_here(layout)
    models = [model.name for model in load_catalogue(layout.policy / "models.yaml").models]
    file = key_file(layout)
    pseudonym = _pseudonym(layout.secrets / PSEUDONYM_FILE)

    async def run(url: str) -> T:
        ledger = RedisLedger(connect(url, timeout=LEDGER_DEADLINE), clock=clock, deadline=LEDGER_DEADLINE)
        try:
            accounts = Accounts(ledger, budgets, keys=stored(file), models=models, pseudonym=pseudonym)
            desk = Desk(
                keys=Keys(file, ledger, clock, policy=budgets, models=models),
                budgets=Budgets(ledger, accounts),
                accounts=accounts,
                recorder=ledger,
            )
            return await work(desk)
        except LedgerUnavailable as error:
            raise Refusal(f"the ledger does not answer ({error.code})", "see './tidegate status'") from error
        finally:
            await ledger.aclose()

    done: list[T] = []

    def command(url: str) -> int:
        done.append(asyncio.run(run(url)))
        return 0

    with plainly():
        with_ledger(layout, clock, command)
    return done[0]


@contextlib.contextmanager
def plainly() -> Iterator[None]:
    """Turns what gateway.admin refuses into the command line's Refusal."""
    try:
        yield
    except NotDone as error:
        detail = str(error.__cause__) if isinstance(error.__cause__, NotDone) else ""
        raise Refusal(error.what, error.mend, detail=detail) from error


def policy_here(layout: Layout) -> BudgetPolicy:
    """The budgets that the gateway on ``layout`` has in force. Raises Refusal, PolicyError."""
    if not (layout.policy / BUDGETS_FILE).is_file():
        raise Refusal(f"no gateway ever ran on {layout.state}", "start it once with './tidegate up'")
    return load_budget_policy(layout.policy / BUDGETS_FILE)


def key_file(layout: Layout) -> KeyFile:
    """That of the identity policy in force. Raises Refusal, PolicyError."""
    name = load_auth_policy(layout.policy / AUTH_FILE).api_keys_file
    if not name:
        raise Refusal("the identity policy takes no API keys", f"set api_keys in its {AUTH_FILE}")
    return KeyFile(layout.secrets / name)


def _pseudonym(path: Path) -> Callable[[OrgId, UserId], str]:
    try:
        key = key_from(path.read_bytes())
    except ValueError as error:
        raise Refusal(str(error), "restore it: without it no event leads to its user") from None
    return lambda org, user: user_pseudonym(key, org, user)
