"""What a hit costs: nothing, or what the policy says, once; never what an engine would have cost."""

from __future__ import annotations

from tests.dataplane.cache.served import HIT_MICRO_USD, Cached


def grown(before: dict[tuple[str, str], int], after: dict[tuple[str, str], int]) -> dict[str, int]:
    """By measure, of the org."""
    return {measure: after[account, measure] - used for (account, measure), used in before.items()}


def test_a_free_hit_costs_nothing_and_a_miss_once(cached: Cached) -> None:
    question = "How far is it from Oslo to Bergen?"
    start = cached.usage("free")
    usage = cached.ask(question, org="free").body["usage"]
    asked = cached.usage("free")
    prompt, completion = usage["prompt_tokens"], usage["completion_tokens"]
    cached_tokens = (usage.get("prompt_tokens_details") or {}).get("cached_tokens", 0)
    priced = ((prompt - cached_tokens) * 20_000 + cached_tokens * 10_000 + completion * 80_000) / 1e6
    charged = grown(start, asked)
    assert charged["requests"] == 1
    assert 0 < priced <= charged["micro_usd"] <= priced + 3
    cached.kept(question, org="free")
    asked = cached.usage("free")
    for stream in (False, True):
        assert cached.ask(question, org="free", stream=stream).cache == "hit exact"
    cached.found("tell me, how far is it from Oslo to Bergen", "hit canonical", org="free")
    assert cached.usage("free") == asked


def test_a_paid_hit_costs_its_price_once_and_no_tokens(cached: Cached) -> None:
    question = "How far is it from Turin to Milan?"
    cached.kept(question, org="paid")
    before = cached.usage("paid")
    for hits, stream in enumerate((False, True, False), 1):
        said = cached.ask(question, org="paid", stream=stream)
        assert said.cache == "hit exact"
        assert not cached.reached_engine(said)
        charged = grown(before, cached.usage("paid"))
        assert charged == {"micro_usd": hits * HIT_MICRO_USD, "requests": hits, "tokens": 0}


def test_an_empty_budget_serves_free_hits_and_refuses_paid_ones(cached: Cached) -> None:
    question = "How far is it from Ghent to Bruges?"
    for org in ("broke-free", "broke-paid"):
        cached.kept(question, org=org)
        spent = (cached.ask(f"How far is it from Ghent to town {number}?", org=org) for number in range(40))
        refused = next(said for said in spent if said.status != 200)
        assert (refused.status, refused.body["error"]["code"]) == (429, "insufficient_quota")
    for stream in (False, True):
        assert cached.ask(question, org="broke-free", stream=stream).cache == "hit exact"
        paid = cached.ask(question, org="broke-paid", stream=stream)
        assert (paid.status, paid.body["error"]["code"]) == (429, "insufficient_quota")
