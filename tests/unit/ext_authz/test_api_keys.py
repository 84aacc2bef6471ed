"""API keys: made, stored as hashes, checked, revoked; the file that holds them."""

from __future__ import annotations

import asyncio
import hashlib
import json
import stat
from pathlib import Path
from typing import Any

import pytest

from ext_authz.decision import AuthCode, NotVerified
from ext_authz.keys.api_keys import check_api_key
from ext_authz.keys.secret_file import SecretFile
from gateway.contract.ids import KeyId, OrgId, TeamId, Tier, UserId
from gateway.contract.principal import Principal
from gateway.contract.units import UnixMillis
from gateway.keys.api_key import NotApiKeys, parse_api_keys
from gateway.keys.key_file import KeyConflict, create_api_key, revoke_api_key

NOW = UnixMillis(1_800_000_000_000)


def _principal(key: str) -> Principal:
    return Principal(
        org=OrgId("acme"), team=TeamId("core"), user=UserId("alice"), key=KeyId(key), tier=Tier("gold")
    )


def _code(text: str, path: Path, now: int = NOW) -> AuthCode:
    with pytest.raises(NotVerified) as raised:
        check_api_key(text, parse_api_keys(path.read_bytes()), now=UnixMillis(now))
    return raised.value.code


def test_created_key_opens_and_only_its_hash_is_stored(tmp_path: Path) -> None:
    path = tmp_path / "secrets" / "api_keys.json"
    text = create_api_key(path, _principal("ci-1"))
    assert text.startswith("tg-ci-1-")
    assert len(text) == len("tg-ci-1-") + 43
    stored = path.read_text()
    assert text not in stored
    assert text[-43:] not in stored
    assert hashlib.sha256(text.encode()).hexdigest() in stored
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert check_api_key(text, parse_api_keys(path.read_bytes()), now=NOW) == _principal("ci-1")


def test_wrong_texts_are_all_the_same_refusal(tmp_path: Path) -> None:
    path = tmp_path / "api_keys.json"
    text = create_api_key(path, _principal("a"))
    wrong = [
        text[:-1] + ("A" if text[-1] != "A" else "B"),
        text + "A",
        text[:-1],
        text.replace("tg-a-", "tg-b-"),
        text.upper(),
        "tg--" + "a" * 43,
        "tg-" + "a" * 200,
        "tg-a",
        "sk-" + text[3:],
        "",
    ]
    assert {_code(candidate, path) for candidate in wrong} == {AuthCode.INVALID_API_KEY}


def test_ids_and_secrets_with_dashes_are_told_apart(tmp_path: Path) -> None:
    path = tmp_path / "api_keys.json"
    texts = {key: create_api_key(path, _principal(key)) for key in ("a", "a-b", "a-b-c", "a_-")}
    keys = parse_api_keys(path.read_bytes())
    for key, text in texts.items():
        assert check_api_key(text, keys, now=NOW).key == key


def test_revoked_and_expired_are_told_only_to_the_holder(tmp_path: Path) -> None:
    path = tmp_path / "api_keys.json"
    revoked = create_api_key(path, _principal("old"))
    expired = create_api_key(path, _principal("short"), expires_ms=NOW)
    assert revoke_api_key(path, "old")
    assert not revoke_api_key(path, "nobody")
    assert not revoke_api_key(path, "../etc")
    assert _code(revoked, path) is AuthCode.API_KEY_REVOKED
    assert _code(expired, path) is AuthCode.API_KEY_EXPIRED
    assert check_api_key(expired, parse_api_keys(path.read_bytes()), now=UnixMillis(NOW - 1)).key == "short"
    assert _code("tg-old-" + "a" * 43, path) is AuthCode.INVALID_API_KEY
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_same_id_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "api_keys.json"
    create_api_key(path, _principal("a"))
    with pytest.raises(KeyConflict, match="exists"):
        create_api_key(path, _principal("a"))
    assert len(parse_api_keys(path.read_bytes())) == 1
    assert sorted(file.name for file in tmp_path.iterdir()) == [".api_keys.json.lock", "api_keys.json"]


GOOD: dict[str, Any] = {
    "id": "a",
    "hash": "0" * 64,
    "org": "acme",
    "team": "core",
    "user": "alice",
    "tier": "gold",
}


@pytest.mark.parametrize(
    "document",
    [
        b"",
        b"{}",
        b"[1]",
        b"not json",
        json.dumps([{**GOOD, "hash": "0" * 63}]).encode(),
        json.dumps([{**GOOD, "hash": "A" * 64}]).encode(),
        json.dumps([{**GOOD, "org": "ACME"}]).encode(),
        json.dumps([{**GOOD, "id": None}]).encode(),
        json.dumps([{**GOOD, "secret": "x"}]).encode(),
        json.dumps([{**GOOD, "expires_ms": "1"}]).encode(),
        json.dumps([{**GOOD, "expires_ms": True}]).encode(),
        json.dumps([{**GOOD, "revoked": 1}]).encode(),
        json.dumps([{**GOOD, "models": "*"}]).encode(),
        json.dumps([GOOD, GOOD]).encode(),
    ],
)
def test_broken_files_are_refused_whole(document: bytes) -> None:
    with pytest.raises(NotApiKeys):
        parse_api_keys(document)


def test_models_default_to_all(tmp_path: Path) -> None:
    assert parse_api_keys(json.dumps([GOOD]).encode())[KeyId("a")].principal.models == ("*",)


def test_file_absent_is_none_and_wrong_keeps_the_last_good(tmp_path: Path) -> None:
    path = tmp_path / "api_keys.json"
    file = SecretFile(path, parse_api_keys)
    assert file.current is None
    create_api_key(path, _principal("a"))
    assert file.poll()
    assert file.current is not None
    good = file.current
    path.write_text("a slip of an editor")
    assert not file.poll()
    assert file.current is good
    path.unlink()
    assert file.poll()
    assert file.current is None, "a deleted file leaves no key in force"
    path.write_text("still wrong")
    file.poll()
    assert file.current is None


async def test_revocation_works_within_a_second(tmp_path: Path) -> None:
    path = tmp_path / "api_keys.json"
    text = create_api_key(path, _principal("a"))
    file = SecretFile(path, parse_api_keys)
    watching = asyncio.create_task(file.run())
    revoke_api_key(path, "a")
    try:
        async with asyncio.timeout(1):
            while True:
                assert file.current is not None
                if file.current[KeyId("a")].revoked:
                    break
                await asyncio.sleep(0.02)
    finally:
        watching.cancel()
    with pytest.raises(NotVerified, match="api_key_revoked"):
        check_api_key(text, file.current, now=NOW)
