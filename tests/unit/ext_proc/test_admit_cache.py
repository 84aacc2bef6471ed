"""admit and the exact cache: what is asked for, what a hit looks like, where an answer belongs."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from ext_proc.cache.detectors import DETECTORS
from ext_proc.cache.place import Place
from ext_proc.cache.store import CachedAnswer, HitKind, Lookup
from ext_proc.observations import ObserveLookup
from ext_proc.phases.admit import Admit
from ext_proc.vocabulary import (
    AskCache,
    CacheAnswered,
    Continue,
    Effect,
    FlightJoined,
    JoinFlight,
    Note,
    ReplyNow,
    Reserve,
)
from gateway.budget.admission import CacheStatus, Verdict
from gateway.contract.units import UnixMillis
from gateway.openai.stored_answer import write_stored
from tests.unit.ext_proc.asked import NOW, RULES, body, granted, headers, none, only
from tests.unit.ext_proc.engine_answers import completion
from tests.unit.ext_proc.test_admit import written


def looked_up(machine: Admit, stored: bytes | None, *, age_s: int = 7) -> tuple[Effect, ...]:
    """Effects of the look-up's answer; a miss leads its flight."""
    lookup = Lookup(answer=None, epoch="e1")
    if stored is not None:
        answer = CachedAnswer(
            body=write_stored(stored), stored_at=UnixMillis(NOW - age_s * 1000), entry="e" * 64
        )
        lookup = Lookup(answer=answer, epoch="e1", kind=HitKind.EXACT)
    effects = machine.receive(CacheAnswered(lookup=lookup, at_ms=NOW))
    if none(JoinFlight, effects):
        return effects
    machine.receive(FlightJoined(leads=True, at_ms=NOW))
    return machine.receive(CacheAnswered(lookup=lookup, at_ms=NOW))


def asking(cache_control: str = "", **changed: Any) -> tuple[Admit, tuple[Effect, ...]]:
    machine = Admit(RULES)
    machine.receive(headers(cache_control=cache_control))
    return machine, machine.receive(body(**changed))


def test_a_json_hit_costs_nothing() -> None:
    machine, effects = asking()
    assert only(AskCache, effects).org == "acme"
    effects = looked_up(machine, completion())
    reply = only(ReplyNow, effects)
    assert reply.status == 200
    assert orjson.loads(reply.body)["choices"][0]["message"]["content"] == "hi"
    assert orjson.loads(reply.body)["id"] == "chatcmpl-r-1"
    assert (reply.headers["x-tidegate-cache"], reply.headers["age"]) == ("hit", "7")
    assert none(Reserve, effects)
    assert only(Note, effects).kind == "cache.hit"
    assert (written(reply).decision, written(reply).hold) == (Verdict.ANSWERED, "")


def test_a_stream_hit_is_a_stream() -> None:
    machine, _ = asking(stream=True)
    reply = only(ReplyNow, looked_up(machine, completion()))
    assert reply.headers["content-type"].startswith("text/event-stream")
    assert reply.body.endswith(b"data: [DONE]\n\n")
    assert b'"usage"' not in reply.body


def test_json_and_stream_share_an_entry() -> None:
    _, plain = asking()
    _, stream = asking(stream=True, stream_options={"include_usage": True}, user="u", metadata={"a": "b"})
    assert only(AskCache, plain).keys == only(AskCache, stream).keys


@pytest.mark.parametrize("stored", [None, b"", b"not json", b"[]"])
def test_a_miss_is_told_where_its_answer_belongs(stored: bytes | None) -> None:
    machine, asked = asking()
    effects = looked_up(machine, stored)
    assert only(ObserveLookup, effects).result == "miss"
    reply = only(Continue, machine.receive(granted(only(Reserve, effects).request)))
    assert written(reply).cache is CacheStatus.MISS
    assert Place.from_text(written(reply).cache_key) == Place(
        keys=only(AskCache, asked).keys,
        epoch="e1",
        ttl_seconds=3600,
        flight=stored is None,
        policy_version="4",
        detectors=tuple(sorted(DETECTORS)),
    )


@pytest.mark.parametrize("epoch", ["", "e1"])
def test_a_late_cache_is_a_miss_whose_answer_is_stored_where_that_is_known(epoch: str) -> None:
    machine, asked = asking()
    effects = machine.receive(CacheAnswered(lookup=None, at_ms=NOW, epoch=epoch))
    assert only(ObserveLookup, effects).result == "unavailable"
    reply = only(Continue, machine.receive(granted(only(Reserve, effects).request)))
    if not epoch:
        assert written(reply).cache_key == ""
        return
    place = Place.from_text(written(reply).cache_key)
    assert place is not None
    assert (place.keys, place.epoch, place.flight) == (only(AskCache, asked).keys, "e1", False)


def test_cache_control() -> None:
    machine, effects = asking("no-store")
    assert none(AskCache, effects)
    machine, effects = asking("No-Cache")
    effects = looked_up(machine, completion())
    reply = only(Continue, machine.receive(granted(only(Reserve, effects).request)))
    assert written(reply).cache is CacheStatus.BYPASS
    assert written(reply).cache_key
    for directive, hit in {"max-age=7": True, "max-age=6": False, "max-age=x": False, "foo": True}.items():
        machine, _ = asking(directive)
        assert none(Reserve, looked_up(machine, completion())) == hit


@pytest.mark.parametrize("changed", [{"temperature": 1}, {"n": 2}, {"model": "quiet"}])
def test_what_is_not_repeatable_is_not_asked_for(changed: dict[str, Any]) -> None:
    _, effects = asking(**changed)
    assert none(AskCache, effects)
    assert only(ObserveLookup, effects).result == "bypass"


@pytest.mark.parametrize("changed", [{"seed": 1, "temperature": 1}, {"max_tokens": 5}])
def test_what_is_repeatable_is(changed: dict[str, Any]) -> None:
    _, effects = asking(**changed)
    assert not none(AskCache, effects)
