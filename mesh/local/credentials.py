"""Keys of a local region, made at the first start: a development issuer, an API key, the operators' secrets.

The API key's text and the signing key stay in 0600 files of the secrets directory for ``./tidegate env``;
ext_authz reads only the public JWKS and the key's hash.
"""

from __future__ import annotations

import base64
import hashlib
import secrets
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import jwt
import orjson
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from ext_authz.decision import NotVerified
from ext_authz.keys.api_keys import check_api_key
from gateway.contract.clock import Clock
from gateway.contract.ids import KeyId, OrgId, TeamId, Tier, UserId
from gateway.contract.principal import Principal
from gateway.keys.api_key import parse_api_keys
from gateway.keys.key_file import create_api_key, write_private

ISSUER: Final = "https://tidegate.local"
AUDIENCE: Final = "tidegate"
"""Both as in mesh/base/policy/auth.yaml."""
JWT_HOURS: Final = 24
JWKS_FILE: Final = "jwks.json"
API_KEYS_FILE: Final = "api_keys.json"
SIGNING_KEY_FILE: Final = "dev_issuer.pem"
DEMO_KEY_FILE: Final = "demo_api_key"
SECRET_FILES: Final = ("pseudonym.key", "cache_salt.key")
"""32 random bytes each, as 64 hex digits and a newline."""
OPERATOR_KEY_FILE: Final = "operator_api_key"
DEMO_KEY_ID: Final = "demo"


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """What a client of the local region can use, both for org demo."""

    api_key: str
    jwt: str


OPERATOR: Final = Principal(
    org=OrgId("operator"),
    team=TeamId("operator"),
    user=UserId("cache"),
    key=KeyId("operator"),
    tier=Tier("standard"),
)
"""Who pays for what the cache checks off the path: never the tenant whose answer it is."""


def demo_principal(*, key: str = DEMO_KEY_ID) -> Principal:
    """org demo, team demo, user alice, tier standard, every model."""
    return Principal(
        org=OrgId("demo"), team=TeamId("demo"), user=UserId("alice"), key=KeyId(key), tier=Tier("standard")
    )


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def _signing_key(secrets_dir: Path) -> Ed25519PrivateKey:
    """The development issuer's key, made when there is none; its JWKS is written beside it."""
    path = secrets_dir / SIGNING_KEY_FILE
    if path.exists():
        loaded = serialization.load_pem_private_key(path.read_bytes(), password=None)
        if not isinstance(loaded, Ed25519PrivateKey):
            raise ValueError(f"{path}: must hold an Ed25519 private key; remove it to have one made")
        key = loaded
    else:
        key = Ed25519PrivateKey.generate()
        pem = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        write_private(path, pem)
    _publish(secrets_dir / JWKS_FILE, key)
    return key


def _publish(jwks_file: Path, key: Ed25519PrivateKey) -> None:
    """See to it that ``jwks_file`` has the public key; other keys in it stay."""
    keys = orjson.loads(jwks_file.read_bytes())["keys"] if jwks_file.exists() else []
    if any(entry.get("kid") == _kid(key) for entry in keys):
        return
    public = _base64url(key.public_key().public_bytes_raw())
    entry = {"kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "use": "sig", "kid": _kid(key), "x": public}
    document = orjson.dumps({"keys": [*keys, entry]}, option=orjson.OPT_INDENT_2)
    write_private(jwks_file, document + b"\n")


def _kid(key: Ed25519PrivateKey) -> str:
    return "dev-" + hashlib.sha256(key.public_key().public_bytes_raw()).hexdigest()[:16]


def mint_jwt(secrets_dir: Path, clock: Clock, *, org: str = "demo", hours: int = JWT_HOURS) -> str:
    """A JWT of the development issuer for user alice of ``org``. Raises OSError, ValueError."""
    key, now = _signing_key(secrets_dir), clock.unix_ms() // 1000
    claims = {
        "iss": ISSUER,
        "aud": AUDIENCE,
        "sub": "alice",
        "org": org,
        "team": org,
        "tier": "standard",
        "iat": now,
        "exp": now + hours * 3600,
    }
    return jwt.encode(claims, key, algorithm="EdDSA", headers={"kid": _kid(key)})


def _api_key(secrets_dir: Path, clock: Clock, file: str, principal: Principal) -> str:
    """The text of ``principal``'s key, in ``file``; a new one when the text is lost or no longer opens
    anything."""
    text_file, keys_file = secrets_dir / file, secrets_dir / API_KEYS_FILE
    stored = parse_api_keys(keys_file.read_bytes()) if keys_file.exists() else {}
    if text_file.exists():
        text = text_file.read_text(encoding="ascii").strip()
        try:
            check_api_key(text, stored, now=clock.unix_ms())
        except NotVerified:
            text = ""
        if text:
            return text
    key_id = principal.key if principal.key not in stored else f"{principal.key}-{secrets.token_hex(3)}"
    text = create_api_key(keys_file, replace(principal, key=KeyId(key_id)), created_ms=clock.unix_ms())
    write_private(text_file, text.encode("ascii") + b"\n")
    return text


def ensure_credentials(secrets_dir: Path, clock: Clock) -> Credentials:
    """Make what is missing in ``secrets_dir``, keep what is there; the JWT is new each time.

    Raises OSError, NotApiKeys for a broken api_keys.json, ValueError for a foreign signing key.
    """
    secrets_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    for name in SECRET_FILES:
        if not (secrets_dir / name).exists():
            write_private(secrets_dir / name, secrets.token_hex(32).encode("ascii") + b"\n")
    token = mint_jwt(secrets_dir, clock)
    _api_key(secrets_dir, clock, OPERATOR_KEY_FILE, OPERATOR)
    return Credentials(api_key=_api_key(secrets_dir, clock, DEMO_KEY_FILE, demo_principal()), jwt=token)
