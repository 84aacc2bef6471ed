"""A JWKS document (RFC 7517) to keys that verify one algorithm each. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm
from jwt.exceptions import PyJWTError

from ext_authz.jose import KID
from gateway.contract.errors import InvalidRequest
from gateway.openai.json_body import read_object

KEYS_MAX: Final = 100
"""Issuers publish two or three; a long list is a mistake or an attack on the parser."""
RSA_BITS_MIN, RSA_BITS_MAX = 2048, 8192
"""Below it the key can be factored (RFC 7518 3.3); above it each check costs milliseconds."""
_PRIVATE: Final = frozenset({"d", "p", "q", "dp", "dq", "qi", "oth", "k"})

_ALGORITHMS: Final[dict[str, Any]] = {
    "RS256": RSAAlgorithm(RSAAlgorithm.SHA256),
    "ES256": ECAlgorithm(ECAlgorithm.SHA256, SECP256R1),
    "EdDSA": OKPAlgorithm(),
}
_BY_TYPE: Final = {"RSA": "RS256", "EC": "ES256", "OKP": "EdDSA"}


class NotAKeySet(ValueError):
    """The document is no JWKS with at least one key for us."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class VerifyKey:
    """One public key and the only algorithm it is used with."""

    kid: str
    algorithm: str
    public: Any

    def verifies(self, signing_input: bytes, signature: bytes) -> bool:
        """Whether ``signature`` is this key's over ``signing_input``."""
        return bool(_ALGORITHMS[self.algorithm].verify(signing_input, self.public, signature))


KeySet = Mapping[str, VerifyKey]
"""By kid."""


def _public(algorithm: str, data: Mapping[str, Any]) -> Any:
    """The public key, None when it is not one we use."""
    try:
        key = _ALGORITHMS[algorithm].from_jwk(dict(data))
    except (PyJWTError, ValueError, TypeError, KeyError):
        return None
    match key:
        case RSAPublicKey():
            return key if RSA_BITS_MIN <= key.key_size <= RSA_BITS_MAX else None
        case EllipticCurvePublicKey():
            return key if isinstance(key.curve, SECP256R1) else None
        case Ed25519PublicKey():
            return key
        case _:
            return None


def _key(data: Any) -> VerifyKey | None:
    """A usable signing key, or None: issuers also publish encryption keys and algorithms we do not take."""
    if not isinstance(data, dict):
        return None
    kid, kind = data.get("kid"), data.get("kty")
    if not isinstance(kid, str) or not KID.match(kid) or not isinstance(kind, str) or kind not in _BY_TYPE:
        return None
    algorithm = _BY_TYPE[kind]
    if data.get("use", "sig") != "sig" or data.get("alg", algorithm) != algorithm:
        return None
    operations = data.get("key_ops", ["verify"])
    if not isinstance(operations, list) or "verify" not in operations:
        return None
    if _PRIVATE & data.keys():
        raise NotAKeySet("a private or symmetric key is published; replace it, it is burnt")
    public = _public(algorithm, data)
    return None if public is None else VerifyKey(kid=kid, algorithm=algorithm, public=public)


def parse_key_set(document: bytes) -> KeySet:
    """Every usable key of a JWKS. Raises NotAKeySet, also when two usable keys share a kid."""
    try:
        entries = read_object(document).get("keys")
    except InvalidRequest as error:
        raise NotAKeySet(f"not JSON: {error.message}") from None
    if not isinstance(entries, list) or len(entries) > KEYS_MAX:
        raise NotAKeySet(f"'keys' must be a list of at most {KEYS_MAX}")
    found: dict[str, VerifyKey] = {}
    for entry in entries:
        key = _key(entry)
        if key is None:
            continue
        if key.kid in found:
            raise NotAKeySet("two keys share a kid")
        found[key.kid] = key
    if not found:
        raise NotAKeySet("holds no signing key for RS256, ES256 or EdDSA with a kid")
    return found
