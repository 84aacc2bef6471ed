"""Allow, deny or unavailable: what a checked credential means for the request. Pure.

Every decision is explicit. There is no default that allows: a Principal is the only way to ``Allow``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from gateway.contract.errors import IdentityUnavailable, Unauthenticated
from gateway.contract.principal import Principal

TOKEN_CHARS_MAX: Final = 8192
"""A JWT with a page of claims takes 2 KiB; verifying costs grow with the length."""
API_KEY_PREFIX: Final = "tg-"


class AuthCode(StrEnum):
    """Why a credential is refused. Stable: clients and dashboards match on it."""

    MISSING_CREDENTIAL = "missing_credential"
    MALFORMED_CREDENTIAL = "malformed_credential"
    SEVERAL_CREDENTIALS = "several_credentials"
    TOKEN_TOO_LARGE = "token_too_large"
    INVALID_SIGNATURE = "invalid_signature"
    TOKEN_EXPIRED = "token_expired"
    TOKEN_NOT_YET_VALID = "token_not_yet_valid"
    WRONG_ISSUER = "wrong_issuer"
    WRONG_AUDIENCE = "wrong_audience"
    UNKNOWN_KEY = "unknown_key"
    FORBIDDEN_ALGORITHM = "forbidden_algorithm"
    FORBIDDEN_HEADER = "forbidden_header"
    INVALID_CLAIMS = "invalid_claims"
    INVALID_API_KEY = "invalid_api_key"
    API_KEY_REVOKED = "api_key_revoked"
    API_KEY_EXPIRED = "api_key_expired"


MESSAGES: Final = {
    AuthCode.MISSING_CREDENTIAL: "No credential. Send 'Authorization: Bearer YOUR_API_KEY'.",
    AuthCode.MALFORMED_CREDENTIAL: "The Authorization header is not 'Bearer' with an API key or a JWT.",
    AuthCode.SEVERAL_CREDENTIALS: "More than one Authorization header. Send exactly one.",
    AuthCode.TOKEN_TOO_LARGE: f"The token is longer than {TOKEN_CHARS_MAX} characters.",
    AuthCode.INVALID_SIGNATURE: "The token's signature does not match.",
    AuthCode.TOKEN_EXPIRED: "The token has expired. Get a new one from your issuer.",
    AuthCode.TOKEN_NOT_YET_VALID: "The token is not valid yet. Check the issuer's clock.",
    AuthCode.WRONG_ISSUER: "The token's issuer is not accepted here.",
    AuthCode.WRONG_AUDIENCE: "The token is not meant for this gateway.",
    AuthCode.UNKNOWN_KEY: "The token is signed with a key its issuer does not publish.",
    AuthCode.FORBIDDEN_ALGORITHM: "The token's signature algorithm is not accepted.",
    AuthCode.FORBIDDEN_HEADER: "The token's header has a parameter that is not accepted.",
    AuthCode.INVALID_CLAIMS: "The token's claims do not name a well-formed caller.",
    AuthCode.INVALID_API_KEY: "Incorrect API key provided.",
    AuthCode.API_KEY_REVOKED: "The API key has been revoked.",
    AuthCode.API_KEY_EXPIRED: "The API key has expired.",
}
"""What the client reads; nothing of the credential, nothing that helps to forge one."""
_REALM: Final = 'Bearer realm="tidegate"'


def challenge(code: str) -> str:
    """The WWW-Authenticate value of a 401 with ``code`` (RFC 6750 section 3): who sent no credential is told
    the scheme only, everybody else that the token is no good. The status is 401 in each case, as OpenAI's
    is, also for what RFC 6750 would call an invalid request."""
    return _REALM if code == AuthCode.MISSING_CREDENTIAL else f'{_REALM}, error="invalid_token"'


class NotVerified(Exception):
    """A credential is refused; ``code`` says why."""

    def __init__(self, code: AuthCode) -> None:
        """Keeps the code."""
        super().__init__(code.value)
        self.code = code


class KeysUnavailable(Exception):
    """The keys to check a credential with cannot be had now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Credential:
    """One bearer token of plausible form and bounded length; ``is_api_key`` or a JWT."""

    token: str
    is_api_key: bool


@dataclass(frozen=True, slots=True)
class Allow:
    """The caller is ``principal``."""

    principal: Principal


@dataclass(frozen=True, slots=True)
class Deny:
    """401 with ``error.code`` of AuthCode."""

    error: Unauthenticated


@dataclass(frozen=True, slots=True)
class Unavailable:
    """503: we could not ask. Never an allow, and never a 401 or 403 that clients do not repeat."""

    error: IdentityUnavailable


Decision = Allow | Deny | Unavailable

_BEARER: Final = re.compile(r"bearer +([A-Za-z0-9._~+/-]+=*)\Z", re.IGNORECASE | re.ASCII)
"""RFC 6750 section 2.1. No comma, so joined headers never look like one token."""
_JOINED: Final = re.compile(r",[ \t]*[A-Za-z][A-Za-z0-9-]* +[^ ,=]", re.ASCII)
"""A comma, then another scheme with its credential; a parameter would have ``=`` behind its name."""


def read_credential(authorizations: Sequence[str]) -> Credential:
    """The one credential in the Authorization headers. Raises NotVerified."""
    if len(authorizations) > 1:
        raise NotVerified(AuthCode.SEVERAL_CREDENTIALS)
    value = authorizations[0].strip(" \t") if authorizations else ""
    if not value:
        raise NotVerified(AuthCode.MISSING_CREDENTIAL)
    if len(value) > TOKEN_CHARS_MAX + len("bearer "):
        raise NotVerified(AuthCode.TOKEN_TOO_LARGE)
    found = _BEARER.match(value)
    if found is None:
        # Envoy joins repeated headers with a comma where it gives one text for each name.
        joined = _JOINED.search(value) is not None
        raise NotVerified(AuthCode.SEVERAL_CREDENTIALS if joined else AuthCode.MALFORMED_CREDENTIAL)
    token = found.group(1)
    # What has no dots is no JWT; it is somebody's API key, ours or not.
    return Credential(token=token, is_api_key=token.startswith(API_KEY_PREFIX) or "." not in token)


def decide(outcome: Principal | NotVerified | KeysUnavailable) -> Decision:
    """The decision for what came of checking a credential."""
    match outcome:
        case Principal():
            return Allow(outcome)
        case NotVerified(code=code):
            return Deny(Unauthenticated(MESSAGES[code], code=code.value))
        case KeysUnavailable():
            return Unavailable(
                IdentityUnavailable(
                    "Credentials cannot be checked at the moment. Try again shortly.", retry_after_s=1
                )
            )
