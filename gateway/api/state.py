"""What the handlers share, set once by main."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from starlette.requests import HTTPConnection

from gateway.budget.ledger import BudgetLedger
from gateway.budget.policy import BudgetPolicy
from gateway.config.watch import Watched
from gateway.contract.clock import Clock
from gateway.models.catalogue import Catalogue

REPORTS_MAX: Final = 2
"""At once: each reads a table with a thread of its own, and /v1/models must not wait for them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiState:
    """``catalogue`` and ``budgets`` are hot-reloaded snapshots; ``metrics_dir`` is Prometheus's,
    ``books_dir`` the bookkeeper's, ``pseudonym_key`` that of users in account ids and events."""

    catalogue: Watched[Catalogue]
    budgets: Watched[BudgetPolicy]
    ledger: BudgetLedger
    metrics_dir: str
    books_dir: Path
    pseudonym_key: bytes
    clock: Clock
    reports: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(REPORTS_MAX))
    """Turns of reports from the books."""


def state_of(connection: HTTPConnection) -> ApiState:
    """The state of the application that serves ``connection``."""
    state = connection.app.state.api
    if not isinstance(state, ApiState):
        raise TypeError("the application was started without its state")
    return state
