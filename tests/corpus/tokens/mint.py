"""A case's JSON to the credential it describes.

Placeholders in any text: ``{now+60}`` (seconds; a number where it is a whole value), ``{repeat x 200}``,
``{jwk NAME}`` and ``{x5c NAME}`` (as whole values), ``{canary}`` (host and port of a listener that nobody may
connect to), ``{good}`` (a token that is accepted), ``{good.signature}``, ``{key NAME}`` (an API key),
``{token}`` (the case's own).
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from tests.corpus.tokens.keyring import AUDIENCE, ISSUER, Keyring, public_jwk, public_pem

_P256_ORDER: Final = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
_ED25519_ORDER: Final = 2**252 + 27742317777372353535851937790883648493
_PLACEHOLDER: Final = re.compile(
    r"\{(now)([+-]\d+)?\}|\{(repeat|jwk|x5c|key) ([^{}]*)\}|\{(canary|good|good\.signature|token)\}"
)
_ALPHABET: Final = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
GOOD_HEADER: Final = {"alg": "EdDSA", "typ": "JWT", "kid": "ed-1"}
GOOD_CLAIMS: Final = {
    "iss": ISSUER,
    "aud": AUDIENCE,
    "sub": "alice",
    "org": "acme",
    "iat": "{now-10}",
    "exp": "{now+3600}",
}


def base64url(data: bytes) -> str:
    """Without padding (RFC 7515 section 2)."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def _raw_es256(key: Any, data: bytes) -> tuple[int, int]:
    return decode_dss_signature(key.sign(data, ec.ECDSA(hashes.SHA256())))


def _pair(r: int, s: int, size: int = 32) -> bytes:
    return r.to_bytes(size, "big") + s.to_bytes(size, "big")


def _rsa(scheme: Any, digest: Any) -> Callable[[Any, bytes], bytes]:
    def sign(key: rsa.RSAPrivateKey, data: bytes) -> bytes:
        return key.sign(data, scheme, digest)

    return sign


def _ed25519_plus_order(key: Any, data: bytes) -> bytes:
    signed: bytes = key.sign(data)
    return signed[:32] + (int.from_bytes(signed[32:], "little") + _ED25519_ORDER).to_bytes(32, "little")


def _high_s(key: Any, data: bytes) -> bytes:
    r, s = _raw_es256(key, data)
    return _pair(r, max(s, _P256_ORDER - s))


def _low_s(key: Any, data: bytes) -> bytes:
    r, s = _raw_es256(key, data)
    return _pair(r, min(s, _P256_ORDER - s))


SIGNERS: Final[Mapping[str, Callable[[Any, bytes], bytes]]] = {
    "EdDSA": lambda key, data: key.sign(data),
    "EdDSA s+L": _ed25519_plus_order,
    "RS256": _rsa(padding.PKCS1v15(), hashes.SHA256()),
    "RS384": _rsa(padding.PKCS1v15(), hashes.SHA384()),
    "RS512": _rsa(padding.PKCS1v15(), hashes.SHA512()),
    "PS256": _rsa(padding.PSS(padding.MGF1(hashes.SHA256()), 32), hashes.SHA256()),
    "ES256": lambda key, data: _pair(*_raw_es256(key, data)),
    "ES256 high s": _high_s,
    "ES256 low s": _low_s,
    "ES256 DER": lambda key, data: key.sign(data, ec.ECDSA(hashes.SHA256())),
    "ES256 33-byte halves": lambda key, data: _pair(*_raw_es256(key, data), size=33),
    "ES384": lambda key, data: _pair(
        *decode_dss_signature(key.sign(data, ec.ECDSA(hashes.SHA384()))), size=48
    ),
}


def _hmac_secret(named: str, keyring: Keyring) -> bytes:
    """``pem NAME``, ``jwk NAME``, ``x NAME`` (the bytes of an OKP key), ``jwks`` or a plain text."""
    kind, _, name = named.partition(" ")
    match kind:
        case "pem":
            return public_pem(keyring.keys[name])
        case "jwk":
            return json.dumps(public_jwk(keyring.keys[name])).encode()
        case "x":
            return bytes(keyring.keys[name].public_key().public_bytes_raw())
        case "jwks":
            return keyring.jwks()
        case _:
            return named.encode()


@dataclass(frozen=True)
class Mint:
    """Makes credentials as of ``now_s`` (Unix seconds); ``canary``: the host and port nobody may ask."""

    keyring: Keyring
    now_s: int
    canary: str

    def good(self) -> str:
        """A token that is accepted: EdDSA, org acme, user alice."""
        return self.token({})

    def value(self, given: Any, token: str = "") -> Any:
        """``given`` with its placeholders filled in."""
        if isinstance(given, dict):
            return {self.text(name, token): self.value(inner, token) for name, inner in given.items()}
        if isinstance(given, list):
            return [self.value(inner, token) for inner in given]
        if not isinstance(given, str):
            return given
        whole = _PLACEHOLDER.fullmatch(given)
        return (
            given
            if "{" not in given
            else self.text(given, token)
            if whole is None
            else self._filled(whole, token)
        )

    def text(self, given: str, token: str = "") -> str:
        """``given`` with its placeholders filled in, as text."""
        return _PLACEHOLDER.sub(lambda match: str(self._filled(match, token)), given)

    def _filled(self, match: re.Match[str], token: str) -> Any:
        if match[1]:
            return self.now_s + int(match[2] or 0)
        match match[3] or match[5]:
            case "repeat":
                text, _, count = match[4].rpartition(" ")
                return text * int(count)
            case "jwk":
                return {**public_jwk(self.keyring.keys[match[4]]), "kid": "ed-1"}
            case "x5c":
                der = public_pem(self.keyring.keys[match[4]]).split(b"\n")[1:-2]
                return [b"".join(der).decode("ascii")]
            case "key":
                return self.keyring.api_key(match[4])
            case "canary":
                return self.canary
            case "good":
                return self.good()
            case "good.signature":
                return self.good().rpartition(".")[2]
            case _:
                return token

    def _part(self, spec: Mapping[str, Any], name: str, good: Mapping[str, Any]) -> str:
        """``<name>_text`` as it stands, or the good members, ``<name>`` over them, ``<name>_without`` off."""
        if f"{name}_hex" in spec:
            return base64url(bytes.fromhex(spec[f"{name}_hex"]))
        if f"{name}_text" in spec:
            return base64url(self.text(spec[f"{name}_text"]).encode("utf-8"))
        left_out = spec.get(f"{name}_without", [])
        members = {key: value for key, value in {**good, **spec.get(name, {})}.items() if key not in left_out}
        return base64url(json.dumps(self.value(members)).encode())

    def token(self, spec: Mapping[str, Any]) -> str:
        """The JWT of a case's ``make``: header, claims, ``sign`` and, in order, ``tamper``."""
        head = self._part(spec, "header", GOOD_HEADER)
        signing_input = f"{head}.{self._part(spec, 'claims', GOOD_CLAIMS)}"
        token = f"{signing_input}.{self._signature(spec.get('sign', {}), signing_input)}"
        for step in spec.get("tamper", []):
            token = self._tampered(token, step)
        return token

    def _signature(self, sign: Mapping[str, str], signing_input: str) -> str:
        data = signing_input.encode("ascii")
        if "text" in sign:
            return self.text(sign["text"])
        if "hex" in sign:
            return base64url(bytes.fromhex(self.text(sign["hex"])))
        if "hmac" in sign:
            digest = sign.get("digest", "sha256")
            secret = _hmac_secret(sign["hmac"], self.keyring)
            return base64url(hmac.new(secret, data, getattr(hashlib, digest)).digest())
        signer = SIGNERS[sign.get("as", "EdDSA")]
        return base64url(signer(self.keyring.keys[sign.get("key", "ed-1")], data))

    def _tampered(self, token: str, step: Mapping[str, Any]) -> str:
        """One of: append, prepend, cut (characters off the end), segment (with ``set``, ``insert`` and
        ``at``, ``flip`` at a place, ``spare_bits``, ``pad``)."""
        if "segment" not in step:
            kept = token[: len(token) - step.get("cut", 0)]
            return self.text(step.get("prepend", "")) + kept + self.text(step.get("append", ""))
        segments = token.split(".")
        old = segments[step["segment"]]
        if "set" in step:
            new = self.text(step["set"])
        elif "insert" in step:
            new = old[: step["at"]] + step["insert"] + old[step["at"] :]
        elif "flip" in step:
            at = step["flip"]
            new = old[:at] + ("A" if old[at] != "A" else "B") + old[at + 1 :]
        elif "spare_bits" in step:
            assert len(old) % 4, "no spare bits in this segment"
            new = old[:-1] + _ALPHABET[_ALPHABET.index(old[-1]) ^ 1]
        else:
            assert len(old) % 4, "this segment takes no padding"
            new = old + "=" * (-len(old) % 4)
        return ".".join((*segments[: step["segment"]], new, *segments[step["segment"] + 1 :]))
