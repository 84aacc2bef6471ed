"""Keys: made, rotated, revoked, each with its event; what is refused; two writers at once."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from ext_authz.decision import AuthCode, NotVerified
from ext_authz.keys.api_keys import check_api_key
from gateway.admin.change import BadValue, Conflict, NotDone, NotRecorded, Unknown
from gateway.admin.keys import KEYS_CHANGED, NewKey, listed
from gateway.contract.errors import LedgerUnavailable
from gateway.contract.ids import OrgId
from gateway.contract.units import Millis, UnixMillis
from gateway.events.event import EventType
from gateway.keys.api_key import NotApiKeys, parse_api_keys
from tests.unit.admin.desk import BY, Desk

DAY = Millis(86_400_000)


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def verdict(desk: Desk, text: str) -> str:
    try:
        return check_api_key(text, desk.file.read(), now=desk.clock.unix_ms()).key
    except NotVerified as refusal:
        return refusal.code.value


async def test_a_created_key_is_recorded_and_opens(desk: Desk) -> None:
    expires = UnixMillis(desk.clock.unix_ms() + DAY)
    new = NewKey(
        org="demo", id="build", team="blue", models=("small",), scopes=("usage:org",), expires_ms=expires
    )
    issued = await desk.keys().create(new, BY)
    assert verdict(desk, issued.text) == "build"
    assert issued.key.principal.user == "build", "a key without a user is one of its own"
    (event,) = desk.events(KEYS_CHANGED)
    assert (event["org"], event["c.verb"], event["c.key"], event["c.actor"], event["c.reason"]) == (
        *("demo", "create", "build", "olga", "a test"),
    )
    written = json.dumps(event)
    assert issued.text not in written
    assert issued.key.hash not in written
    desk.clock.advance_ms(DAY)
    assert verdict(desk, issued.text) == AuthCode.API_KEY_EXPIRED


def test_the_event_is_of_the_schema() -> None:
    assert EventType(KEYS_CHANGED) is EventType.KEYS_CHANGED


async def test_a_rotated_key_lives_on_for_the_overlap_and_no_longer(desk: Desk) -> None:
    issued = await desk.keys().rotate("ci", DAY, BY)
    assert (verdict(desk, desk.secret), verdict(desk, issued.text)) == ("ci", "ci")
    desk.clock.advance_ms(DAY - 1)
    assert verdict(desk, desk.secret) == "ci"
    desk.clock.advance_ms(1)
    assert (verdict(desk, desk.secret), verdict(desk, issued.text)) == (AuthCode.INVALID_API_KEY, "ci")
    assert [event["c.overlap_ms"] for event in desk.events(KEYS_CHANGED)] == [str(DAY)]


async def test_a_rotation_without_overlap_ends_every_earlier_secret(desk: Desk) -> None:
    second = await desk.keys().rotate("ci", DAY, BY)
    third = await desk.keys().rotate("ci", Millis(0), BY)
    verdicts = [verdict(desk, text) for text in (desk.secret, second.text, third.text)]
    assert verdicts == [AuthCode.INVALID_API_KEY, AuthCode.INVALID_API_KEY, "ci"]


async def test_a_later_overlap_does_not_let_an_earlier_secret_live_longer(desk: Desk) -> None:
    await desk.keys().rotate("ci", Millis(1000), BY)
    await desk.keys().rotate("ci", DAY, BY)
    desk.clock.advance_ms(1000)
    assert verdict(desk, desk.secret) == AuthCode.INVALID_API_KEY


async def test_secrets_that_live_are_bounded(desk: Desk) -> None:
    for _ in range(4):
        await desk.keys().rotate("ci", DAY, BY)
    with pytest.raises(Conflict, match="overlap of 0"):
        await desk.keys().rotate("ci", DAY, BY)


async def test_a_revoked_key_is_refused_with_all_its_secrets_and_stays_so(desk: Desk) -> None:
    issued = await desk.keys().rotate("ci", DAY, BY)
    assert (await desk.keys().revoke("ci", BY)).revoked
    assert {verdict(desk, desk.secret), verdict(desk, issued.text)} == {AuthCode.API_KEY_REVOKED}
    await desk.keys().revoke("ci", BY)
    with pytest.raises(Conflict, match="is revoked"):
        await desk.keys().rotate("ci", Millis(0), BY)
    with pytest.raises(Conflict, match="exists"):
        await desk.keys().create(NewKey(org="demo", id="ci"), BY)
    assert [event["c.verb"] for event in desk.events(KEYS_CHANGED)] == ["rotate", "revoke", "revoke"]


@pytest.mark.parametrize(
    ("new", "kind", "complaint"),
    [
        (NewKey(org="demo", id="CI"), BadValue, "id: 'CI' is no identity"),
        (NewKey(org="other"), Unknown, "no org with a budget 'other': there are demo, empty"),
        (NewKey(org="demo", tier="gold"), Unknown, "no tier 'gold': there are standard"),
        (NewKey(org="demo", models=("huge",)), Unknown, "no model 'huge'"),
        (NewKey(org="demo", models=()), BadValue, "models: none is named"),
        (NewKey(org="demo", scopes=("a b",)), BadValue, "scope 'a b'"),
        (NewKey(org="demo", scopes=tuple(f"s{n}" for n in range(65))), BadValue, "at most 64"),
    ],
)
async def test_a_key_that_could_do_nothing_is_not_made(
    desk: Desk, new: NewKey, kind: type[NotDone], complaint: str
) -> None:
    before = desk.path.read_bytes()
    with pytest.raises(kind) as refused:
        await desk.keys().create(new, BY)
    assert complaint in str(refused.value)
    assert desk.path.read_bytes() == before
    assert desk.events(KEYS_CHANGED) == []


async def test_an_unknown_key_is_told_which_there_are(desk: Desk) -> None:
    for work in (desk.keys().revoke("cj", BY), desk.keys().rotate("cj", Millis(0), BY)):
        with pytest.raises(Unknown, match="no key 'cj': there are ci"):
            await work
    with pytest.raises(Unknown, match="no org with keys 'x': there are demo"):
        listed(desk.file, "x")


class SilentLedger:
    """Takes no event."""

    async def note(self, org: OrgId, kind: str, context: Mapping[str, str]) -> None:
        raise LedgerUnavailable("The budget ledger did not answer; try again.")


async def test_without_an_event_no_key_is_made_but_one_is_revoked(desk: Desk) -> None:
    keys = desk.keys()
    keys._ledger = SilentLedger()
    before = desk.path.read_bytes()
    for work in (keys.create(NewKey(org="demo"), BY), keys.rotate("ci", Millis(0), BY)):
        with pytest.raises(NotRecorded, match="no key was changed"):
            await work
    assert desk.path.read_bytes() == before
    with pytest.raises(NotRecorded, match="'ci' is revoked, but its audit event is not written"):
        await keys.revoke("ci", BY)
    assert verdict(desk, desk.secret) == AuthCode.API_KEY_REVOKED


async def test_writers_at_once_lose_nothing(desk: Desk) -> None:
    await asyncio.gather(*(desk.keys().create(NewKey(org="demo", id=f"k{n}"), BY) for n in range(8)))
    assert sorted(desk.file.read()) == ["ci", *(f"k{n}" for n in range(8))]
    assert sorted(file.name for file in desk.directory.iterdir()) == [".api_keys.json.lock", "api_keys.json"]


async def test_a_broken_file_is_left_as_it_is(desk: Desk) -> None:
    desk.path.write_text("a slip of an editor")
    with pytest.raises(Conflict, match="the file of keys is broken"):
        await desk.keys().revoke("ci", BY)
    assert desk.path.read_text() == "a slip of an editor"


GOOD = {"id": "a", "hash": "0" * 64, "org": "acme", "team": "core", "user": "alice", "tier": "gold"}
EARLIER = {"hash": "1" * 64, "until_ms": 5}


@pytest.mark.parametrize(
    "document",
    [
        {"keys": [GOOD]},
        {"version": 1, "keys": [GOOD]},
        {"version": 3, "keys": [GOOD]},
        {"version": 2.0, "keys": [GOOD]},
        {"version": 2, "keys": {}},
        {"version": 2, "keys": [GOOD], "more": 1},
        {"version": 2, "keys": [{**GOOD, "created_ms": -1}]},
        {"version": 2, "keys": [{**GOOD, "expires_ms": 10**18}]},
        {"version": 2, "keys": [{**GOOD, "earlier": {}}]},
        {"version": 2, "keys": [{**GOOD, "earlier": [EARLIER] * 5}]},
        {"version": 2, "keys": [{**GOOD, "earlier": [{**EARLIER, "x": 1}]}]},
        {"version": 2, "keys": [{**GOOD, "earlier": [{"hash": "1" * 64, "until_ms": True}]}]},
    ],
)
def test_a_file_of_another_form_is_refused(document: dict[str, object]) -> None:
    with pytest.raises(NotApiKeys):
        parse_api_keys(json.dumps(document).encode())


def test_the_list_of_version_1_is_read_and_written_anew(desk: Desk) -> None:
    desk.path.write_text(json.dumps([GOOD]))
    keys = desk.file.read()
    desk.file.write(keys)
    assert json.loads(desk.path.read_text())["version"] == 2
    assert desk.file.read() == keys
