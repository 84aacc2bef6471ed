"""auth.yaml: the shipped one, and what is refused with which place."""

from __future__ import annotations

from pathlib import Path

import pytest

from ext_authz.policy import AuthPolicy, load_auth_policy, read_auth_policy
from gateway.config.document import PolicyError, parse_documents

SHIPPED = Path(__file__).parents[3] / "mesh" / "base" / "policy" / "auth.yaml"


def _read(text: str) -> AuthPolicy:
    return read_auth_policy(parse_documents(text, "auth.yaml")[0])


ISSUER = """
issuers:
  - issuer: https://a.example
    audiences: [tidegate]
    algorithms: [RS256]
    jwks: {url: https://a.example/jwks}
"""


def test_shipped_policy() -> None:
    policy = load_auth_policy(SHIPPED)
    issuer = policy.issuers["https://tidegate.local"]
    assert (issuer.audiences, issuer.jwks.file) == (frozenset({"tidegate"}), "jwks.json")
    assert (policy.api_keys_file, policy.leeway_s) == ("api_keys.json", 60)


def test_defaults() -> None:
    policy = _read(ISSUER)
    issuer = policy.issuers["https://a.example"]
    assert (issuer.claims.user, issuer.claims.scopes, issuer.defaults.tier) == ("sub", "scope", "standard")
    assert policy.api_keys_file == ""


def test_claims_and_defaults_are_read() -> None:
    policy = _read(
        ISSUER + "    claims: {org: tenant, key: jti}\n    defaults: {tier: gold, models: [b, a]}\n"
    )
    issuer = policy.issuers["https://a.example"]
    assert (issuer.claims.org, issuer.claims.key) == ("tenant", "jti")
    assert (issuer.defaults.tier, issuer.defaults.models) == ("gold", ("a", "b"))


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("issuers: []", "nobody could come in"),
        (ISSUER.replace("RS256", "HS256"), r"issuers\[0\].algorithms\[0\]"),
        (ISSUER.replace("RS256", "none"), r"issuers\[0\].algorithms\[0\]"),
        (
            ISSUER.replace("https://a.example/jwks", "http://a.example/jwks"),
            r"issuers\[0\].jwks.url: must be https",
        ),
        (ISSUER.replace("https://a.example/jwks", "file:///etc/passwd"), r"issuers\[0\].jwks.url"),
        (ISSUER.replace("https://a.example/jwks", "http://169.254.169.254/x"), r"issuers\[0\].jwks.url"),
        (ISSUER.replace("https://a.example/jwks", "https://u:p@a.example/x"), r"issuers\[0\].jwks.url"),
        (
            ISSUER.replace("https://a.example/jwks", "http://127.0.0.1.evil.example/x"),
            r"issuers\[0\].jwks.url",
        ),
        (ISSUER.replace("https://a.example/jwks", "'https://[::1'"), r"issuers\[0\].jwks.url: is not a URL"),
        (ISSUER.replace("{url: https://a.example/jwks}", "{file: ../jwks.json}"), r"issuers\[0\].jwks.file"),
        (ISSUER.replace("{url: https://a.example/jwks}", "{}"), r"issuers\[0\].jwks"),
        (ISSUER + ISSUER.removeprefix("\nissuers:\n"), "stands twice"),
        (ISSUER + "leeway_seconds: 301", "leeway_seconds"),
        (ISSUER + "leewaySeconds: 3", "leewaySeconds: unknown field"),
        ("api_keys: /etc/keys.json", "api_keys"),
    ],
)
def test_refused_with_its_place(text: str, place: str) -> None:
    with pytest.raises(PolicyError, match=place):
        _read(text)


@pytest.mark.parametrize("url", ["http://127.0.0.1:8000/j", "http://localhost/j", "http://[::1]:1/j"])
def test_loopback_may_be_http(url: str) -> None:
    policy = _read(ISSUER.replace("https://a.example/jwks", f'"{url}"'))
    assert policy.issuers["https://a.example"].jwks.url == url
