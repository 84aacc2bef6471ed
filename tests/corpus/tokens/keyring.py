"""The keys of the token corpus: an issuer's published ones, a forger's own, and API keys in every state."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

ISSUER: Final = "https://tidegate.local"
AUDIENCE: Final = "tidegate"
POLICY_FILE: Final = Path(__file__).with_name("auth.yaml")
SECRET: Final = "abcdefghijklmnopqrstuvwxyz-ABCDEFGHIJ_01234"
"""43 characters, as 32 random bytes have in base64url."""
_PUBLISHED: Final = ("ed-1", "ed-2", "rsa-1", "ec-1")


def _made() -> dict[str, Any]:
    return {
        "ed-1": ed25519.Ed25519PrivateKey.generate(),
        "ed-2": ed25519.Ed25519PrivateKey.generate(),
        "rsa-1": rsa.generate_private_key(public_exponent=65537, key_size=2048),
        "ec-1": ec.generate_private_key(ec.SECP256R1()),
        "forger-ed": ed25519.Ed25519PrivateKey.generate(),
        "forger-rsa": rsa.generate_private_key(public_exponent=65537, key_size=2048),
        "forger-ec": ec.generate_private_key(ec.SECP256R1()),
        "forger-p384": ec.generate_private_key(ec.SECP384R1()),
    }


def public_jwk(key: Any) -> dict[str, Any]:
    """The public half of a private key as a JWK, without kid."""
    match key:
        case rsa.RSAPrivateKey():
            data = RSAAlgorithm.to_jwk(key.public_key(), as_dict=True)
        case ec.EllipticCurvePrivateKey():
            data = ECAlgorithm.to_jwk(key.public_key(), as_dict=True)
        case _:
            data = OKPAlgorithm.to_jwk(key.public_key(), as_dict=True)
    return {name: value for name, value in data.items() if name != "key_ops"}


def public_pem(key: Any) -> bytes:
    """The public half as a PEM file has it."""
    pem: bytes = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return pem


@dataclass(frozen=True)
class Keyring:
    """Keys by name; made once for a session."""

    keys: dict[str, Any] = field(default_factory=_made)

    def jwks(self) -> bytes:
        """What the issuer publishes: ed-1, ed-2, rsa-1 and ec-1."""
        entries = [{**public_jwk(self.keys[name]), "kid": name} for name in _PUBLISHED]
        return json.dumps({"keys": entries}).encode()

    def api_key(self, name: str) -> str:
        """The text of the API key ``good``, ``revoked`` or ``expired``."""
        return f"tg-corpus-{name}-{SECRET}"

    def api_keys(self) -> bytes:
        """api_keys.json with the three of them, all of org acme."""
        entry = {"org": "acme", "team": "t", "user": "u", "tier": "standard"}
        states: dict[str, dict[str, Any]] = {
            "good": {},
            "revoked": {"revoked": True},
            "expired": {"expires_ms": 1},
        }
        return json.dumps(
            [
                {
                    **entry,
                    **state,
                    "id": f"corpus-{name}",
                    "hash": hashlib.sha256(self.api_key(name).encode()).hexdigest(),
                }
                for name, state in states.items()
            ]
        ).encode()

    def write(self, secrets_dir: Path) -> None:
        """jwks.json and api_keys.json into ``secrets_dir``, for a gateway that has not started yet."""
        secrets_dir.mkdir(mode=0o700, parents=True)
        for name, data in (("jwks.json", self.jwks()), ("api_keys.json", self.api_keys())):
            file = secrets_dir / name
            file.touch(mode=0o600)
            file.write_bytes(data)
