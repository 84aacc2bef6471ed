"""Decisions beyond one token: credentials, outages, the token cache, the wire."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from ext_authz.codec import read_check, write_decision
from ext_authz.decision import (
    MESSAGES,
    Allow,
    AuthCode,
    Deny,
    KeysUnavailable,
    NotVerified,
    Unavailable,
    decide,
    read_credential,
)
from ext_authz.identity import Verified
from ext_authz.keys.jwk import parse_key_set
from ext_authz.token_cache import CachedToken, TokenCache
from gateway.contract.principal import Principal
from gateway.contract.units import UnixMillis
from gateway.sidecar import wire
from tests.unit.ext_authz import forge
from tests.unit.ext_authz.conftest import Bench
from tests.unit.ext_authz.forge import claims, jwk, jwks, token


async def _code(bench: Bench, *authorizations: str) -> str:
    decision = await bench.checker.decide(authorizations)
    match decision:
        case Allow():
            return "allow"
        case Deny(error=error):
            return error.code
        case Unavailable(error=outage):
            return outage.code


@pytest.mark.parametrize(
    ("authorizations", "code"),
    [
        ((), AuthCode.MISSING_CREDENTIAL),
        (("",), AuthCode.MISSING_CREDENTIAL),
        ((" \t",), AuthCode.MISSING_CREDENTIAL),
        (("Bearer",), AuthCode.MALFORMED_CREDENTIAL),
        (("Bearer ",), AuthCode.MALFORMED_CREDENTIAL),
        (("Basic YWxpY2U6c2VjcmV0",), AuthCode.MALFORMED_CREDENTIAL),
        (("Bearer a b",), AuthCode.MALFORMED_CREDENTIAL),
        (("Bearer\ta",), AuthCode.MALFORMED_CREDENTIAL),
        (("Bearer a\r\nx-org: b",), AuthCode.MALFORMED_CREDENTIAL),
        (("Bearer ключ",), AuthCode.MALFORMED_CREDENTIAL),
        (("Bearer sk-somebody-elses-key",), AuthCode.INVALID_API_KEY),
        (("Bearer tg-x.y.z",), AuthCode.INVALID_API_KEY),
        (("Bearer a", "Bearer a"), AuthCode.SEVERAL_CREDENTIALS),
        (("", "Bearer a"), AuthCode.SEVERAL_CREDENTIALS),
        (("Bearer a,Bearer b",), AuthCode.SEVERAL_CREDENTIALS),
        (("Basic a,Bearer b",), AuthCode.SEVERAL_CREDENTIALS),
        (('Bearer a, realm="b c"',), AuthCode.MALFORMED_CREDENTIAL),
        (("Bearer a,b",), AuthCode.MALFORMED_CREDENTIAL),
        (("Bearer " + "a" * 8193,), AuthCode.TOKEN_TOO_LARGE),
    ],
)
async def test_credential_forms(bench: Bench, authorizations: tuple[str, ...], code: AuthCode) -> None:
    assert await _code(bench, *authorizations) == code


def test_every_code_has_a_message() -> None:
    assert set(MESSAGES) == set(AuthCode)


def test_credential_kinds() -> None:
    assert read_credential(["Bearer tg-a-b"]).is_api_key
    assert not read_credential(["BEARER a.b.c"]).is_api_key


async def test_no_keys_is_unavailable_never_a_denial(bench: Bench) -> None:
    bench.issuer.keys, bench.api_key_set = None, None
    assert await _code(bench, f"Bearer {token()}") == "identity_unavailable"
    assert await _code(bench, "Bearer tg-demo-" + "a" * 43) == "identity_unavailable"
    assert await _code(bench, "Bearer a.b.c") == AuthCode.MALFORMED_CREDENTIAL, (
        "no key is needed to refuse it"
    )


async def test_cached_token_asks_nobody_until_it_expires(bench: Bench) -> None:
    bearer = f"Bearer {token()}"
    assert [await _code(bench, bearer) for _ in range(3)] == ["allow"] * 3
    assert bench.issuer.asked == 1
    bench.clock.now_ms = (forge.NOW_S + 3600 + 60) * 1000 - 1
    assert await _code(bench, bearer) == "allow"
    bench.clock.advance_ms(1)
    assert await _code(bench, bearer) == AuthCode.TOKEN_EXPIRED
    assert len(bench.cache) == 0


async def test_rotated_out_key_takes_its_cached_tokens_along(bench: Bench) -> None:
    bearer = f"Bearer {token()}"
    assert await _code(bench, bearer) == "allow"
    bench.issuer.keys = parse_key_set(jwks(jwk(forge.EC_KEY, "ec-1")))
    assert await _code(bench, bearer) == AuthCode.UNKNOWN_KEY


async def test_replaced_key_under_the_same_kid_ends_its_tokens(bench: Bench) -> None:
    bearer = f"Bearer {token()}"
    assert await _code(bench, bearer) == "allow"
    bench.issuer.keys = parse_key_set(jwks(jwk(forge.OTHER_RSA_KEY, "rsa-1")))
    assert await _code(bench, bearer) == AuthCode.INVALID_SIGNATURE


async def test_outage_ends_cached_tokens_too(bench: Bench) -> None:
    """``known`` is None once the last good set is older than its stale bound."""
    bearer = f"Bearer {token()}"
    assert await _code(bench, bearer) == "allow"
    bench.issuer.keys = None
    assert await _code(bench, bearer) == "identity_unavailable"


async def test_policy_change_ends_cached_tokens(bench: Bench) -> None:
    bearer = f"Bearer {token()}"
    assert await _code(bench, bearer) == "allow"
    issuer = dataclasses.replace(forge.POLICY.issuers[forge.ISSUER], audiences=frozenset({"another"}))
    bench.policy = dataclasses.replace(forge.POLICY, issuers={forge.ISSUER: issuer})
    assert await _code(bench, bearer) == AuthCode.WRONG_AUDIENCE
    bench.policy = dataclasses.replace(forge.POLICY, issuers={})
    assert await _code(bench, bearer) == AuthCode.WRONG_ISSUER


async def test_tokens_that_share_a_prefix_stay_apart(bench: Bench) -> None:
    """CVE-2026-35030: a cache keyed by the first characters let one caller be another."""
    alice, bob = token(), token(claims(sub="bob"))
    assert alice[:20] == bob[:20]
    for text, user in ((alice, "alice"), (bob, "bob"), (alice, "alice")):
        decision = await bench.checker.decide([f"Bearer {text}"])
        assert isinstance(decision, Allow)
        assert decision.principal.user == user


def _entry(bench: Bench) -> CachedToken:
    assert bench.issuer.keys is not None
    principal = Principal.from_fields(
        {"org": "a", "team": "a", "user": "a", "key": "a", "tier": "a", "models": ["*"]}
    )
    return CachedToken(
        verified=Verified(principal=principal, good_until=UnixMillis(1)),
        issuer=forge.ISSUER,
        key=bench.issuer.keys["rsa-1"],
        policy=bench.policy,
    )


def test_cache_is_bounded_in_entries_and_bytes(bench: Bench) -> None:
    cache = TokenCache(entries_max=3, bytes_max=100)
    for text in ("a", "b", "c"):
        cache.put(text, _entry(bench))
    assert cache.get("a") is not None
    cache.put("d", _entry(bench))
    assert cache.get("b") is None, "least recently used goes first"
    cache.put("x" * 99, _entry(bench))
    assert (len(cache), cache.size) == (2, 100)
    cache.put("x" * 99, _entry(bench))
    assert (len(cache), cache.size) == (2, 100)
    cache.put("y" * 101, _entry(bench))
    assert (len(cache), cache.size) == (0, 0)
    cache.put("a", _entry(bench))
    cache.clear()
    assert (len(cache), cache.size) == (0, 0)


# --- the wire ---


def _request(*headers: tuple[str, str], raw: bool = False) -> bytes:
    request = wire.CheckRequest()
    http = request.attributes.request.http
    for name, value in headers:
        if raw:
            http.header_map.headers.add(key=name, raw_value=value.encode())
        else:
            http.headers[name] = value
    return bytes(request.SerializeToString())


def test_facts_of_both_header_forms() -> None:
    assert read_check(_request(("authorization", "Bearer a"), ("x", "y"))).authorizations == ("Bearer a",)
    several = _request(("authorization", "Bearer a"), ("Authorization", "Bearer b"), raw=True)
    assert read_check(several).authorizations == ("Bearer a", "Bearer b")
    assert read_check(b"").authorizations == ()


def test_garbage_is_an_error_not_a_fact() -> None:
    with pytest.raises(wire.DecodeError):
        read_check(b"\xff\xff\xff")


async def test_allow_says_so_twice_and_carries_the_principal(bench: Bench) -> None:
    reply = await bench.checker.check({}, _request(("authorization", f"Bearer {token()}")))
    response = wire.CheckResponse.FromString(reply)
    assert response.HasField("status")
    assert (response.status.code, response.WhichOneof("http_response")) == (0, "ok_response")
    fields = dict(response.dynamic_metadata["principal"].items())
    assert fields["org"] == "acme"
    assert Principal.from_fields({**fields, "models": list(fields["models"]), "scopes": []}).user == "alice"


def _denial(reply: bytes) -> tuple[Any, dict[str, str], dict[str, Any]]:
    response = wire.CheckResponse.FromString(reply)
    assert response.WhichOneof("http_response") == "denied_response"
    assert response.status.code != 0, "a denial never has the code that allows"
    headers = {option.header.key: option.header.value for option in response.denied_response.headers}
    return response, headers, json.loads(response.denied_response.body)["error"]


@pytest.mark.parametrize("code", AuthCode)
def test_denial_is_a_401_in_openais_shape(code: AuthCode) -> None:
    response, headers, error = _denial(write_decision(decide(NotVerified(code))))
    assert response.denied_response.status.code == 401
    told = "" if code is AuthCode.MISSING_CREDENTIAL else ', error="invalid_token"'
    assert headers["www-authenticate"] == 'Bearer realm="tidegate"' + told
    assert headers["content-type"] == "application/json"
    assert headers["x-tidegate-refusal"] == code
    assert error == {
        "message": MESSAGES[code],
        "type": "invalid_request_error",
        "param": None,
        "code": code.value,
    }


def test_outage_is_a_503_to_try_again() -> None:
    response, headers, error = _denial(write_decision(decide(KeysUnavailable())))
    assert response.denied_response.status.code == 503
    assert headers["retry-after"] == "1"
    assert "www-authenticate" not in headers
    assert error["code"] == "identity_unavailable"
