"""JWTs from text to decision: the good ones, and one table of bad ones with their codes."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ext_authz.decision import Allow, AuthCode, Deny
from ext_authz.identity import derived_key
from gateway.contract.ids import KeyId, OrgId, TeamId, Tier, UserId
from gateway.contract.principal import Principal
from tests.unit.ext_authz import forge
from tests.unit.ext_authz.conftest import Bench
from tests.unit.ext_authz.forge import claims, token

GOOD = Principal(
    org=OrgId("acme"),
    team=TeamId("default"),
    user=UserId("alice"),
    key=derived_key(forge.ISSUER, "alice"),
    tier=Tier("standard"),
)


@pytest.mark.parametrize(
    ("key", "algorithm", "kid"),
    [(forge.RSA_KEY, "RS256", "rsa-1"), (forge.EC_KEY, "ES256", "ec-1"), (forge.ED_KEY, "EdDSA", "ed-1")],
)
async def test_signed_token_is_its_principal(bench: Bench, key: Any, algorithm: str, kid: str) -> None:
    decision = await bench.checker.decide([f"Bearer {token(key=key, alg=algorithm, kid=kid)}"])
    assert decision == Allow(GOOD)


@pytest.mark.parametrize("forged", forge.ALL_FORGED, ids=lambda forged: forged.name)
async def test_forged_token_is_refused_with_its_code(bench: Bench, forged: forge.Forged) -> None:
    text = forged.text()
    for _ in range(2):  # the second time from whatever a cache may have kept
        decision = await bench.checker.decide([f"Bearer {text}"])
        assert isinstance(decision, Deny), forged.name
        assert decision.error.http_status == 401
        assert decision.error.code == forged.code, forged.name
    assert len(bench.cache) == 0


def test_table_is_as_long_as_promised() -> None:
    assert len(forge.ALL_FORGED) >= 47
    assert len({forged.name for forged in forge.ALL_FORGED}) == len(forge.ALL_FORGED)


async def test_no_key_is_looked_up_by_a_text_that_is_no_kid(bench: Bench) -> None:
    hostile = [
        forged
        for forged in forge.ALL_FORGED
        if forged.name.startswith("kid ") and forged.code is AuthCode.FORBIDDEN_HEADER
    ]
    assert len(hostile) >= 8
    for forged in hostile:
        await bench.checker.decide([f"Bearer {forged.text()}"])
    assert bench.issuer.asked == 0


async def test_claims_name_every_level(bench: Bench) -> None:
    payload = claims(team="core", tier="gold", models=["b", "a", "a"], scope="usage:read admin")
    decision = await bench.checker.decide([f"bearer   {token(payload)}"])
    assert isinstance(decision, Allow)
    assert decision.principal.team == "core"
    assert decision.principal.models == ("a", "b")
    assert decision.principal.scopes == ("admin", "usage:read")


async def test_empty_models_allow_no_model(bench: Bench) -> None:
    decision = await bench.checker.decide([f"Bearer {token(claims(models=[]))}"])
    assert isinstance(decision, Allow)
    assert not decision.principal.may_use("anything")


@pytest.mark.parametrize("kind", ["JWT", "jwt", "at+jwt", "AT+JWT", None])
async def test_token_types_we_take(bench: Bench, kind: str | None) -> None:
    assert isinstance(await bench.checker.decide([f"Bearer {token(typ=kind)}"]), Allow)


@pytest.mark.parametrize(
    "payload",
    [
        claims(exp=forge.NOW_S - 59),
        claims(nbf=forge.NOW_S + 60),
        claims(iat=forge.NOW_S + 60),
        claims(iat=None),
        claims(aud=["other", forge.AUDIENCE]),
    ],
)
async def test_leeway_and_optional_claims(bench: Bench, payload: dict[str, Any]) -> None:
    assert isinstance(await bench.checker.decide([f"Bearer {token(payload)}"]), Allow)


def test_derived_key_differs_by_issuer_and_subject() -> None:
    keys = {derived_key("a", "bc"), derived_key("ab", "c"), derived_key("a", "b"), derived_key("b", "a")}
    assert len(keys) == 4
    assert all(key.startswith("jwt-") and len(key) == 16 for key in keys)
    assert derived_key("a", "b") == KeyId(derived_key("a", "b"))


FUZZ = settings(max_examples=150, suppress_health_check=list(HealthCheck), derandomize=True)
_ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
_NAMES = st.sampled_from(
    ["alg", "typ", "kid", "crit", "zip", "jku", "exp", "iat", "nbf", "iss", "aud", "sub", "org", "scope"]
)


@FUZZ
@given(text=st.text(max_size=200))
async def test_any_header_text_is_a_denial(text: str) -> None:
    decision = await Bench().checker.decide([text])
    assert isinstance(decision, Deny)


@FUZZ
@given(
    parts=st.lists(st.text("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_=.", max_size=80))
)
async def test_any_dotted_text_is_a_denial(parts: list[str]) -> None:
    assert isinstance(await Bench().checker.decide(["Bearer " + ".".join(parts)]), Deny)


@FUZZ
@given(header=st.dictionaries(_NAMES, _ANY, max_size=4), payload=st.dictionaries(_NAMES, _ANY, max_size=6))
async def test_unsigned_structures_are_denied(header: dict[str, Any], payload: dict[str, Any]) -> None:
    head = forge.b64(json.dumps({"alg": "RS256", "kid": "rsa-1", **header}).encode())
    body = forge.b64(json.dumps({**claims(), **payload}).encode())
    decision = await Bench().checker.decide([f"Bearer {head}.{body}.{forge.b64(bytes(256))}"])
    assert isinstance(decision, Deny)


@FUZZ
@given(payload=st.dictionaries(_NAMES, _ANY, min_size=1, max_size=6))
async def test_signed_odd_claims_never_raise(payload: dict[str, Any]) -> None:
    """Signed by a real but careless issuer: a decision comes, and a Principal only if it is well formed."""
    decision = await Bench().checker.decide(
        [f"Bearer {token({**claims(), **payload}, key=forge.ED_KEY, alg='EdDSA', kid='ed-1')}"]
    )
    assert isinstance(decision, Allow | Deny)


@FUZZ
@given(place=st.integers(min_value=0, max_value=10_000), bit=st.integers(min_value=0, max_value=7))
async def test_one_flipped_bit_is_never_allowed(place: int, bit: int) -> None:
    good = token(key=forge.ED_KEY, alg="EdDSA", kid="ed-1").encode()
    at = place % len(good)
    bad = good[:at] + bytes([good[at] ^ (1 << bit)]) + good[at + 1 :]
    assert not isinstance(await Bench().checker.decide(["Bearer " + bad.decode("latin-1")]), Allow)
