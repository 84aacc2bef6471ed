"""A JWT's text to its parts, stricter than JWS asks: one text for one token, and no surprises in the header.

Nothing here is trusted yet. What libraries accept and we refuse (seen in PyJWT, joserfc and peers'
CVEs): padding and other second texts of the same bytes, duplicate members (last one wins), members
that name keys or change the meaning of the signature, other token types, compressed payloads.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from ext_authz.decision import TOKEN_CHARS_MAX, AuthCode, NotVerified
from gateway.contract.errors import InvalidRequest
from gateway.openai.json_body import read_object

HEADER_MEMBERS: Final = frozenset({"alg", "typ", "kid", "x5t", "x5t#S256"})
"""All that may stand in the header. x5t is a thumbprint some issuers add; it is not looked at. Absent on
purpose: crit, b64, zip, cty (nesting), and jku, jwk, x5u, x5c, which bring the forger's own key."""
TYPES: Final = frozenset({"JWT", "AT+JWT"})
"""Upper case; RFC 7515 4.1.9 compares media types without case. Others (logout, DPoP) are not for us."""
ALGORITHMS: Final = frozenset({"RS256", "ES256", "EdDSA"})
"""No symmetric algorithm: a published key could be used as the secret (key-type confusion)."""
KID: Final = re.compile(r"[A-Za-z0-9_=-][A-Za-z0-9._=+:@-]{0,127}\Z")
"""A key id is looked up as it stands, never in a path, an URL or a query."""
_SEGMENT: Final = re.compile(r"[A-Za-z0-9_-]+\Z")


@dataclass(frozen=True, slots=True, kw_only=True)
class UntrustedToken:
    """Parts of a well-formed JWT. Only ``algorithm``, ``kid`` and ``claims["iss"]`` may be used before
    the signature is checked, and only to pick the key."""

    algorithm: str
    kid: str
    claims: Mapping[str, Any]
    signing_input: bytes
    signature: bytes


def _decoded(segment: str) -> bytes:
    """base64url without padding (RFC 7515 section 2), canonical: the unused last bits are zero."""
    if not _SEGMENT.match(segment) or len(segment) % 4 == 1:
        raise NotVerified(AuthCode.MALFORMED_CREDENTIAL)
    data = base64.urlsafe_b64decode(segment + "=" * (-len(segment) % 4))
    if base64.urlsafe_b64encode(data).rstrip(b"=") != segment.encode("ascii"):
        raise NotVerified(AuthCode.MALFORMED_CREDENTIAL)
    return data


def _object(segment: str) -> dict[str, Any]:
    try:
        return read_object(_decoded(segment))
    except InvalidRequest:
        raise NotVerified(AuthCode.MALFORMED_CREDENTIAL) from None


def _check_header(header: Mapping[str, Any]) -> tuple[str, str]:
    """Algorithm and kid."""
    if not header.keys() <= HEADER_MEMBERS:
        raise NotVerified(AuthCode.FORBIDDEN_HEADER)
    algorithm, kind, kid = header.get("alg"), header.get("typ", "JWT"), header.get("kid")
    if not isinstance(algorithm, str) or algorithm not in ALGORITHMS:
        raise NotVerified(AuthCode.FORBIDDEN_ALGORITHM)
    if not isinstance(kind, str) or kind.upper() not in TYPES:
        raise NotVerified(AuthCode.FORBIDDEN_HEADER)
    if kid is None:
        raise NotVerified(AuthCode.UNKNOWN_KEY)
    if not isinstance(kid, str) or not KID.match(kid):
        raise NotVerified(AuthCode.FORBIDDEN_HEADER)
    return algorithm, kid


def parse_jwt(text: str) -> UntrustedToken:
    """The parts of ``text``. Raises NotVerified."""
    if len(text) > TOKEN_CHARS_MAX:
        raise NotVerified(AuthCode.TOKEN_TOO_LARGE)
    segments = text.split(".")
    if len(segments) != 3 or not all(segments[:2]):
        raise NotVerified(AuthCode.MALFORMED_CREDENTIAL)
    algorithm, kid = _check_header(_object(segments[0]))
    if not segments[2]:
        raise NotVerified(AuthCode.INVALID_SIGNATURE)
    return UntrustedToken(
        algorithm=algorithm,
        kid=kid,
        claims=_object(segments[1]),
        signing_input=f"{segments[0]}.{segments[1]}".encode("ascii"),
        signature=_decoded(segments[2]),
    )
