"""The token corpus against the decision itself, over fixed keys and a clock that stands."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from ext_authz.check import Checker
from ext_authz.decision import Allow, AuthCode, Deny, Unavailable
from ext_authz.keys.jwk import KeySet, VerifyKey, parse_key_set
from ext_authz.policy import AuthPolicy, Issuer, load_auth_policy
from ext_authz.token_cache import TokenCache
from gateway.contract.clock import ManualClock
from gateway.keys.api_key import ApiKeys, parse_api_keys
from tests.corpus.tokens.cases import Case, Expected, cases
from tests.corpus.tokens.keyring import POLICY_FILE, Keyring
from tests.corpus.tokens.mint import Mint

NOW_S = 1_800_000_000
CASES_MIN = 150
KEYRING = Keyring()
_BEFORE_ANY_KEY = {AuthCode.FORBIDDEN_HEADER, AuthCode.MALFORMED_CREDENTIAL, AuthCode.TOKEN_TOO_LARGE}
"""Refused without a look at the keys: no text of a forger's is looked up anywhere."""
MINT = Mint(keyring=KEYRING, now_s=NOW_S, canary="127.0.0.1:9")


@dataclass
class Published:
    """IssuerKeys over the keyring, with what was looked up in it."""

    keys: KeySet = field(default_factory=lambda: parse_key_set(KEYRING.jwks()))
    asked: list[str] = field(default_factory=list)

    def known(self, kid: str) -> VerifyKey | None:
        return self.keys.get(kid)

    async def find(self, kid: str) -> VerifyKey | None:
        self.asked.append(kid)
        return self.keys.get(kid)

    async def run(self) -> None:
        """Nothing to refresh."""


@dataclass
class Sources:
    """KeySources over the keyring."""

    published: Published = field(default_factory=Published)
    keys: ApiKeys = field(default_factory=lambda: parse_api_keys(KEYRING.api_keys()))

    def issuer_keys(self, issuer: Issuer) -> Published:
        return self.published

    def api_keys(self) -> ApiKeys:
        return self.keys


POLICY: AuthPolicy = load_auth_policy(POLICY_FILE)


async def _outcome(checker: Checker, authorizations: list[str]) -> Expected:
    match await checker.decide(authorizations):
        case Allow():
            return Expected(status=200, code="")
        case Deny(error=error):
            return Expected(status=error.http_status, code=error.code)
        case Unavailable(error=outage):
            return Expected(status=outage.http_status, code=outage.code)


@pytest.mark.parametrize("case", cases(), ids=lambda case: case.name)
async def test_the_credential_is_what_its_file_says(case: Case) -> None:
    cache, sources = TokenCache(), Sources()
    checker = Checker(lambda: POLICY, sources, ManualClock(now_ms=NOW_S * 1000), cache=cache)
    authorizations = case.authorizations(MINT)
    for _ in range(2):  # the second time from whatever a cache may have kept
        assert await _outcome(checker, authorizations) == case.expect
    assert case.expect.status == 200 or len(cache) == 0
    if case.expect.code in _BEFORE_ANY_KEY:
        assert sources.published.asked == []


def test_the_corpus_is_as_long_as_promised_and_each_credential_is_another() -> None:
    refused = [case for case in cases() if case.expect.status != 200]
    assert len(refused) >= CASES_MIN
    specs = [
        repr((case.spec.get("make"), case.spec.get("authorization"), case.spec.get("headers")))
        for case in cases()
    ]
    assert len(set(specs)) == len(specs)


def test_every_code_of_a_refusal_has_its_case() -> None:
    assert {case.expect.code for case in cases()} - {""} == {code.value for code in AuthCode}
