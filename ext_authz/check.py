"""The Check call: a credential to a Principal, through the token cache and the issuers' keys."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from ext_authz.codec import read_check, write_decision
from ext_authz.decision import (
    Allow,
    AuthCode,
    Credential,
    Decision,
    Deny,
    KeysUnavailable,
    NotVerified,
    Unavailable,
    decide,
    read_credential,
)
from ext_authz.identity import issuer_of, verify
from ext_authz.jose import parse_jwt
from ext_authz.keys.api_keys import check_api_key
from ext_authz.keys.jwks import IssuerKeys
from ext_authz.policy import AuthPolicy, Issuer
from ext_authz.token_cache import CachedToken, TokenCache
from gateway.contract.clock import Clock
from gateway.contract.principal import Principal
from gateway.keys.api_key import ApiKeys
from gateway.telemetry import names
from gateway.telemetry.metrics import child, counter


class KeySources(Protocol):
    """Where keys are looked up (ext_authz.keys.sources)."""

    def issuer_keys(self, issuer: Issuer) -> IssuerKeys:
        """The keys of ``issuer``."""

    def api_keys(self) -> ApiKeys:
        """All API keys. Raises KeysUnavailable."""


class Checker:
    """Answers Check calls. One for each process."""

    def __init__(
        self,
        policy: Callable[[], AuthPolicy],
        sources: KeySources,
        clock: Clock,
        *,
        cache: TokenCache | None = None,
    ) -> None:
        """``policy()`` is the snapshot in force; each call uses one snapshot throughout."""
        self._policy = policy
        self._sources = sources
        self._clock = clock
        self._cache = TokenCache() if cache is None else cache
        self._checks = counter(names.AUTHZ_CHECKS, "ext_authz verdicts", ["verdict", "code"])
        self._lookups = counter(names.AUTHZ_TOKEN_CACHE, "Verified-token cache", ["result"])

    async def check(self, _metadata: Mapping[str, str], request: bytes) -> bytes:
        """CheckRequest to CheckResponse; a UnaryHandler."""
        return write_decision(await self.decide(read_check(request).authorizations))

    async def decide(self, authorizations: Sequence[str]) -> Decision:
        """The decision for a request with these Authorization headers."""
        outcome: Principal | NotVerified | KeysUnavailable
        try:
            outcome = await self._principal(read_credential(authorizations))
        except (NotVerified, KeysUnavailable) as refusal:
            outcome = refusal
        decision = decide(outcome)
        match decision:
            case Allow():
                child(self._checks, "allow", "ok").inc()
            case Deny(error=error):
                child(self._checks, "deny", error.code).inc()
            case Unavailable(error=outage):
                child(self._checks, "unavailable", outage.code).inc()
        return decision

    async def _principal(self, credential: Credential) -> Principal:
        if credential.is_api_key:
            return check_api_key(credential.token, self._sources.api_keys(), now=self._clock.unix_ms())
        policy = self._policy()
        cached = self._remembered(credential.token, policy)
        child(self._lookups, "miss" if cached is None else "hit").inc()
        return await self._verified(credential.token, policy) if cached is None else cached

    def _remembered(self, text: str, policy: AuthPolicy) -> Principal | None:
        """The Principal of a token verified before, if all it was verified with still stands."""
        entry = self._cache.get(text)
        if entry is None:
            return None
        if entry.policy is policy and self._clock.unix_ms() < entry.verified.good_until:
            keys = self._sources.issuer_keys(policy.issuers[entry.issuer])
            if keys.known(entry.key.kid) is entry.key:
                return entry.verified.principal
        self._cache.drop(text)
        return None

    async def _verified(self, text: str, policy: AuthPolicy) -> Principal:
        token = parse_jwt(text)
        issuer = issuer_of(token, policy)
        key = await self._sources.issuer_keys(issuer).find(token.kid)
        if key is None:
            raise NotVerified(AuthCode.UNKNOWN_KEY)
        verified = verify(token, key, issuer, now=self._clock.unix_ms(), leeway_s=policy.leeway_s)
        self._cache.put(text, CachedToken(verified=verified, issuer=issuer.issuer, key=key, policy=policy))
        return verified.principal
