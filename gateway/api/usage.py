"""``GET /v1/usage``: the caller's own budget as it stands in the ledger."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import JSONResponse

from gateway.api.caller import principal_of
from gateway.api.state import state_of
from gateway.budget.ledger import UNLIMITED, Standing


def _window_object(standing: Standing) -> dict[str, object]:
    limited = standing.limit != UNLIMITED
    return {
        "account": standing.account,
        "window": standing.kind.value,
        "unit": "tokens",
        "limit": standing.limit if limited else None,
        "used": standing.used,
        "held": standing.held,
        "remaining": standing.remaining if limited else None,
        "resets_at_ms": standing.resets_at,
    }


async def show_usage(request: Request) -> JSONResponse:
    """Every window of the org's and the key's account; amounts in tokens, times in Unix ms.

    Raises LedgerUnavailable.
    """
    principal = principal_of(request)
    state = state_of(request)
    accounts = state.budgets.current.accounts_for(principal)
    standings = await state.ledger.standing(principal.org, accounts)
    return JSONResponse(
        {
            "object": "usage",
            "org": principal.org,
            "team": principal.team,
            "key": principal.key,
            "windows": [_window_object(standing) for standing in standings],
        }
    )
