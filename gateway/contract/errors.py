"""The error tree. Each leaf has a code, an HTTP status and an OpenAI-shaped body.

    GatewayError
    ├── Refused                      we asked, and the answer is no
    │   ├── InvalidRequest           400 invalid_request_error
    │   │   ├── ContextLengthExceeded 400 context_length_exceeded
    │   │   └── UnsupportedParameter 400 unsupported_parameter
    │   ├── Unauthenticated          401 invalid_api_key, token_expired, ... (AuthCode)
    │   ├── PermissionDenied         403 model_not_allowed, ...
    │   ├── NotFound                 404 model_not_found, unknown_url
    │   ├── MethodNotAllowed         405
    │   ├── ContentTooLarge          413
    │   ├── HeadersTooLarge          431 request_headers_too_large
    │   ├── UnsupportedMediaType     415
    │   ├── NotCached                504 not_cached
    │   ├── RateLimited              429 rate_limit_exceeded   (a window that ends soon)
    │   │   └── RequestsLimited      429 rate_limit_exceeded   (of requests, not of tokens)
    │   └── QuotaExceeded            429 insufficient_quota    (a window that does not)
    │       └── BudgetFrozen         429 billing_hard_limit_reached
    └── Unavailable                  we could not ask: closed, never an allow
        ├── IdentityUnavailable      503 identity_unavailable
        ├── LedgerUnavailable        503 budget_unavailable
        │   └── LedgerEmptied        503 budget_closed  (epoch lost: closed until rebuilt)
        ├── EngineUnavailable        503 engine_unavailable, engine_loading, engine_overloaded
        ├── BadGateway               502 bad_gateway
        ├── GatewayTimeout           504 timeout
        └── Unexpected               500 internal_error   (a bug of ours; text never leaves)

``message`` is written to be shown to a client: no path, no stack, no prompt, nothing of another
tenant. What only an operator may see goes into the exception's ``__cause__`` or a log event.
Source of the shapes: OpenAI's API reference, "Error codes"; the SDKs map the status to a class.
"""

from __future__ import annotations

from typing import ClassVar, Final

INVALID_REQUEST: Final = "invalid_request_error"
"""OpenAI's ``type`` of every 4xx but 401's key errors and 429."""


class GatewayError(Exception):
    """Root. Never raised itself.

    ``param`` is the request field at fault; ``retry_after_s`` becomes Retry-After.
    """

    http_status: ClassVar[int] = 500
    code: str = "internal_error"
    type: str = "server_error"

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        retry_after_s: int | None = None,
    ) -> None:
        """``message`` says what, where and what would be right."""
        super().__init__(message)
        self.message = message
        self.param = param
        self.retry_after_s = retry_after_s
        if code is not None:
            self.code = code


class Refused(GatewayError):
    """We asked, and the answer is no."""


class InvalidRequest(Refused):
    """The body or a parameter is not what the endpoint takes."""

    http_status = 400
    code = "invalid_request"
    type = INVALID_REQUEST


class ContextLengthExceeded(InvalidRequest):
    """Prompt and completion do not fit the model's context."""

    code = "context_length_exceeded"


class UnsupportedParameter(InvalidRequest):
    """A parameter OpenAI knows and this model or engine does not serve."""

    code = "unsupported_parameter"


class Unauthenticated(Refused):
    """No credential, or not a good one. The code is stable (see ext_authz.decision.AuthCode)."""

    http_status = 401
    code = "invalid_api_key"
    type = INVALID_REQUEST


class PermissionDenied(Refused):
    """Known caller, not allowed."""

    http_status = 403
    code = "permission_denied"
    type = INVALID_REQUEST


class NotFound(Refused):
    """No such model or path."""

    http_status = 404
    code = "unknown_url"
    type = INVALID_REQUEST


class MethodNotAllowed(Refused):
    """The path exists with other methods."""

    http_status = 405
    code = "method_not_allowed"
    type = INVALID_REQUEST


class ContentTooLarge(Refused):
    """The body is over the limit."""

    http_status = 413
    code = "content_too_large"
    type = INVALID_REQUEST


class HeadersTooLarge(Refused):
    """The request's headers are too many or too large (RFC 6585 section 5)."""

    http_status = 431
    code = "request_headers_too_large"
    type = INVALID_REQUEST


class UnsupportedMediaType(Refused):
    """Not JSON, or a content coding we do not inflate."""

    http_status = 415
    code = "unsupported_media_type"
    type = INVALID_REQUEST


class NotCached(Refused):
    """The client wants an answer from the cache or none (RFC 9111 section 5.2.1.7, which also says 504)."""

    http_status = 504
    code = "not_cached"
    type = INVALID_REQUEST


class RateLimited(Refused):
    """A short window is used up; it ends by itself soon."""

    http_status = 429
    code = "rate_limit_exceeded"
    type = "tokens"


class RequestsLimited(RateLimited):
    """As many requests as a short window, or one moment, allows."""

    type = "requests"


class QuotaExceeded(Refused):
    """A long window or a sum of money is used up: OpenAI's ``insufficient_quota``."""

    http_status = 429
    code = "insufficient_quota"
    type = "insufficient_quota"


class BudgetFrozen(QuotaExceeded):
    """An operator has frozen the account: OpenAI's code for a stop that no waiting ends."""

    code = "billing_hard_limit_reached"


class Unavailable(GatewayError):
    """We could not ask. Closed; the client may try again."""

    http_status = 503
    code = "service_unavailable"


class IdentityUnavailable(Unavailable):
    """No key to check the credential with could be had."""

    code = "identity_unavailable"


class LedgerUnavailable(Unavailable):
    """The ledger did not decide in time. Never an allow."""

    code = "budget_unavailable"


class LedgerEmptied(LedgerUnavailable):
    """The ledger's epoch is not the one we know: its counters are lost; closed until rebuilt."""

    code = "budget_closed"


class EngineUnavailable(Unavailable):
    """No engine took the request: loading, draining, overloaded or gone."""

    code = "engine_unavailable"


class BadGateway(Unavailable):
    """An engine answered something that is not an answer."""

    http_status = 502
    code = "bad_gateway"


class GatewayTimeout(Unavailable):
    """An engine did not answer in time."""

    http_status = 504
    code = "timeout"


class Unexpected(Unavailable):
    """A bug of ours. The cause goes to the log, a generic text to the client."""

    http_status = 500
    code = "internal_error"
