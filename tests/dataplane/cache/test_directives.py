"""What a caller may ask of the cache, which is less than the policy serves; and what follows a wrong hit."""

from __future__ import annotations

from typing import Any

import openai
import pytest
from openai import DefaultHttpxClient, OpenAI

from gateway.contract.ids import OrgId
from tests.dataplane.cache.served import Cached
from tests.harness.gateway import MODEL, until


def test_no_store_neither_reads_nor_writes(cached: Cached) -> None:
    question = "Which knots hold a hammock?"
    cached.kept(question)
    said = cached.ask(question, control="no-store")
    assert said.cache == "bypass no_store"
    assert cached.reached_engine(said)
    assert cached.ask("Which knots hold a sail?", control="no-store").cache == "bypass no_store"
    cached.kept("Which knots hold a boat?")
    assert cached.peek("Which knots hold a sail?").status == 504


def test_no_cache_asks_the_engine_and_stores_its_answer(cached: Cached) -> None:
    question = "Which trees keep their leaves?"
    cached.engine.script({"contains": question, "text": "Holly.", "times": 1})
    first = cached.kept(question)
    cached.engine.script({"contains": question, "text": "Box and yew."})
    fresh = cached.ask(question, control="No-Cache")
    assert fresh.cache == "bypass no_cache"
    assert (first.content, fresh.content) == ("Holly.", "Box and yew.")

    def stored() -> bool:
        """Asked for again: a late write costs the answer its place."""
        cached.ask(question, control="No-Cache")
        return cached.peek(question).content == fresh.content

    until(stored, "the new answer is stored")


def test_max_age_bounds_what_is_read(cached: Cached) -> None:
    question = "Which stones float?"
    cached.kept(question)
    assert cached.ask(question, control="max-age=3600").cache == "hit exact"
    said = cached.ask(question, control="max-age=0")
    assert said.cache == "miss too_old"
    assert cached.reached_engine(said)


def test_a_caller_can_ask_for_less_likeness(cached: Cached) -> None:
    cached.kept("How do I sharpen a chisel?")
    other = "please tell me how to sharpen a chisel"
    assert cached.found(other, "hit canonical").status == 200
    for control, cache in (("exact-only", "miss absent"), ("strict-only", "hit canonical")):
        assert cached.ask(other, control=f"{control}, only-if-cached").cache == cache
    assert cached.ask("How do I sharpen a chisel?", control="exact-only").cache == "hit exact"


def test_only_if_cached_is_told_once_and_reaches_no_engine(cached: Cached) -> None:
    sent: list[Any] = []
    known = cached.engine_calls()
    with (
        DefaultHttpxClient(event_hooks={"request": [sent.append]}) as transport,
        OpenAI(
            base_url=cached.gateway.base_url,
            api_key=cached.keys["demo"],
            max_retries=2,
            http_client=transport,
        ) as client,
        pytest.raises(openai.APIStatusError) as caught,
    ):
        client.chat.completions.create(
            model=MODEL,
            messages=[{"role": "user", "content": "Was this ever asked?"}],
            extra_headers={"cache-control": "only-if-cached"},
        )
    error = caught.value
    assert (error.status_code, error.code) == (504, "not_cached")
    assert error.response.headers["x-tidegate-cache-reason"]
    assert error.response.headers["x-tidegate-cache-trace"].startswith("question=")
    assert len(sent) == 1
    assert cached.engine_calls() == known


def test_feedback_bars_a_pair_and_the_next_answer_is_a_fresh_one(cached: Cached) -> None:
    stored, other = "How do I descale a kettle?", "how can i descale a kettle please"
    cached.kept(stored)
    entry = cached.found(other, "hit canonical").entry
    told = cached.ask(other, feedback=entry)
    assert told.cache == "bypass no_cache"
    assert cached.reached_engine(told)
    own = cached.found(other, "hit exact")
    assert own.entry != entry
    assert cached.peek(stored).entry == entry

    def noted() -> bool:
        events = cached.gateway.events()
        return any(
            (one["type"], one["context"].get("cache_entry")) == ("cache.barred", entry) for one in events
        )

    until(noted, "the feedback is in the books")


def test_feedback_on_the_very_answer_replaces_it(cached: Cached) -> None:
    question = "Which moon is the largest?"
    cached.engine.script({"contains": question, "text": "The wrong one.", "times": 1})
    cached.kept(question)
    cached.engine.script({"contains": question, "text": "Ganymede."})
    told = cached.ask(question, feedback=cached.peek(question).entry)
    assert told.content == "Ganymede."
    # The other worker may serve from its memory for a second.
    until(lambda: cached.peek(question).content == "Ganymede.", "the right one is served")


def test_feedback_with_anothers_entry_changes_nothing_for_them(cached: Cached) -> None:
    question = "Which lake is the deepest?"
    for org in ("demo", "other"):
        cached.kept(question, org=org)
    entry = cached.peek(question, org="other").entry
    assert entry != cached.peek(question).entry
    for _ in range(2):
        assert cached.ask(question, feedback=entry).cache == "bypass no_cache"
    assert cached.found(question, "hit exact", org="other").entry == entry
    assert cached.found("tell me which lake is the deepest", "hit canonical", org="other").entry == entry


async def test_a_judged_answer_is_served_where_the_policy_and_the_caller_take_it(cached: Cached) -> None:
    stored, asked = "How do I cook rice in a pot?", "How do I quickly cook rice in a pot?"
    fields: dict[str, Any] = {"org": "judged"}
    cached.kept(stored, **fields)
    miss = cached.found(asked, "miss near", **fields)
    key = next(step for step in miss.headers["x-tidegate-cache-trace"].split("; ") if "question=" in step)
    entry, asked_key = cached.peek(stored, **fields).entry, key.removeprefix("question=")
    store = cached.store()
    assert await store.alias(OrgId("judged"), asked_key, entry, ttl_seconds=600)
    assert cached.peek(asked, **fields).cache == "hit alias"
    assert cached.ask(asked, control="strict-only, only-if-cached", **fields).cache.startswith("miss")
    await store.bar(OrgId("judged"), asked_key, entry)
    await store.aclose()
    until(lambda: cached.peek(asked, **fields).status == 504, "the barred pair is no hit")
