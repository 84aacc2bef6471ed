"""A signed token or a matching API key to the Principal it stands for. Pure.

Order matters: the signature is checked before any claim but ``iss`` and ``kid`` is looked at, so that
a forger learns nothing from the answer.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from ext_authz.decision import AuthCode, NotVerified
from ext_authz.jose import UntrustedToken
from ext_authz.keys.jwk import VerifyKey
from ext_authz.policy import AuthPolicy, Issuer
from gateway.contract.ids import GRANT_PATTERN, KeyId, OrgId, TeamId, Tier, UserId
from gateway.contract.principal import NotAPrincipal, Principal
from gateway.contract.units import UnixMillis

UNIX_S_MAX: Final = 253_402_300_799
"""The last second of the year 9999; a NumericDate beyond it is an attack or a bug (10**400 was seen)."""
SUBJECT_CHARS_MAX: Final = 255
"""OpenID Connect Core section 2 allows no more."""
GRANTS_MAX: Final = 256
"""Entries of models or scopes in one token."""
_SUBJECT: Final = re.compile(r"[\x21-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?\Z")


@dataclass(frozen=True, slots=True, kw_only=True)
class Verified:
    """A token that holds. It is good while ``now < good_until`` (leeway included)."""

    principal: Principal
    good_until: UnixMillis


def issuer_of(token: UntrustedToken, policy: AuthPolicy) -> Issuer:
    """Whose keys to ask, by the exact text of ``iss``. Raises NotVerified."""
    name = token.claims.get("iss")
    if not isinstance(name, str):
        raise NotVerified(AuthCode.INVALID_CLAIMS)
    issuer = policy.issuers.get(name)
    if issuer is None:
        raise NotVerified(AuthCode.WRONG_ISSUER)
    if token.algorithm not in issuer.algorithms:
        raise NotVerified(AuthCode.FORBIDDEN_ALGORITHM)
    return issuer


def _date(claims: Mapping[str, Any], name: str) -> int | None:
    """A NumericDate in whole seconds, None when absent."""
    if name not in claims:
        return None
    value = claims[name]
    if type(value) is not int or not 0 <= value <= UNIX_S_MAX:  # a bool is an int to isinstance
        raise NotVerified(AuthCode.INVALID_CLAIMS)
    return value


def _check_dates(claims: Mapping[str, Any], now: UnixMillis, leeway_s: int) -> UnixMillis:
    """When the token ends, leeway included."""
    expires, starts, issued = _date(claims, "exp"), _date(claims, "nbf"), _date(claims, "iat")
    if expires is None:
        raise NotVerified(AuthCode.INVALID_CLAIMS)
    good_until = UnixMillis((expires + leeway_s) * 1000)
    if now >= good_until:
        raise NotVerified(AuthCode.TOKEN_EXPIRED)
    for start in (starts, issued):
        if start is not None and now < (start - leeway_s) * 1000:
            raise NotVerified(AuthCode.TOKEN_NOT_YET_VALID)
    return good_until


def _check_audience(claims: Mapping[str, Any], issuer: Issuer) -> None:
    audience = claims.get("aud")
    audiences = [audience] if isinstance(audience, str) else audience
    if not isinstance(audiences, list) or not all(isinstance(item, str) for item in audiences):
        raise NotVerified(AuthCode.INVALID_CLAIMS)
    if issuer.audiences.isdisjoint(audiences):
        raise NotVerified(AuthCode.WRONG_AUDIENCE)


def _grants(claims: Mapping[str, Any], name: str, default: tuple[str, ...]) -> tuple[str, ...]:
    """A list of words, or words with single spaces as OAuth's ``scope`` has them (RFC 6749 3.3)."""
    if name not in claims:
        return default
    value = claims[name]
    words = value.split(" ") if isinstance(value, str) and value else [] if value == "" else value
    if not isinstance(words, list) or len(words) > GRANTS_MAX:
        raise NotVerified(AuthCode.INVALID_CLAIMS)
    if not all(isinstance(word, str) and GRANT_PATTERN.match(word) for word in words):
        raise NotVerified(AuthCode.INVALID_CLAIMS)
    return tuple(sorted(set(words)))


def _level(claims: Mapping[str, Any], name: str, default: str) -> str:
    value = claims.get(name, default) if default else claims.get(name)
    if not isinstance(value, str):
        raise NotVerified(AuthCode.INVALID_CLAIMS)
    return value


def derived_key(issuer: str, subject: str) -> KeyId:
    """The key level of a JWT without a key claim: stable for one subject of one issuer."""
    digest = hashlib.sha256(f"{issuer}\x00{subject}".encode()).hexdigest()
    return KeyId(f"jwt-{digest[:12]}")


def _principal(claims: Mapping[str, Any], issuer: Issuer) -> Principal:
    subject = claims.get("sub")
    if not isinstance(subject, str) or len(subject) > SUBJECT_CHARS_MAX or not _SUBJECT.match(subject):
        raise NotVerified(AuthCode.INVALID_CLAIMS)
    names, defaults = issuer.claims, issuer.defaults
    key = _level(claims, names.key, "") if names.key else derived_key(issuer.issuer, subject)
    try:
        return Principal(
            org=OrgId(_level(claims, names.org, "")),
            team=TeamId(_level(claims, names.team, defaults.team)),
            user=UserId(_level(claims, names.user, "")),
            key=KeyId(key),
            tier=Tier(_level(claims, names.tier, defaults.tier)),
            models=_grants(claims, names.models, defaults.models),
            scopes=_grants(claims, names.scopes, defaults.scopes),
        )
    except NotAPrincipal:
        raise NotVerified(AuthCode.INVALID_CLAIMS) from None


def verify(
    token: UntrustedToken, key: VerifyKey, issuer: Issuer, *, now: UnixMillis, leeway_s: int
) -> Verified:
    """Signature, then dates, audience and the caller's levels. Raises NotVerified."""
    if token.algorithm != key.algorithm:
        raise NotVerified(AuthCode.FORBIDDEN_ALGORITHM)
    if not key.verifies(token.signing_input, token.signature):
        raise NotVerified(AuthCode.INVALID_SIGNATURE)
    good_until = _check_dates(token.claims, now, leeway_s)
    _check_audience(token.claims, issuer)
    return Verified(principal=_principal(token.claims, issuer), good_until=good_until)
