"""What ``./tidegate up`` makes at its first start opens the gateway with the shipped policy."""

from __future__ import annotations

import stat
from pathlib import Path

from ext_authz.check import Checker
from ext_authz.decision import Allow, Decision
from ext_authz.keys.jwks import FileKeys
from ext_authz.policy import Issuer, load_auth_policy
from gateway.contract.clock import ManualClock
from gateway.keys.api_key import ApiKeys, parse_api_keys
from gateway.keys.key_file import revoke_api_key
from mesh.local.credentials import demo_principal, ensure_credentials, mint_jwt

POLICY = Path(__file__).parents[3] / "mesh" / "base" / "policy" / "auth.yaml"


class _Files:
    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def issuer_keys(self, issuer: Issuer) -> FileKeys:
        return FileKeys(self._directory / issuer.jwks.file)

    def api_keys(self) -> ApiKeys:
        return parse_api_keys((self._directory / "api_keys.json").read_bytes())


async def _decide(directory: Path, clock: ManualClock, token: str) -> Decision:
    policy = load_auth_policy(POLICY)
    return await Checker(lambda: policy, _Files(directory), clock).decide([f"Bearer {token}"])


async def test_made_credentials_open_with_the_shipped_policy(tmp_path: Path) -> None:
    clock = ManualClock()
    made = ensure_credentials(tmp_path / "secrets", clock)
    assert await _decide(tmp_path / "secrets", clock, made.api_key) == Allow(demo_principal())
    by_jwt = await _decide(tmp_path / "secrets", clock, made.jwt)
    assert isinstance(by_jwt, Allow)
    assert (by_jwt.principal.org, by_jwt.principal.user) == ("demo", "alice")


def test_files_are_private_and_the_key_is_stored_as_hash(tmp_path: Path) -> None:
    made = ensure_credentials(tmp_path / "secrets", ManualClock())
    assert stat.S_IMODE((tmp_path / "secrets").stat().st_mode) == 0o700
    for file in (tmp_path / "secrets").iterdir():
        if not file.name.endswith(".lock"):
            assert stat.S_IMODE(file.stat().st_mode) == 0o600, file.name
    assert made.api_key not in (tmp_path / "secrets" / "api_keys.json").read_text()
    assert "PRIVATE" not in (tmp_path / "secrets" / "jwks.json").read_text()
    assert '"d"' not in (tmp_path / "secrets" / "jwks.json").read_text()


def test_second_start_changes_nothing(tmp_path: Path) -> None:
    clock = ManualClock()
    first = ensure_credentials(tmp_path, clock)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    assert ensure_credentials(tmp_path, clock).api_key == first.api_key
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


async def test_lost_or_revoked_pieces_are_made_anew(tmp_path: Path) -> None:
    clock = ManualClock()
    first = ensure_credentials(tmp_path, clock)
    (tmp_path / "dev_issuer.pem").unlink()
    revoke_api_key(tmp_path / "api_keys.json", "demo")
    second = ensure_credentials(tmp_path, clock)
    assert second.api_key != first.api_key
    for token in (first.jwt, second.jwt, second.api_key):
        assert isinstance(await _decide(tmp_path, clock, token), Allow)
    assert not isinstance(await _decide(tmp_path, clock, first.api_key), Allow)


async def test_minted_token_ends_after_its_hours(tmp_path: Path) -> None:
    clock = ManualClock()
    token = mint_jwt(tmp_path, clock, org="other", hours=1)
    (tmp_path / "api_keys.json").write_text("[]")
    assert isinstance(await _decide(tmp_path, clock, token), Allow)
    clock.advance_ms(3600_000 + 60_000)
    assert not isinstance(await _decide(tmp_path, clock, token), Allow)
