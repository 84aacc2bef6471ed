"""A Checker over fixed keys, a manual clock at the forge's now."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from ext_authz.check import Checker
from ext_authz.decision import KeysUnavailable
from ext_authz.keys.jwk import KeySet, VerifyKey, parse_key_set
from ext_authz.policy import AuthPolicy, Issuer
from ext_authz.token_cache import TokenCache
from gateway.contract.clock import ManualClock
from gateway.keys.api_key import ApiKeys
from tests.unit.ext_authz import forge


@dataclass
class FixedKeys:
    """IssuerKeys over a set that a test replaces; None is an outage."""

    keys: KeySet | None
    asked: int = 0

    def known(self, kid: str) -> VerifyKey | None:
        return None if self.keys is None else self.keys.get(kid)

    async def find(self, kid: str) -> VerifyKey | None:
        self.asked += 1
        if self.keys is None:
            raise KeysUnavailable
        return self.keys.get(kid)

    async def run(self) -> None:
        """Nothing to refresh."""


@dataclass
class Bench:
    """A checker and everything it looks at, for a test to change."""

    clock: ManualClock = field(default_factory=lambda: ManualClock(now_ms=forge.NOW_S * 1000))
    issuer: FixedKeys = field(default_factory=lambda: FixedKeys(parse_key_set(forge.JWKS)))
    api_key_set: ApiKeys | None = field(default_factory=dict)
    policy: AuthPolicy = forge.POLICY
    cache: TokenCache = field(default_factory=TokenCache)

    def __post_init__(self) -> None:
        self.checker = Checker(lambda: self.policy, self, self.clock, cache=self.cache)

    def issuer_keys(self, issuer: Issuer) -> FixedKeys:
        return self.issuer

    def api_keys(self) -> ApiKeys:
        if self.api_key_set is None:
            raise KeysUnavailable
        return self.api_key_set


@pytest.fixture
def bench() -> Bench:
    return Bench()
