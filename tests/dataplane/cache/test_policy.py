"""Changes while the gateway runs: a rule, the model's revision, a purge."""

from __future__ import annotations

import itertools
from typing import Any

from ext_proc.cache.store import PurgeRule
from gateway.contract.ids import OrgId
from tests.dataplane.cache.served import REVISION, Cached, catalogue
from tests.harness.gateway import until

STRICT: dict[str, Any] = {"profile": "strict", "verify_share": 0.001}


def test_a_rule_is_switched_to_strict_and_back_while_the_gateway_runs(cached: Cached) -> None:
    wordings = itertools.count()

    def asked() -> str:
        """Of another wording of a new question: an entry is found by the ways that its rule left to it."""
        number = next(wordings)
        cached.kept(f"How do I wash wool {number}?", org="reloaded")
        return cached.peek(f"please tell me how to wash wool {number}", org="reloaded").cache

    assert asked() == "miss absent"
    cached.set_policy(reloaded=STRICT)
    until(lambda: asked() == "hit canonical", "the rule is strict")
    cached.set_policy()
    until(lambda: all(asked() == "miss absent" for _ in range(4)), "the rule is off again, for each worker")


async def test_another_revision_of_the_model_has_answers_of_its_own_and_a_purge_ends_all_ways_to_the_old_ones(
    cached: Cached,
) -> None:
    stored = "How do I install Inkscape on Debian?"
    ways = {
        stored: "hit exact",
        "please tell me how to install Inkscape on Debian": "hit canonical",
        "On Debian, how do I install Inkscape?": "hit semantic",
        "How do I quickly install Inkscape on Debian?": "hit alias",
    }

    def served(wanted: bool) -> bool:
        """By every way, or by none; several times, as workers take turns."""
        said = [cached.peek(question, org="judged") for question in (*ways, *ways)]
        return {one.status for one in said} == {200 if wanted else 504}

    store = cached.store()
    cached.kept(stored, org="judged")
    *_, judged = ways
    trace = cached.found(judged, "miss near", org="judged").headers["x-tidegate-cache-trace"]
    asked_key = trace.partition("question=")[2][:64]
    entry = cached.peek(stored, org="judged").entry
    assert await store.alias(OrgId("judged"), asked_key, entry, ttl_seconds=600)
    for question, cache in ways.items():
        assert cached.found(question, cache, org="judged").entry == entry

    (cached.mesh / "models.yaml").write_text(catalogue("another-revision"))
    until(lambda: served(False), "the old revision's answers are gone")
    assert cached.kept(stored, org="judged").cache.startswith("miss")
    (cached.mesh / "models.yaml").write_text(catalogue(REVISION))
    until(lambda: served(True), "the revision that is back has its answers")
    assert await store.purge_where(PurgeRule(org="judged", revision=REVISION)) == 1
    until(lambda: served(False), "purged by every way")
    await store.aclose()
    cached.kept(stored, org="judged")
