"""The identity policy: one immutable snapshot of auth.yaml (schema: policy.schema.json beside this file)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import orjson

from gateway.config.document import Document, PolicyError, read_document, validate
from gateway.contract.units import Seconds

FILE: Final = "auth.yaml"
"""Its name in the policy directory."""
LEEWAY_DEFAULT: Final = Seconds(60)
"""Clock difference allowed unless the policy says otherwise."""
_LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "::1"})


@dataclass(frozen=True, slots=True, kw_only=True)
class JwksSource:
    """Where an issuer's keys come from: exactly one of ``file`` (secrets directory) and ``url``."""

    file: str = ""
    url: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimNames:
    """Which claim holds which part of the Principal."""

    org: str = "org"
    team: str = "team"
    user: str = "sub"
    key: str = ""
    """Empty: the key level is derived from issuer and subject."""
    tier: str = "tier"
    models: str = "models"
    scopes: str = "scope"


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimDefaults:
    """What an absent claim means. There is none for org and user: nobody may be anybody."""

    team: str = "default"
    tier: str = "standard"
    models: tuple[str, ...] = ("*",)
    scopes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Issuer:
    """One issuer of JWTs."""

    issuer: str
    audiences: frozenset[str]
    algorithms: frozenset[str]
    jwks: JwksSource
    claims: ClaimNames = ClaimNames()
    defaults: ClaimDefaults = ClaimDefaults()


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthPolicy:
    """All of auth.yaml. ``issuers`` by the exact text of ``iss``."""

    issuers: Mapping[str, Issuer]
    api_keys_file: str = ""
    """Empty: API keys are not accepted."""
    leeway_s: int = int(LEEWAY_DEFAULT)


@cache
def _schema() -> dict[str, Any]:
    loaded: dict[str, Any] = orjson.loads((Path(__file__).parent / "policy.schema.json").read_bytes())
    return loaded


def _url_fault(url: str) -> str:
    """Why ``url`` is not fetched from; empty when it is fine."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        return "is not a URL"
    if not host or parts.username or parts.password or parts.fragment:
        return "must have a host and no user, password or fragment"
    if parts.scheme == "https" or (parts.scheme == "http" and host in _LOOPBACK):
        return ""
    return "must be https (http only on a loopback host): keys fetched in the clear can be replaced"


def _issuer(data: Mapping[str, Any]) -> Issuer:
    defaults = dict(data.get("defaults", {}))
    for name in ("models", "scopes"):
        if name in defaults:
            defaults[name] = tuple(sorted(defaults[name]))
    return Issuer(
        issuer=data["issuer"],
        audiences=frozenset(data["audiences"]),
        algorithms=frozenset(data["algorithms"]),
        jwks=JwksSource(**data["jwks"]),
        claims=ClaimNames(**data.get("claims", {})),
        defaults=ClaimDefaults(**defaults),
    )


def read_auth_policy(document: Document) -> AuthPolicy:
    """The policy in ``document``. Raises PolicyError with every problem."""
    validate(document, _schema())
    data, problems = document.data, []
    issuers: dict[str, Issuer] = {}
    for index, entry in enumerate(data.get("issuers", [])):
        issuer = _issuer(entry)
        if issuer.issuer in issuers:
            problems.append(
                document.problem(("issuers", index, "issuer"), "the issuer stands twice", "merge the entries")
            )
        if issuer.jwks.url and (fault := _url_fault(issuer.jwks.url)):
            problems.append(document.problem(("issuers", index, "jwks", "url"), fault, "use an https URL"))
        issuers[issuer.issuer] = issuer
    api_keys_file = data.get("api_keys", "")
    if not issuers and not api_keys_file:
        problems.append(document.problem((), "nobody could come in", "give issuers or api_keys"))
    if problems:
        raise PolicyError(problems)
    return AuthPolicy(
        issuers=issuers,
        api_keys_file=api_keys_file,
        leeway_s=data.get("leeway_seconds", int(LEEWAY_DEFAULT)),
    )


def load_auth_policy(path: Path) -> AuthPolicy:
    """The policy in the file ``path``. Raises PolicyError."""
    return read_auth_policy(read_document(path))
