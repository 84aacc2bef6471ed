"""What the operators' listener shows: liveness, readiness, metrics. Never reachable by tenants."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from gateway.api.state import state_of
from gateway.contract.errors import LedgerUnavailable
from gateway.telemetry.metrics import exposition


async def healthz(_: Request) -> JSONResponse:
    """200 while this process runs."""
    return JSONResponse({"status": "ok"})


async def readyz(request: Request) -> JSONResponse:
    """200 when a request could be decided (the ledger answers), else 503 with the reason."""
    state = state_of(request)
    try:
        await state.ledger.orgs()
    except LedgerUnavailable as error:
        return JSONResponse({"status": "not ready", "ledger": error.code}, status_code=503)
    return JSONResponse({"status": "ready", "ledger": "ok", "policy_version": state.budgets.current.version})


async def metrics(request: Request) -> Response:
    """All processes' metrics, Prometheus text format 0.0.4."""
    return Response(exposition(state_of(request).metrics_dir), media_type="text/plain; version=0.0.4")
