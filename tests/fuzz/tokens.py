"""The JWT path under fuzz: a changed token is refused, with a code of the list."""

from __future__ import annotations

import json
import random
from collections.abc import Coroutine
from typing import Any, Final

from ext_authz.check import Checker
from ext_authz.decision import Allow, AuthCode, Decision, Deny
from ext_authz.token_cache import TokenCache
from gateway.contract.clock import ManualClock
from tests.corpus.tokens.keyring import Keyring
from tests.corpus.tokens.mint import GOOD_CLAIMS, GOOD_HEADER, Mint, base64url
from tests.fuzz.mutation import changed_text, changed_value
from tests.fuzz.test_token_corpus import KEYRING, MINT, NOW_S, POLICY, Sources

_ALPHABET: Final = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_=.+/~ ,é\0\n"
_NAMES: Final = (
    *("alg", "typ", "kid", "crit", "b64", "zip", "jku", "jwk", "x5c", "x5u", "cty", "x5t"),
    *("iss", "aud", "sub", "org", "team", "tier", "exp", "nbf", "iat", "models", "scope", "x"),
)
_CODES: Final = frozenset(code.value for code in AuthCode)


def now(decision: Coroutine[Any, Any, Decision]) -> Decision:
    """The result of a coroutine that waits for nothing, without a loop."""
    try:
        decision.send(None)
    except StopIteration as done:
        made: Decision = done.value
        return made
    raise AssertionError("the decision waits for something")


class Gate:
    """A checker over the corpus's keys, and a good token for it."""

    def __init__(self, keyring: Keyring = KEYRING, mint: Mint = MINT) -> None:
        """The clock stands."""
        self.good = mint.good()
        self.principal = self._allowed(self._checker(), self.good)
        self._keyring, self._mint = keyring, mint
        self._checks = self._checker()
        self._header, self._claims = (dict(GOOD_HEADER), mint.value(GOOD_CLAIMS))
        self._signature = self.good.rpartition(".")[2]

    @staticmethod
    def _checker() -> Checker:
        clock = ManualClock(now_ms=NOW_S * 1000)
        return Checker(lambda: POLICY, Sources(), clock, cache=TokenCache(entries_max=100))

    @staticmethod
    def _allowed(checker: Checker, token: str) -> Any:
        decision = now(checker.decide([f"Bearer {token}"]))
        assert isinstance(decision, Allow)
        return decision.principal

    def forged_from(self, rng: random.Random) -> str:
        """A token that nobody signed as it stands: its text, its header or its claims are changed."""
        match rng.randrange(4):
            case 0 | 1:
                return changed_text(rng, self.good, _ALPHABET)
            case 2:
                header = changed_value(rng, self._header, _NAMES)
                return f"{_part(header)}.{self.good.split('.')[1]}.{self._signature}"
            case _:
                claims = changed_value(rng, self._claims, _NAMES)
                return f"{self.good.split('.')[0]}.{_part(claims)}.{self._signature}"

    def check_forged(self, token: str) -> None:
        """Refused, unless it is the good one."""
        decision = now(self._checks.decide([f"Bearer {token}"]))
        if isinstance(decision, Allow):
            assert token.strip(" \t") == self.good
            assert decision.principal == self.principal
            return
        assert isinstance(decision, Deny)
        assert decision.error.http_status == 401
        assert decision.error.code in _CODES

    def check_signed(self, rng: random.Random) -> None:
        """Odd claims of a careless but real issuer: a decision comes; a caller only if well-formed."""
        claims = changed_value(rng, self._claims, _NAMES)
        signing_input = f"{_part(self._header)}.{_part(claims)}"
        signature = self._keyring.keys["ed-1"].sign(signing_input.encode())
        decision = now(self._checks.decide([f"Bearer {signing_input}.{base64url(signature)}"]))
        assert isinstance(decision, Allow | Deny)
        if isinstance(decision, Allow):
            assert (decision.principal.org, decision.principal.user) == (claims["org"], claims["sub"])


def _part(value: object) -> str:
    return base64url(json.dumps(value).encode())
