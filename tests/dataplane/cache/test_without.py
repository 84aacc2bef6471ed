"""The gateway without recall or without the cache Valkey: requests go on; what is missing is counted."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.dataplane.cache.served import LOOKS, Cached, Said
from tests.harness.gateway import until

STORED = "How do I install Krita on Fedora?"
CANONICAL = "please tell me how to install Krita on Fedora"
SEMANTIC = "On Fedora, how do I install Krita?"
SLOW_MS = 600
"""Of an engine: longer than it takes to be asked and to wake the cache, less than recall may be told in."""
FAIL_OPEN = "tidegate_fail_open_total"
NO_RECALL = ("miss recall_unavailable", "bypass unavailable")
"""The second where the look-up before it was late, as on a busy machine."""


def _all_written(cached: Cached) -> bool:
    """Whether recall has on disk what it was told: what it has not yet, a kill takes."""
    written, told = (
        cached.metric(f"tidegate_recall_{counted}_total", result=result)
        for counted, result in (("table", "written"), ("remembered", "remembered"))
    )
    return 0 < told <= written


@pytest.fixture
def served(cached: Cached) -> Iterator[Cached]:
    """With an answer in the cache that is found by every way; whole again afterwards."""
    cached.kept(STORED)
    cached.found(CANONICAL, "hit canonical")
    cached.found(SEMANTIC, "hit semantic")
    yield cached
    cached.gateway.until_ready()


def test_frozen_recall_is_a_miss_within_the_deadline(served: Cached) -> None:
    before = served.metric(FAIL_OPEN, hop="recall")

    def counted() -> bool:
        served.peek(SEMANTIC, late=True)
        return served.metric(FAIL_OPEN, hop="recall") >= before + 2

    with served.gateway.frozen("recall"):
        assert served.peek(SEMANTIC, late=True).cache in NO_RECALL
        assert served.ask("On Fedora, how do I start Krita?", late=True).cache in NO_RECALL
        assert served.ask(STORED).cache == "hit exact"
        assert served.ask(CANONICAL).cache == "hit canonical"
        until(counted, "two misses are counted")
    served.found(SEMANTIC, "hit semantic")


def test_killed_recall_comes_back_with_what_it_knew(served: Cached) -> None:
    until(lambda: _all_written(served), "questions are on disk")
    served.gateway.kill("recall")
    assert served.peek(SEMANTIC, late=True).cache in NO_RECALL
    assert served.ask("On Fedora, how do I close Krita?", late=True).status == 200
    assert served.ask(STORED).cache == "hit exact"
    assert served.ask(CANONICAL).cache == "hit canonical"
    served.found(SEMANTIC, "hit semantic")


def test_a_frozen_cache_is_a_miss_and_what_it_held_is_found_again(served: Cached) -> None:
    before = served.metric(FAIL_OPEN, hop="cache")
    with served.gateway.frozen("valkey-cache"):
        # A worker may serve from its memory for a second.
        until(
            lambda: all(served.peek(STORED, late=True).status == 504 for _ in range(6)),
            "nothing is served that cannot be checked",
        )
        said = served.ask(STORED, late=True)
        assert (said.status, said.cache) == (200, "bypass unavailable")
    assert served.metric(FAIL_OPEN, hop="cache") > before
    assert served.metric("tidegate_cache_lookups_total", result="unavailable") > 0
    served.found(STORED, "hit exact")
    served.found(SEMANTIC, "hit semantic")


def asked_of_a_frozen_cache(served: Cached, question: str) -> Said:
    """Its answer comes when the cache is well again."""
    known = served.engine_calls()
    served.engine.script({"contains": question, "delay_ms": SLOW_MS})
    with ThreadPoolExecutor(1) as client:
        with served.gateway.frozen("valkey-cache"):
            asked = client.submit(served.ask, question, late=True)
            until(lambda: asked.done() or served.engine_calls() > known, "it is on its way")
        said = asked.result()
    served.engine.script()
    return said


def test_a_question_whose_look_up_was_late_is_found_by_likeness_too(served: Cached) -> None:
    for name in ("Inkscape", "Blender", "Audacity", "Scribus", "Shotwell", "Kdenlive"):
        question = f"How do I update {name} on Debian?"
        said = asked_of_a_frozen_cache(served, question)
        if said.cache == "bypass unavailable" and _stored(served, question):
            served.found(f"On Debian, how do I update {name}?", "hit semantic")
            return
    raise AssertionError("no answer was stored: no worker had seen its org's place")


def _stored(served: Cached, question: str) -> bool:
    return any(served.peek(question).cache == "hit exact" for _ in range(LOOKS))


def test_a_cache_that_lost_everything_is_filled_again(served: Cached) -> None:
    served.gateway.kill("valkey-cache")
    # A worker may serve from its memory for a second.
    until(lambda: all(served.peek(STORED, late=True).status == 504 for _ in range(6)), "nothing is left")

    def filled_again() -> bool:
        served.ask(STORED, late=True)
        return served.peek(CANONICAL).cache == "hit canonical"

    until(filled_again, "answers are kept again")
    served.found(STORED, "hit exact")
