"""Some look-ups of mixed-up tenants in worlds of every kind, and that a planted leak is seen."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from ext_proc.cache.policy import CacheRule, Share
from ext_proc.phases import plan
from gateway.contract.principal import NotAPrincipal, Principal
from tests.fuzz.lookups import Found, run_world
from tests.fuzz.tenants import HOSTILE, TIER
from tests.harness.valkey import StoreProcess, cache_store

SEED = 6
LOOKUPS = 500


@pytest.fixture(scope="module")
def valkey() -> Iterator[StoreProcess]:
    with cache_store() as process:
        yield process


def similar(found: Found) -> int:
    return found.kinds["canonical"] + found.kinds["semantic"] + found.kinds["alias"]


async def test_nobody_gets_what_is_not_shared_with_him(valkey: StoreProcess) -> None:
    found = await run_world(valkey, SEED, 3 * LOOKUPS)
    assert found.leaks == []
    assert found.lookups == 3 * LOOKUPS
    assert all(found.kinds[kind] > 0 for kind in ("exact", "canonical", "semantic", "alias")), found.kinds
    assert found.shared > LOOKUPS // 10


async def test_names_that_no_caller_can_have_are_refused_and_would_be_kept_apart(
    valkey: StoreProcess,
) -> None:
    found = await run_world(valkey, SEED, LOOKUPS, hostile=True)
    assert found.leaks == []
    assert found.let_through == 0
    assert found.kinds["exact"] > 0 and similar(found) > 0 and found.shared > 0, found.kinds


async def test_a_recall_that_names_other_orgs_entries_leaks_nothing(valkey: StoreProcess) -> None:
    found = await run_world(valkey, SEED, LOOKUPS, gossip=True)
    assert found.leaks == []
    assert found.gossip > LOOKUPS and found.kinds["semantic"] == 0
    assert found.kinds["exact"] > 0


@pytest.mark.parametrize("name", [name for name in HOSTILE if name not in ("ss", "ff")])
def test_a_hostile_name_is_no_callers(name: str) -> None:
    for level in ("org", "team", "user", "key"):
        fields = dict.fromkeys(("org", "team", "user", "key"), "a") | {level: name, "tier": TIER}
        with pytest.raises(NotAPrincipal):
            Principal.from_fields(fields)


async def test_a_planted_leak_is_seen(valkey: StoreProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    """All users of an org share, whatever the rule says."""

    def all_share(rule: CacheRule, principal: Principal) -> tuple[Share, str]:
        return Share.ORG, ""

    monkeypatch.setattr("ext_proc.cache.partition.share_of", all_share)
    found = await run_world(valkey, SEED, LOOKUPS)
    assert any("answer of" in leak for leak in found.leaks)


async def test_a_planted_prompt_in_an_event_is_seen(
    valkey: StoreProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = plan._event_context

    def telling(
        rules: Any, request_id: Any, who: Any, model: Any, request: Any, label: str
    ) -> dict[str, str]:
        context = honest(rules, request_id, who, model, request, label)
        return {**context, "end_user": str(request.fields["messages"])}

    monkeypatch.setattr(plan, "_event_context", telling)
    found = await run_world(valkey, SEED, LOOKUPS)
    assert any("a canary in the metadata" in leak for leak in found.leaks)
    assert any("a canary in a Note" in leak for leak in found.leaks)
