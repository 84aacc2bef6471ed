"""The ASGI application: two route tables, chosen by whether the request came through the gates."""

from __future__ import annotations

from typing import Final

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from gateway.api import models, operators, urls, usage
from gateway.api.caller import came_through_the_gates
from gateway.api.state import ApiState
from gateway.contract.errors import GatewayError, MethodNotAllowed, Unexpected
from gateway.openai.error_body import error_body, error_headers
from gateway.telemetry.log import logger

_log: Final = logger("api")


def error_response(error: GatewayError, *, allow: str = "") -> Response:
    """An OpenAI-shaped answer."""
    response_headers = error_headers(error)
    if allow:
        response_headers["allow"] = allow
    return Response(error_body(error), status_code=error.http_status, headers=response_headers)


async def _gateway_error(_: Request, error: Exception) -> Response:
    if not isinstance(error, GatewayError):
        raise error
    return error_response(error)


async def _http_error(request: Request, error: Exception) -> Response:
    nameless = request.url.path == f"{urls.MODELS}/"  # matches the route of a model's name
    if isinstance(error, HTTPException) and error.status_code == 405 and not nameless:
        allow = ", ".join(sorted((error.headers or {})["Allow"].split(", ")))
        if request.method == "OPTIONS":  # RFC 9110 section 9.3.7; a browser's preflight is Envoy's to answer
            return Response(status_code=204, headers={"allow": allow})
        return error_response(MethodNotAllowed(f"This URL takes {allow} only."), allow=allow)
    return error_response(urls.unknown_url(request.url.path))


async def _unexpected(_: Request, error: Exception) -> Response:
    _log.error("api.unexpected", error=type(error).__name__)
    return error_response(Unexpected("The gateway met an unexpected error. Please retry."))


async def _strayed(_: Request) -> Response:
    """A POST that the engines' pods should have answered: admit sends none here."""
    raise Unexpected("The gateway took a wrong turn with this request. Please retry.")


def _app(routes: list[Route], state: ApiState) -> Starlette:
    app = Starlette(
        routes=routes,
        exception_handlers={GatewayError: _gateway_error, HTTPException: _http_error, Exception: _unexpected},
    )
    app.router.redirect_slashes = False
    app.state.api = state
    return app


class Application:
    """Sends tenants to ``public`` and the operators' listener to ``private``; neither sees the other."""

    def __init__(self, state: ApiState) -> None:
        """Both route tables share ``state``."""
        self.public = _app(
            [
                Route(urls.MODELS, models.list_models, methods=["GET"]),
                Route(f"{urls.MODELS}/{{model:path}}", models.show_model, methods=["GET"]),
                Route(urls.USAGE, usage.show_usage, methods=["GET"]),
                *(Route(path, _strayed, methods=["POST"]) for path in urls.POST_ONLY),
            ],
            state,
        )
        self.private = _app(
            [
                Route("/healthz", operators.healthz, methods=["GET"]),
                Route("/readyz", operators.readyz, methods=["GET"]),
                Route("/metrics", operators.metrics, methods=["GET"]),
            ],
            state,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI entry."""
        if scope["type"] == "http" and came_through_the_gates(HTTPConnection(scope)):
            await self.public(scope, receive, send)
        else:
            await self.private(scope, receive, send)
