"""What the handlers share, set once by main."""

from __future__ import annotations

from dataclasses import dataclass

from starlette.requests import HTTPConnection

from gateway.budget.ledger import BudgetLedger
from gateway.budget.policy import BudgetPolicy
from gateway.config.watch import Watched
from gateway.models.catalogue import Catalogue


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiState:
    """``catalogue`` and ``budgets`` are hot-reloaded snapshots; ``metrics_dir`` is Prometheus's."""

    catalogue: Watched[Catalogue]
    budgets: Watched[BudgetPolicy]
    ledger: BudgetLedger
    metrics_dir: str


def state_of(connection: HTTPConnection) -> ApiState:
    """The state of the application that serves ``connection``."""
    state = connection.app.state.api
    if not isinstance(state, ApiState):
        raise TypeError("the application was started without its state")
    return state
