"""JWKS documents, and the policy of when they are fetched: rotation, flood, outage."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed448, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from ext_authz.decision import KeysUnavailable
from ext_authz.keys.fetch import FetchFailed
from ext_authz.keys.jwk import KEYS_MAX, NotAKeySet, parse_key_set
from ext_authz.keys.jwks import (
    FORCED_EVERY_S,
    REFRESH_AT_S,
    STALE_S,
    UNKNOWN_FOR_S,
    UNKNOWN_KIDS_MAX,
    FileKeys,
    UrlKeys,
)
from gateway.contract.clock import ManualClock
from tests.unit.ext_authz import forge
from tests.unit.ext_authz.forge import jwk, jwks

OLD, NEW = jwk(forge.RSA_KEY, "old"), jwk(forge.EC_KEY, "new")


@pytest.mark.parametrize(
    "unusable",
    [
        {**OLD, "use": "enc"},
        {**OLD, "alg": "RS512"},
        {**OLD, "alg": "RSA-OAEP"},
        {**OLD, "key_ops": ["encrypt"]},
        {**OLD, "key_ops": "verify"},
        {**OLD, "kid": "../../etc/passwd"},
        {**OLD, "kid": 7},
        {name: value for name, value in OLD.items() if name != "kid"},
        {**OLD, "n": "!!"},
        {**OLD, "e": 3},
        {"kty": "oct", "kid": "s", "k": "c2VjcmV0"},
        {"kty": ["RSA"], "kid": "s"},
        {**jwk(ec.generate_private_key(ec.SECP384R1()), "p384")},
        {**jwk(rsa.generate_private_key(public_exponent=65537, key_size=1024), "small")},
        {**json.loads(OKPAlgorithm.to_jwk(ed448.Ed448PrivateKey.generate().public_key())), "kid": "ed448"},
        {**NEW, "x": NEW["y"]},
        "no object",
        None,
    ],
)
def test_unusable_entries_are_passed_over(unusable: Any) -> None:
    keys = parse_key_set(jwks(unusable, jwk(forge.ED_KEY, "good")))
    assert set(keys) == {"good"}


@pytest.mark.parametrize(
    "document",
    [
        b"",
        b"<html>",
        b"[]",
        b"{}",
        b'{"keys":{}}',
        b'{"keys":[]}',
        b'{"keys":[],"keys":[]}',
        jwks({**OLD, "use": "enc"}),
        jwks(OLD, {**NEW, "kid": "old"}),
        jwks(*[{}] * (KEYS_MAX + 1)),
        json.dumps(
            {"keys": [{**json.loads(RSAAlgorithm.to_jwk(forge.RSA_KEY)), "kid": "p", "key_ops": ["verify"]}]}
        ).encode(),
        json.dumps({"keys": [{**json.loads(ECAlgorithm.to_jwk(forge.EC_KEY)), "kid": "p"}]}).encode(),
    ],
)
def test_documents_that_are_no_key_set(document: bytes) -> None:
    with pytest.raises(NotAKeySet):
        parse_key_set(document)


@dataclass
class Issuer:
    """A JWKS endpoint: what it answers, and how often it was asked."""

    answer: bytes | Exception | Callable[[], bytes]
    asked: int = 0
    gate: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.gate.set()

    async def fetch(self, url: str) -> bytes:
        assert url == "https://issuer.example/jwks"
        self.asked += 1
        await self.gate.wait()
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer if isinstance(self.answer, bytes) else self.answer()


def _keys(issuer: Issuer, clock: ManualClock, wait_s: float = 0.3) -> UrlKeys:
    return UrlKeys("https://issuer.example/jwks", issuer.fetch, clock, wait_s=wait_s)


async def test_first_request_fetches_once_for_all_who_wait() -> None:
    issuer, clock = Issuer(jwks(OLD)), ManualClock()
    keys = _keys(issuer, clock)
    found = await asyncio.gather(*(keys.find("old") for _ in range(50)))
    assert {key.kid for key in found if key} == {"old"}
    assert issuer.asked == 1


async def test_background_refresh_at_four_fifths_of_the_ttl() -> None:
    issuer, clock = Issuer(jwks(OLD)), ManualClock()
    keys = _keys(issuer, clock)
    await keys.tick()
    clock.advance_ms(int(REFRESH_AT_S * 1000) - 1)
    await keys.tick()
    assert issuer.asked == 1
    clock.advance_ms(1)
    await keys.tick()
    assert issuer.asked == 2


async def test_rotation_is_seen_at_once_by_its_first_token() -> None:
    issuer, clock = Issuer(jwks(OLD)), ManualClock()
    keys = _keys(issuer, clock)
    assert await keys.find("old")
    issuer.answer = jwks(NEW)
    clock.advance_ms(1000)
    found = await keys.find("new")
    assert found is not None
    assert found.algorithm == "ES256"
    assert await keys.find("old") is None, "what the issuer no longer publishes is no longer good"


async def test_flood_of_unknown_kids_forces_one_refresh_in_ten_seconds() -> None:
    issuer, clock = Issuer(jwks(OLD)), ManualClock()
    keys = _keys(issuer, clock)
    assert await keys.find("old")
    for index in range(UNKNOWN_KIDS_MAX + 500):
        assert await keys.find(f"kid-{index}") is None
        clock.advance_ms(10)
    assert issuer.asked <= 2 + (UNKNOWN_KIDS_MAX + 500) * 0.01 / FORCED_EVERY_S
    assert len(keys._unknown) <= UNKNOWN_KIDS_MAX
    assert await keys.find("old")


async def test_kid_looked_for_in_vain_is_not_looked_for_again_soon() -> None:
    issuer, clock = Issuer(jwks(OLD)), ManualClock()
    keys = _keys(issuer, clock)
    await keys.tick()
    for _ in range(5):
        assert await keys.find("ghost") is None
        clock.advance_ms(int(FORCED_EVERY_S * 1000))
    assert issuer.asked == 2
    clock.advance_ms(int(UNKNOWN_FOR_S * 1000))
    assert await keys.find("ghost") is None
    assert issuer.asked == 3


async def test_unknown_kid_is_forgotten_when_the_set_changes() -> None:
    issuer, clock = Issuer(jwks(OLD)), ManualClock()
    keys = _keys(issuer, clock)
    await keys.tick()
    assert await keys.find("new") is None, "used before it was published"
    issuer.answer = jwks(OLD, NEW)
    clock.advance_ms(int(REFRESH_AT_S * 1000))
    await keys.tick()
    assert await keys.find("new") is not None


@pytest.mark.parametrize("failure", [FetchFailed("HTTP 503"), b"<html>", b'{"keys":[]}'])
async def test_outage_serves_the_last_good_set_for_a_day(failure: Any) -> None:
    issuer, clock = Issuer(jwks(OLD)), ManualClock()
    keys = _keys(issuer, clock)
    first = await keys.find("old")
    issuer.answer = failure
    clock.advance_ms(int(STALE_S * 1000) - 1000)
    await keys.tick()
    assert await keys.find("old") is first
    with pytest.raises(KeysUnavailable):
        await keys.find("new")  # nobody can say whether the issuer knows it
    clock.advance_ms(1000)
    assert keys.known("old") is None
    with pytest.raises(KeysUnavailable):
        await keys.find("old")
    issuer.answer = jwks(OLD)
    clock.advance_ms(60_000)
    assert await keys.find("old") is not None


async def test_outage_is_asked_after_with_growing_pauses() -> None:
    issuer, clock = Issuer(FetchFailed("refused")), ManualClock()
    keys = _keys(issuer, clock)
    for _ in range(600):  # one minute of ticks and requests
        await keys.tick()
        with pytest.raises(KeysUnavailable):
            await keys.find("old")
        clock.advance_ms(100)
    assert issuer.asked <= 8
    issuer.answer = jwks(OLD)
    clock.advance_ms(30_000)
    await keys.tick()
    assert await keys.find("old")


async def test_slow_issuer_costs_a_request_a_bounded_wait_and_answers_the_next() -> None:
    issuer, clock = Issuer(jwks(OLD)), ManualClock()
    issuer.gate.clear()
    keys = _keys(issuer, clock, wait_s=0.02)
    with pytest.raises(KeysUnavailable):
        await keys.find("old")
    issuer.gate.set()
    await keys.tick()
    assert await keys.find("old")
    assert issuer.asked == 1


async def test_unchanged_key_keeps_its_object_over_a_refresh() -> None:
    """Cached tokens hold on to the object; a refresh that changes nothing must not empty the cache."""
    issuer, clock = Issuer(jwks(OLD)), ManualClock()
    keys = _keys(issuer, clock)
    await keys.tick()
    first = keys.known("old")
    issuer.answer = jwks(OLD, NEW)
    clock.advance_ms(int(REFRESH_AT_S * 1000))
    await keys.tick()
    assert keys.known("old") is first
    issuer.answer = jwks({**jwk(forge.OTHER_RSA_KEY, "old")})
    clock.advance_ms(int(REFRESH_AT_S * 1000))
    await keys.tick()
    assert keys.known("old") is not first


async def test_file_source_is_reloaded(tmp_path: Path) -> None:
    path = tmp_path / "jwks.json"
    keys = FileKeys(path)
    with pytest.raises(KeysUnavailable):
        await keys.find("old")
    path.write_bytes(jwks(OLD))
    assert keys.poll()
    assert await keys.find("old")
    assert await keys.find("new") is None
    path.write_bytes(jwks(OLD, NEW))
    assert keys.poll()
    assert await keys.find("new")
