"""``GET /v1/usage``: the caller's budgets as they stand in the ledger, and, when asked by ``from``, ``to`` or
``by``, what was consumed, from the projection of the books.

A caller sees the requests of its own key and user; with the scope ``usage:org`` those of its whole org, and
never those of another.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import asdict
from typing import Final

from starlette.requests import Request
from starlette.responses import JSONResponse

from gateway.admin.budgets import standing_object
from gateway.admin.change import Conflict
from gateway.admin.usage import (
    BadUsage,
    UsageQuery,
    groups_from,
    report,
    row_object,
    span_from,
    total_of,
)
from gateway.api.caller import principal_of
from gateway.api.state import ApiState, state_of
from gateway.budget.ledger import ACCOUNTS_MAX
from gateway.budget.window import Account, Standing
from gateway.contract.errors import InvalidRequest, LedgerUnavailable
from gateway.contract.principal import Principal
from gateway.keys.pseudonym import user_pseudonym

ORG_SCOPE: Final = "usage:org"
"""Of a key or token that may see the usage of its whole org."""
PARAMETERS: Final = ("from", "to", "by")
PARAMETER_CHARS_MAX: Final = 100
"""The longest sensible one names all seven groups, in 41."""
BUSY_S: Final = 5.0
"""How long a report waits for its turn: it may read the whole table, and two at once are one a core."""


async def show_usage(request: Request) -> JSONResponse:
    """Windows of every account that the caller's requests are counted on: org, team, user, key and each model
    it may use; ``report`` beside them when asked for. Times in Unix ms.

    Raises InvalidRequest with ``param``, LedgerUnavailable.
    """
    principal = principal_of(request)
    state = state_of(request)
    query = _query(request, principal, state)
    standings = await _standing(state, principal)
    body: dict[str, object] = {
        "object": "usage",
        "org": principal.org,
        "team": principal.team,
        "key": principal.key,
        "windows": [standing_object(standing) for standing in standings],
    }
    if query is not None:
        body["report"] = await _report(state, query)
    return JSONResponse(body)


def _query(request: Request, principal: Principal, state: ApiState) -> UsageQuery | None:
    """None when no report was asked for."""
    for name in request.query_params:
        if name not in PARAMETERS:
            known = f"Unknown parameter in the URL. Known are {', '.join(PARAMETERS)}."
            raise InvalidRequest(known, code="unknown_parameter", param=name[:PARAMETER_CHARS_MAX])
        values = request.query_params.getlist(name)
        if len(values) > 1 or len(values[0]) > PARAMETER_CHARS_MAX:
            raise _refused(name, f"'{name}' must stand once, with at most {PARAMETER_CHARS_MAX} characters.")
    asked = {name: request.query_params.get(name) for name in PARAMETERS}
    if not request.query_params:
        return None
    try:
        since_ms, until_ms = span_from(asked["from"], asked["to"], now=state.clock.unix_ms())
        by = groups_from(asked["by"] or "")
    except BadUsage as error:
        raise _from_bad(error) from None
    own = {"key": str(principal.key), "user": _pseudonym(state, principal)}
    return UsageQuery(
        since_ms=since_ms,
        until_ms=until_ms,
        by=by,
        org=principal.org,
        where={} if ORG_SCOPE in principal.scopes else own,
    )


def _refused(param: str, message: str) -> InvalidRequest:
    return InvalidRequest(message, code="invalid_value", param=param)


def _from_bad(error: BadUsage) -> InvalidRequest:
    return _refused(error.param, f"{error.what}; {error.mend}.")


async def _report(state: ApiState, query: UsageQuery) -> dict[str, object]:
    try:
        async with asyncio.timeout(BUSY_S):
            await state.reports.acquire()
    except TimeoutError:
        raise LedgerUnavailable("Too many reports at once; try again.", retry_after_s=5) from None
    try:
        rows = await report(state.books_dir, query)
    except BadUsage as error:
        raise _from_bad(error) from None
    except Conflict as error:
        message = "The usage cannot be read at the moment; try again."
        raise LedgerUnavailable(message, retry_after_s=5) from error
    finally:
        state.reports.release()
    return {
        "from_ms": query.since_ms,
        "to_ms": query.until_ms,
        "by": list(query.by),
        "scope": "key" if query.where else "org",
        "rows": [row_object(row) for row in rows],
        "total": asdict(total_of(rows)),
    }


def _pseudonym(state: ApiState, principal: Principal) -> str:
    return user_pseudonym(state.pseudonym_key, principal.org, principal.user)


async def _standing(state: ApiState, principal: Principal) -> Sequence[Standing]:
    """In the order of accounts_for; some accounts a call, each bounded as a hold is."""
    budgets, user = state.budgets.current, _pseudonym(state, principal)
    models = [model.name for model in state.catalogue.current.models if principal.may_use(model.name)]
    accounts: dict[str, Account] = {}
    for model in ("", *models):
        for account in budgets.accounts_for(principal, model=model, user=user):
            accounts.setdefault(account.id, account)
    asked = list(accounts.values())
    standings: list[Standing] = []
    for first in range(0, len(asked), ACCOUNTS_MAX):
        standings += await state.ledger.standing(principal.org, asked[first : first + ACCOUNTS_MAX])
    return standings
