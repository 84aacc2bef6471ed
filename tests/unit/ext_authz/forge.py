"""A test issuer, and everything wrong that can be done to its tokens."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from ext_authz.decision import AuthCode
from ext_authz.policy import AuthPolicy, Issuer, JwksSource

NOW_S: Final = 1_800_000_000
ISSUER: Final = "https://issuer.example"
AUDIENCE: Final = "tidegate"
RSA_KEY: Final = rsa.generate_private_key(public_exponent=65537, key_size=2048)
OTHER_RSA_KEY: Final = rsa.generate_private_key(public_exponent=65537, key_size=2048)
EC_KEY: Final = ec.generate_private_key(ec.SECP256R1())
ED_KEY: Final = ed25519.Ed25519PrivateKey.generate()
POLICY: Final = AuthPolicy(
    issuers={
        ISSUER: Issuer(
            issuer=ISSUER,
            audiences=frozenset({AUDIENCE}),
            algorithms=frozenset({"RS256", "ES256", "EdDSA"}),
            jwks=JwksSource(file="jwks.json"),
        ),
        "https://rsa-only.example": Issuer(
            issuer="https://rsa-only.example",
            audiences=frozenset({AUDIENCE}),
            algorithms=frozenset({"RS256"}),
            jwks=JwksSource(file="jwks.json"),
        ),
    },
    api_keys_file="api_keys.json",
)


def b64(data: bytes) -> str:
    """base64url without padding."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def jwk(key: Any, kid: str, **extra: Any) -> dict[str, Any]:
    """The public half as a JWK."""
    match key:
        case rsa.RSAPrivateKey():
            data = RSAAlgorithm.to_jwk(key.public_key(), as_dict=True)
        case ec.EllipticCurvePrivateKey():
            data = ECAlgorithm.to_jwk(key.public_key(), as_dict=True)
        case _:
            data = OKPAlgorithm.to_jwk(key.public_key(), as_dict=True)
    return {**{name: value for name, value in data.items() if name != "key_ops"}, "kid": kid, **extra}


def jwks(*entries: dict[str, Any]) -> bytes:
    """A JWKS document."""
    return json.dumps({"keys": list(entries)}).encode()


JWKS: Final = jwks(jwk(RSA_KEY, "rsa-1"), jwk(EC_KEY, "ec-1"), jwk(ED_KEY, "ed-1"))


def claims(**changes: Any) -> dict[str, Any]:
    """Good claims with ``changes``; None removes one."""
    good: dict[str, Any] = {
        "iss": ISSUER,
        "aud": AUDIENCE,
        "sub": "alice",
        "org": "acme",
        "iat": NOW_S - 10,
        "exp": NOW_S + 3600,
    }
    return {name: value for name, value in {**good, **changes}.items() if value is not None}


def signature(key: Any, data: bytes) -> bytes:
    """``key``'s signature in JWS form."""
    match key:
        case rsa.RSAPrivateKey():
            return key.sign(data, padding.PKCS1v15(), hashes.SHA256())
        case ec.EllipticCurvePrivateKey():
            r, s = decode_dss_signature(key.sign(data, ec.ECDSA(hashes.SHA256())))
            return r.to_bytes(32, "big") + s.to_bytes(32, "big")
        case _:
            signed: bytes = key.sign(data)
            return signed


def token(
    payload: dict[str, Any] | bytes | None = None,
    *,
    key: Any = RSA_KEY,
    header: dict[str, Any] | bytes | None = None,
    **header_changes: Any,
) -> str:
    """A JWT signed by ``key``; header members with value None are removed."""
    if not isinstance(header, bytes):
        full = {"alg": "RS256", "typ": "JWT", "kid": "rsa-1", **(header or {}), **header_changes}
        header = json.dumps({name: value for name, value in full.items() if value is not None}).encode()
    body = (
        payload
        if isinstance(payload, bytes)
        else json.dumps(claims() if payload is None else payload).encode()
    )
    signing_input = f"{b64(header)}.{b64(body)}"
    return f"{signing_input}.{b64(signature(key, signing_input.encode()))}"


def _hmac_token(secret: bytes, algorithm: str = "HS256") -> str:
    header = {"alg": algorithm, "typ": "JWT", "kid": "rsa-1"}
    head = f"{b64(json.dumps(header).encode())}.{b64(json.dumps(claims()).encode())}"
    return f"{head}.{b64(hmac.new(secret, head.encode(), hashlib.sha256).digest())}"


def _public_pem() -> bytes:
    return RSA_KEY.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def _with_signature(signed: str, tail: str) -> str:
    return f"{signed.rpartition('.')[0]}.{tail}"


def _flipped(text: str) -> str:
    tail = text.rpartition(".")[2]
    return _with_signature(text, f"{tail[:20]}{'A' if tail[20] != 'A' else 'B'}{tail[21:]}")


def _der_signed() -> str:
    text = token(alg="ES256", kid="ec-1")
    signed = EC_KEY.sign(text.rpartition(".")[0].encode(), ec.ECDSA(hashes.SHA256()))
    return _with_signature(text, b64(signed))


def _second_text(text: str) -> str:
    """Another last character that a lenient decoder reads as the same 256 bytes (4 bits are spare)."""
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    return text[:-1] + alphabet[alphabet.index(text[-1]) ^ 1]


def _raw(text: str) -> bytes:
    """Payload bytes with a literal piece that json.dumps would not write."""
    good = json.dumps(claims())
    return (good[:-1] + "," + text + "}").encode()


@dataclass(frozen=True, slots=True)
class Forged:
    """One bad token: its text when asked, and the code it must be refused with."""

    name: str
    text: Callable[[], str]
    code: AuthCode


def _header(name: str, code: AuthCode = AuthCode.FORBIDDEN_HEADER, **changes: Any) -> Forged:
    return Forged(name, lambda: token(**changes), code)


def _claim(name: str, code: AuthCode = AuthCode.INVALID_CLAIMS, **changes: Any) -> Forged:
    return Forged(name, lambda: token(claims(**changes)), code)


def _payload(name: str, payload: bytes, code: AuthCode) -> Forged:
    return Forged(name, lambda: token(payload), code)


MALFORMED: Final = AuthCode.MALFORMED_CREDENTIAL
_BAD_ALGORITHMS: Final[tuple[Any, ...]] = (
    *("none", "None", "nOnE", "NONE", "", "HS256", "RS512", "PS256", "rs256", "RS256 "),
    *(1, True, ["RS256"], {}),
)
FORGED: Final = (
    # --- algorithm ---
    *(
        _header(f"alg {algorithm!r}", AuthCode.FORBIDDEN_ALGORITHM, alg=algorithm)
        for algorithm in _BAD_ALGORITHMS
    ),
    _header("alg absent", AuthCode.FORBIDDEN_ALGORITHM, alg=None),
    Forged(
        "none, signature empty", lambda: _with_signature(token(alg="none"), ""), AuthCode.FORBIDDEN_ALGORITHM
    ),
    Forged(
        "HS256 with the public PEM as secret",
        lambda: _hmac_token(_public_pem()),
        AuthCode.FORBIDDEN_ALGORITHM,
    ),
    Forged(
        "HMAC signature under RS256", lambda: _hmac_token(_public_pem(), "RS256"), AuthCode.INVALID_SIGNATURE
    ),
    _header("ES256 named, RSA key", AuthCode.FORBIDDEN_ALGORITHM, alg="ES256"),
    _header("EdDSA named, RSA key", AuthCode.FORBIDDEN_ALGORITHM, alg="EdDSA"),
    _header("RS256 named, EC key", AuthCode.FORBIDDEN_ALGORITHM, kid="ec-1"),
    Forged(
        "algorithm the issuer does not use",
        lambda: token(claims(iss="https://rsa-only.example"), key=ED_KEY, alg="EdDSA", kid="ed-1"),
        AuthCode.FORBIDDEN_ALGORITHM,
    ),
    # --- signature ---
    Forged("flipped signature", lambda: _flipped(token()), AuthCode.INVALID_SIGNATURE),
    Forged("empty signature", lambda: _with_signature(token(), ""), AuthCode.INVALID_SIGNATURE),
    Forged("short signature", lambda: _with_signature(token(), b64(bytes(200))), AuthCode.INVALID_SIGNATURE),
    Forged("another key's signature", lambda: token(key=OTHER_RSA_KEY), AuthCode.INVALID_SIGNATURE),
    Forged(
        "another token's signature",
        lambda: _with_signature(token(claims(org="victim")), token().rpartition(".")[2]),
        AuthCode.INVALID_SIGNATURE,
    ),
    Forged(
        "ES256 of zeros (CVE-2022-21449)",
        lambda: _with_signature(token(alg="ES256", kid="ec-1"), b64(bytes(64))),
        AuthCode.INVALID_SIGNATURE,
    ),
    Forged("ES256 in DER", _der_signed, AuthCode.INVALID_SIGNATURE),
    # --- header ---
    _header("crit", crit=["exp"]),
    _header("crit empty", crit=[]),
    _header("b64 false", b64=False),
    _header("zip", zip="DEF"),
    _header("jku", jku="http://127.0.0.1:9/jwks.json"),
    _header("x5u", x5u="http://127.0.0.1:9/cert.pem"),
    _header("x5c", x5c=["AAAA"]),
    _header("jwk of the forger", jwk=jwk(OTHER_RSA_KEY, "rsa-1"), key=OTHER_RSA_KEY),
    _header("cty: nested JWT", cty="JWT"),
    _header("enc: JWE in three parts", enc="A256GCM"),
    _header("unknown member", surprise=1),
    _header("typ logout", typ="logout+jwt"),
    _header("typ dpop", typ="dpop+jwt"),
    _header("typ not a string", typ=1),
    _header("typ list", typ=["JWT"]),
    _header("kid absent", AuthCode.UNKNOWN_KEY, kid=None),
    _header("kid unknown", AuthCode.UNKNOWN_KEY, kid="rsa-2"),
    _header("kid number", kid=1),
    _header("kid list", kid=["rsa-1"]),
    _header("kid path", kid="../../dev/null"),
    _header("kid URL", kid="http://127.0.0.1:9/k"),
    _header("kid SQL", kid="x' UNION SELECT 'k"),
    _header("kid newline", kid="rsa-1\n"),
    _header("kid NUL", kid="rsa-1\x00"),
    _header("kid long", kid="k" * 200),
    _header("kid empty", kid=""),
    Forged("alg twice", lambda: token(header=b'{"alg":"none","alg":"RS256","kid":"rsa-1"}'), MALFORMED),
    Forged("kid twice", lambda: token(header=b'{"alg":"RS256","kid":"rsa-1","kid":"rsa-1"}'), MALFORMED),
    Forged("header no object", lambda: token(header=b'["RS256"]'), MALFORMED),
    Forged("header null", lambda: token(header=b"null"), MALFORMED),
    Forged("header with BOM", lambda: token(header=b'\xef\xbb\xbf{"alg":"RS256","kid":"rsa-1"}'), MALFORMED),
    Forged(
        "header UTF-16", lambda: token(header='{"alg":"RS256","kid":"rsa-1"}'.encode("utf-16")), MALFORMED
    ),
    # --- form ---
    Forged("two segments", lambda: token().rpartition(".")[0], MALFORMED),
    Forged("four segments", lambda: token() + ".AAAA", MALFORMED),
    Forged("five segments (JWE)", lambda: token() + ".AAAA.AAAA", MALFORMED),
    Forged("empty header", lambda: "." + token().partition(".")[2], MALFORMED),
    Forged("empty payload", lambda: token().split(".")[0] + ".." + token().split(".")[2], MALFORMED),
    Forged("padding at the end", lambda: token() + "==", MALFORMED),
    Forged("plain base64 alphabet", lambda: token()[:-3] + "+/+", MALFORMED),
    Forged("spare bits set", lambda: _second_text(token()), MALFORMED),
    Forged("segment length 1 mod 4", lambda: _with_signature(token(), "AAAAA"), MALFORMED),
    Forged("tilde", lambda: token() + "~", MALFORMED),
    Forged("JSON serialization", lambda: json.dumps({"payload": "a.b", "signature": "c"}), MALFORMED),
    Forged("100 KB", lambda: token(claims(pad="x" * 100_000)), AuthCode.TOKEN_TOO_LARGE),
    Forged("1 MB claim", lambda: token(claims(pad="x" * 1_000_000)), AuthCode.TOKEN_TOO_LARGE),
    Forged("nested JWT as payload", lambda: token(token().encode()), MALFORMED),
    _payload("payload no JSON", b"not json", MALFORMED),
    _payload("payload list", b"[1]", MALFORMED),
    _payload("payload string", b'"x"', MALFORMED),
    _payload("payload nested deep", b'{"a":' + b"[" * 2500 + b"]" * 2500 + b"}", MALFORMED),
    _payload("claim twice", _raw('"org":"victim"'), MALFORMED),
    _payload("lone surrogate", _raw('"x":"\\ud800"'), MALFORMED),
    _payload("exp NaN", json.dumps(claims(exp=None))[:-1].encode() + b',"exp":NaN}', MALFORMED),
    _payload("exp Infinity", json.dumps(claims(exp=None))[:-1].encode() + b',"exp":Infinity}', MALFORMED),
    _payload("exp 1e999", json.dumps(claims(exp=None))[:-1].encode() + b',"exp":1e999}', MALFORMED),
    # --- dates ---
    _claim("expired", AuthCode.TOKEN_EXPIRED, exp=NOW_S - 61),
    _claim("exp 0", AuthCode.TOKEN_EXPIRED, exp=0),
    _claim("exp at the leeway's edge", AuthCode.TOKEN_EXPIRED, exp=NOW_S - 60),
    _claim("nbf in the future", AuthCode.TOKEN_NOT_YET_VALID, nbf=NOW_S + 61),
    _claim("iat in the future", AuthCode.TOKEN_NOT_YET_VALID, iat=NOW_S + 61),
    _claim("exp absent", exp=None),
    _claim("exp string", exp=str(NOW_S + 3600)),
    _claim("exp true", exp=True),
    _claim("exp negative", exp=-1),
    _claim("exp float", exp=NOW_S + 3600.5),
    _claim("exp beyond the year 9999", exp=10**12),
    _claim("exp 10^30", exp=10**30),
    _payload("exp 10^400", json.dumps(claims(exp=10**400)).encode(), MALFORMED),
    _claim("exp list", exp=[NOW_S + 3600]),
    _claim("nbf string", nbf="0"),
    _claim("iat string", iat=str(NOW_S)),
    _claim("iat false", iat=False),
    # --- who and for whom ---
    _claim("issuer unknown", AuthCode.WRONG_ISSUER, iss="https://evil.example"),
    _claim("issuer with slash", AuthCode.WRONG_ISSUER, iss=ISSUER + "/"),
    _claim("issuer in upper case", AuthCode.WRONG_ISSUER, iss=ISSUER.upper()),
    _claim("issuer absent", iss=None),
    _claim("issuer list", iss=[ISSUER]),
    _claim("audience wrong", AuthCode.WRONG_AUDIENCE, aud="other"),
    _claim("audience empty list", AuthCode.WRONG_AUDIENCE, aud=[]),
    _claim("audience absent", aud=None),
    _claim("audience object", aud={"tidegate": 1}),
    _claim("audience with a number", aud=["tidegate", 1]),
    _claim("sub absent", sub=None),
    _claim("sub number", sub=7),
    _claim("sub empty", sub=""),
    _claim("sub with newline", sub="a\r\nx-tenant: b"),
    _claim("sub long", sub="s" * 256),
    _claim("sub not an identifier", sub="auth0|alice"),
    _claim("org absent", org=None),
    _claim("org list", org=["acme"]),
    _claim("org with header injection", org="a\r\nx-tenant: b"),
    _claim("org with brace", org="a}{b"),
    _claim("org with colon", org="a:b"),
    _claim("org upper case", org="ACME"),
    _claim("org empty", org=""),
    _claim("org long", org="o" * 64),
    _claim("org with final newline", org="acme\n"),
    _claim("org homoglyph", org="аcme"),
    _claim("team number", team=3),
    _claim("tier path", tier="../gold"),
    _claim("models number", models=3),
    _claim("models with numbers", models=[1]),
    _claim("models with newline", models=["m\n"]),
    _claim("models too many", models=["m"] * 257),
    _claim("scope with double space", scope="a  b"),
)
_NULL_CLAIMS: Final = tuple(
    Forged(
        f"{name} null",
        lambda name=name: token({**claims(), name: None}),  # type: ignore[misc]
        AuthCode.INVALID_CLAIMS,
    )
    for name in ("exp", "nbf", "iat", "iss", "aud", "sub", "org", "team", "tier", "models", "scope")
)
ALL_FORGED: Final = (*FORGED, *_NULL_CLAIMS)
