"""``GET /v1/models`` and ``/v1/models/{id}``: the catalogue, as far as the caller may use it."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import JSONResponse

from gateway.api.caller import principal_of
from gateway.api.state import state_of
from gateway.api.urls import unknown_url
from gateway.contract.errors import NotFound
from gateway.models.catalogue import Model

CREATED_UNIX_S = 1_767_225_600
"""OpenAI's schema wants a creation time; the catalogue has none, so it is the same for all (2026-01-01)."""


def _model_object(model: Model, shown_as: str) -> dict[str, object]:
    return {
        "id": shown_as,
        "object": "model",
        "created": CREATED_UNIX_S,
        "owned_by": "tidegate",
        "root": model.name,
        "max_model_len": model.context_tokens,
    }


async def list_models(request: Request) -> JSONResponse:
    """OpenAI's list object; aliases stand beside the names they resolve to."""
    principal = principal_of(request)
    data = [
        _model_object(model, shown_as)
        for model in state_of(request).catalogue.current.models
        if principal.may_use(model.name)
        for shown_as in (model.name, *model.aliases)
    ]
    return JSONResponse({"object": "list", "data": data})


async def show_model(request: Request) -> JSONResponse:
    """One model. A model the caller may not use does not exist for it (no listing by guessing)."""
    principal = principal_of(request)
    asked = request.path_params["model"]
    if not asked:
        raise unknown_url(request.url.path)
    model = state_of(request).catalogue.current.resolve(asked)
    if model is None or not principal.may_use(model.name):
        raise NotFound(
            "The model does not exist or you do not have access to it; GET /v1/models lists yours.",
            code="model_not_found",
            param="model",
        )
    return JSONResponse(_model_object(model, asked))
