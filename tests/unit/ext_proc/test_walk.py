"""Every pair of stage and event, of both machines: what is not in the tables is out of order."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from ext_proc.cache.policy import CachePolicy, CacheRule, Match
from ext_proc.cache.store import CachedAnswer, HitKind, Lookup
from ext_proc.phases.admit import Admit, AdmitStage
from ext_proc.phases.tap import Tap, TapStage
from ext_proc.stream import Machine, OutOfOrder
from ext_proc.vocabulary import (
    CacheAnswered,
    CloseStream,
    Event,
    FlightJoined,
    Landed,
    OpeningOverdue,
    RecallAnswered,
    ReplyNow,
    TurnCame,
)
from gateway.contract.units import MicroUsd, Seconds
from gateway.openai.stored_answer import write_stored
from tests.unit.ext_proc.asked import BEHIND, GONE, NOW, PATIENT, admitted, body, granted, headers
from tests.unit.ext_proc.engine_answers import FRAME, WHOLE, completion
from tests.unit.ext_proc.tapped import answer_headers, chunk

_, HOLD = admitted()
PRICED = replace(
    PATIENT,
    caching=CachePolicy(rules=((Match(), CacheRule(name="r", hit_micro_usd=MicroUsd(1))),)),
)
MISS = CacheAnswered(lookup=Lookup(answer=None, epoch="e"), at_ms=NOW)
HIT = CacheAnswered(
    lookup=Lookup(
        answer=CachedAnswer(body=write_stored(completion()), stored_at=NOW, entry="e" * 64),
        epoch="e",
        kind=HitKind.EXACT,
    ),
    at_ms=NOW,
)
UNKNOWN = CacheAnswered(lookup=None, at_ms=NOW)
EVENTS: list[Event] = [
    headers(),
    body(),
    answer_headers(),
    chunk(b"data: {}\n\n"),
    MISS,
    RecallAnswered(lookup=None, candidate=None, reason="far", steps=(), at_ms=NOW),
    FlightJoined(leads=True, at_ms=NOW),
    FlightJoined(leads=False, at_ms=NOW),
    Landed(lookup=None, at_ms=NOW),
    granted(HOLD),
    BEHIND,
    TurnCame(left=Seconds(1.0)),
    TurnCame(left=Seconds(0.0)),
    OpeningOverdue(),
    GONE,
]
ROADS_TO: dict[Any, list[Event]] = {
    AdmitStage.REQUEST_HEADERS: [],
    AdmitStage.REQUEST_BODY: [headers()],
    AdmitStage.SEARCH: [headers(), body()],
    AdmitStage.HIT_HOLD: [headers(), body(), HIT],
    AdmitStage.HOLD_ANSWER: [headers(), body(), UNKNOWN],
    AdmitStage.TURN: [headers(), body(), UNKNOWN, BEHIND],
    AdmitStage.DECIDED: [headers(), body(), UNKNOWN, granted(HOLD)],
    AdmitStage.ABANDONED: [headers(), body(), UNKNOWN, GONE],
    AdmitStage.CLOSED: [GONE],
    TapStage.RESPONSE_HEADERS: [],
    TapStage.OPENING: [answer_headers()],
    TapStage.BODY: [answer_headers(), OpeningOverdue()],
    TapStage.REFUSAL: [answer_headers(400)],
    TapStage.REFUSAL_BODY: [answer_headers(400), OpeningOverdue()],
    TapStage.FAILED: [answer_headers(), chunk(FRAME)],
    TapStage.PASSING: [replace(answer_headers(), record=None)],
    TapStage.ENDED: [answer_headers(), chunk(WHOLE)],
    TapStage.CLOSED: [GONE],
}


def machine_at(stage: AdmitStage | TapStage) -> Machine[Any]:
    machine: Machine[Any] = Admit(PRICED) if isinstance(stage, AdmitStage) else Tap(keeps_headers=True)
    for event in ROADS_TO[stage]:
        machine.receive(event)
    assert machine.stage is stage
    return machine


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: type(event).__name__)
@pytest.mark.parametrize("stage", [*AdmitStage, *TapStage], ids=str)
def test_every_pair(stage: AdmitStage | TapStage, event: Event) -> None:
    machine = machine_at(stage)
    if (stage, type(event)) not in machine.steps:
        with pytest.raises(OutOfOrder, match=type(event).__name__):
            machine.receive(event)
        assert machine.stage is stage
        return
    effects = machine.receive(event)
    closes = [index for index, effect in enumerate(effects) if isinstance(effect, CloseStream)]
    assert closes in ([], [len(effects) - 1]), "the end of a stream is the last thing done"
    if closes:
        assert machine.decided
    replies = [index for index, effect in enumerate(effects) if isinstance(effect, ReplyNow)]
    assert replies in ([], [len(effects) - 2]), "an immediate reply is the last one"


@pytest.mark.parametrize("stage", [*AdmitStage, *TapStage], ids=str)
def test_a_peer_may_go_at_any_stage(stage: AdmitStage | TapStage) -> None:
    machine = machine_at(stage)
    machine.receive(GONE)
    assert machine.receive(GONE) == ()


def test_tables_name_only_stages_of_their_machine() -> None:
    assert {stage for stage, _ in Admit.steps} == set(AdmitStage)
    assert {stage for stage, _ in Tap.steps} == set(TapStage)
