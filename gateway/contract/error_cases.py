"""Every error that a client of the gateway can meet, as data. ARCHITECTURE.md's tree is made from it, and
tests hold it against the source, mesh/base and the ``openai`` SDK.

Source of status, type and code: OpenAI's API reference, "Error codes"; of classes: openai-python,
``_make_status_error``: the class follows from the status, an error inside a stream is a plain APIError.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from gateway.contract import errors
from gateway.contract.errors import GatewayError


class Origin(StrEnum):
    """Who answers, in the request's order."""

    ENVOY = "Envoy"
    EXT_AUTHZ = "ext_authz"
    ADMIT = "admit"
    ENGINE = "engine, via tap"
    STREAM = "in a stream"
    API = "gateway/api"


SDK_CLASSES: Final = {
    400: "BadRequestError",
    401: "AuthenticationError",
    403: "PermissionDeniedError",
    404: "NotFoundError",
    409: "ConflictError",
    422: "UnprocessableEntityError",
    429: "RateLimitError",
}
"""By status. Other 4xx are a plain APIStatusError, 5xx an InternalServerError."""
FIELD: Final = "the field"
"""``param`` names the request's field at fault: ``messages[0].role``."""
WINDOW: Final = "until the window ends"
"""Retry-After in whole seconds, at least 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorCase:
    """One row. ``status`` of a case inside a stream is 0: the answer was a 200."""

    case: str
    origin: Origin
    status: int
    type: str
    code: str
    param: str = ""
    """Empty: null. A field's name, or FIELD."""
    retry_after: str = ""
    """Whole seconds, WINDOW, or empty: a second try would end the same."""

    @property
    def sdk_class(self) -> str:
        """What the ``openai`` SDKs raise."""
        if self.origin is Origin.STREAM:
            return "APIError"
        if self.status >= 500:
            return "InternalServerError"
        return SDK_CLASSES.get(self.status, "APIStatusError")


def _leaf(
    case: str,
    origin: Origin,
    leaf: type[GatewayError],
    code: str = "",
    *,
    param: str = "",
    retry_after: str = "",
) -> ErrorCase:
    """A case of a leaf of the tree; ``code`` where the leaf has several."""
    return ErrorCase(
        case=case,
        origin=origin,
        status=0 if origin is Origin.STREAM else leaf.http_status,
        type=leaf.type,
        code=code or leaf.code,
        param=param,
        retry_after=retry_after,
    )


def _envoy(case: str, status: int, code: str, retry_after: str = "") -> ErrorCase:
    """A local reply of mesh/base/local-replies.yaml."""
    kind = errors.INVALID_REQUEST if status < 500 or status == 501 else GatewayError.type
    return ErrorCase(
        case=case, origin=Origin.ENVOY, status=status, type=kind, code=code, retry_after=retry_after
    )


_BEFORE_ANY_FILTER: Final = (
    _envoy("not well-formed HTTP, an unknown method, a forbidden path or header", 400, "invalid_request"),
    _envoy("headers or body too slow", 408, "request_timeout"),
    _envoy("headers too many or too large", 431, "request_headers_too_large"),
    _envoy("HTTP/1.0", 426, "http_version_not_supported"),
    _envoy("a transfer coding other than chunked", 501, "invalid_request"),
    _envoy("no such host", 404, "unknown_url"),
    _envoy("the gateway's memory is used up", 503, "gateway_overloaded", "1"),
)
_IDENTITY: Final = (
    _leaf("no Authorization header", Origin.EXT_AUTHZ, errors.Unauthenticated, "missing_credential"),
    _leaf("not 'Bearer' and a token", Origin.EXT_AUTHZ, errors.Unauthenticated, "malformed_credential"),
    _leaf("several Authorization headers", Origin.EXT_AUTHZ, errors.Unauthenticated, "several_credentials"),
    _leaf("an API key nobody has", Origin.EXT_AUTHZ, errors.Unauthenticated, "invalid_api_key"),
    _leaf("a revoked API key", Origin.EXT_AUTHZ, errors.Unauthenticated, "api_key_revoked"),
    _leaf("an expired API key", Origin.EXT_AUTHZ, errors.Unauthenticated, "api_key_expired"),
    _leaf("a token over 8 KiB", Origin.EXT_AUTHZ, errors.Unauthenticated, "token_too_large"),
    _leaf("a token signed by no one we know", Origin.EXT_AUTHZ, errors.Unauthenticated, "invalid_signature"),
    _leaf("a token whose time is over", Origin.EXT_AUTHZ, errors.Unauthenticated, "token_expired"),
    _leaf("a token from the future", Origin.EXT_AUTHZ, errors.Unauthenticated, "token_not_yet_valid"),
    _leaf("another issuer's token", Origin.EXT_AUTHZ, errors.Unauthenticated, "wrong_issuer"),
    _leaf("a token for somebody else", Origin.EXT_AUTHZ, errors.Unauthenticated, "wrong_audience"),
    _leaf("a key the issuer does not publish", Origin.EXT_AUTHZ, errors.Unauthenticated, "unknown_key"),
    _leaf("alg none, or not of the policy", Origin.EXT_AUTHZ, errors.Unauthenticated, "forbidden_algorithm"),
    _leaf("jku, crit and the like in a token", Origin.EXT_AUTHZ, errors.Unauthenticated, "forbidden_header"),
    _leaf("claims that name no caller", Origin.EXT_AUTHZ, errors.Unauthenticated, "invalid_claims"),
    _leaf("keys cannot be had", Origin.EXT_AUTHZ, errors.IdentityUnavailable, retry_after="1"),
    _envoy("ext_authz does not answer", 503, "identity_unavailable", "1"),
)
_SHAPE: Final = (
    _envoy("a body over 16 MiB", 413, "content_too_large"),
    _envoy("admit does not answer, or a gate finds no decision", 503, "admission_unavailable", "1"),
    _leaf("a request without a name", Origin.ADMIT, errors.Unavailable, "admission_unavailable"),
    _leaf("a principal that cannot be read", Origin.ADMIT, errors.IdentityUnavailable, retry_after="1"),
    _leaf("a body over 16 MiB that came at once", Origin.ADMIT, errors.ContentTooLarge),
    _leaf("headers that leave no room for ours", Origin.ADMIT, errors.HeadersTooLarge),
    _leaf("another method than POST", Origin.ADMIT, errors.MethodNotAllowed),
    _leaf("not JSON by its headers, or coded", Origin.ADMIT, errors.UnsupportedMediaType),
    _leaf("not a JSON object in UTF-8", Origin.ADMIT, errors.InvalidRequest, "invalid_json"),
    _leaf("a key twice in one object", Origin.ADMIT, errors.InvalidRequest, "duplicate_key"),
    _leaf("nested or divided beyond the bounds", Origin.ADMIT, errors.InvalidRequest, "body_too_complex"),
)
_VALUES: Final = tuple(
    _leaf(case, Origin.ADMIT, errors.InvalidRequest, code, param=FIELD)
    for case, code in (
        ("a required field is missing", "missing_required_parameter"),
        ("a field nobody knows", "unknown_parameter"),
        ("another JSON type", "invalid_type"),
        ("a value that is not one of those served", "invalid_value"),
        ("an integer too small", "integer_below_min_value"),
        ("an integer too large", "integer_above_max_value"),
        ("a number too small", "decimal_below_min_value"),
        ("a number too large", "decimal_above_max_value"),
        ("an empty string", "empty_string"),
        ("a string too long", "string_above_max_length"),
        ("an empty array", "empty_array"),
        ("an array too short", "array_below_min_length"),
        ("an array too long", "array_above_max_length"),
        ("an object with too many fields", "object_above_max_properties"),
        ("an object too large", "object_above_max_size"),
        ("a JSON Schema that is none", "invalid_json_schema"),
        ("a function's JSON Schema that is none", "invalid_function_parameters"),
        ("a model that does not serve this URL", "model_not_supported"),
    )
)
_ASKED: Final = (
    _leaf("OpenAI knows it, this model does not", Origin.ADMIT, errors.UnsupportedParameter, param=FIELD),
    _leaf(
        "a prompt longer than the model's context", Origin.ADMIT, errors.ContextLengthExceeded, param=FIELD
    ),
    _leaf("an unknown model", Origin.ADMIT, errors.NotFound, "model_not_found", param="model"),
    _leaf(
        "a model not for this key", Origin.ADMIT, errors.PermissionDenied, "model_not_allowed", param="model"
    ),
    _leaf("an org without a budget", Origin.ADMIT, errors.PermissionDenied, "org_not_allowed"),
    _leaf("a tier without a budget", Origin.ADMIT, errors.PermissionDenied, "tier_not_allowed"),
    _leaf(
        "a workflow's name that is none", Origin.ADMIT, errors.InvalidRequest, "invalid_workflow", param=FIELD
    ),
    _leaf(
        "a prompt above the policy's limit for one request",
        Origin.ADMIT,
        errors.InvalidRequest,
        "prompt_tokens_above_limit",
        param=FIELD,
    ),
    _leaf(
        "tags for the cache that are none",
        Origin.ADMIT,
        errors.InvalidRequest,
        "invalid_cache_tags",
        param=FIELD,
    ),
    _leaf("only-if-cached, and it is not", Origin.ADMIT, errors.NotCached),
    _leaf("a short window's tokens are used up", Origin.ADMIT, errors.RateLimited, retry_after=WINDOW),
    _leaf("more than a whole window holds", Origin.ADMIT, errors.RateLimited),
    _leaf("a short window's requests are used up", Origin.ADMIT, errors.RequestsLimited, retry_after=WINDOW),
    _leaf("as many requests in flight as may be", Origin.ADMIT, errors.RequestsLimited, retry_after="1"),
    _leaf("no requests at all are allowed", Origin.ADMIT, errors.RequestsLimited),
    _leaf("a long window or its money is used up", Origin.ADMIT, errors.QuotaExceeded, retry_after=WINDOW),
    _leaf("a budget for ever is used up", Origin.ADMIT, errors.QuotaExceeded),
    _leaf("the budget is frozen", Origin.ADMIT, errors.BudgetFrozen),
    _leaf("the ledger does not decide in time", Origin.ADMIT, errors.LedgerUnavailable, retry_after="1"),
    _leaf("the ledger was emptied", Origin.ADMIT, errors.LedgerEmptied),
)
_ENGINE: Final = (
    _envoy("no engine: loading, gone, ejected or cut", 503, "engine_unavailable", "5"),
    _envoy("an engine breaks HTTP", 502, "bad_gateway", "1"),
    _envoy("no answer in time", 504, "timeout", "1"),
    _leaf("the engine refuses a value", Origin.ENGINE, errors.InvalidRequest),
    _leaf("longer than the context, as it counts", Origin.ENGINE, errors.ContextLengthExceeded, param=FIELD),
    _leaf("too large for the engine", Origin.ENGINE, errors.ContentTooLarge),
    _leaf(
        "its queue is full, after every retry",
        Origin.ENGINE,
        errors.EngineUnavailable,
        "engine_overloaded",
        retry_after="1",
    ),
    _leaf(
        "it is loading, after every retry",
        Origin.ENGINE,
        errors.EngineUnavailable,
        "engine_loading",
        retry_after="2",
    ),
    _leaf(
        "another 429 or 503 of it, or an answer that is none",
        Origin.ENGINE,
        errors.EngineUnavailable,
        retry_after="2",
    ),
    _leaf("its own time-out", Origin.ENGINE, errors.GatewayTimeout),
    _leaf("it fails, or answers what is no answer", Origin.ENGINE, errors.BadGateway),
    _leaf(
        "its queue is full, or pre-empted in mid-answer",
        Origin.STREAM,
        errors.EngineUnavailable,
        "engine_overloaded",
    ),
    _leaf("it stops or talks nonsense in mid-answer", Origin.STREAM, errors.EngineUnavailable),
    _leaf("it fails in mid-answer", Origin.STREAM, errors.BadGateway),
)
_API: Final = (
    _leaf("no such URL", Origin.API, errors.NotFound),
    _leaf("another method than the URL takes", Origin.API, errors.MethodNotAllowed),
    _leaf(
        "a model unknown, or not the caller's", Origin.API, errors.NotFound, "model_not_found", param="model"
    ),
    _leaf("a principal that cannot be read", Origin.API, errors.IdentityUnavailable, retry_after="1"),
    _leaf("the ledger does not answer", Origin.API, errors.LedgerUnavailable, retry_after="1"),
    _leaf("a bug of ours in the API", Origin.API, errors.Unexpected),
    _envoy("gateway/api is gone, or Envoy fails otherwise", 503, "service_unavailable", "1"),
)
ERROR_CASES: Final = (*_BEFORE_ANY_FILTER, *_IDENTITY, *_SHAPE, *_VALUES, *_ASKED, *_ENGINE, *_API)
"""In the request's order."""
