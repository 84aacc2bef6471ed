"""Every pair of stage and event, of both machines: what is not in the tables is out of order."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from ext_proc.cache.store import Lookup
from ext_proc.phases.admit import Admit, AdmitStage
from ext_proc.phases.tap import Tap, TapStage
from ext_proc.stream import Machine, OutOfOrder
from ext_proc.vocabulary import CacheAnswered, CloseStream, Event, OpeningOverdue, ReplyNow, TurnCame
from gateway.contract.units import Seconds
from tests.unit.ext_proc.asked import BEHIND, GONE, NOW, PATIENT, admitted, body, granted, headers
from tests.unit.ext_proc.engine_answers import FRAME, WHOLE
from tests.unit.ext_proc.tapped import answer_headers, chunk

_, HOLD = admitted()
EVENTS: list[Event] = [
    headers(),
    body(),
    answer_headers(),
    chunk(b"data: {}\n\n"),
    CacheAnswered(lookup=Lookup(answer=None, epoch="e"), at_ms=NOW),
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
    AdmitStage.CACHE_ANSWER: [headers(), body()],
    AdmitStage.HOLD_ANSWER: [headers(), body(), CacheAnswered(lookup=None, at_ms=NOW)],
    AdmitStage.TURN: [headers(), body(), CacheAnswered(lookup=None, at_ms=NOW), BEHIND],
    AdmitStage.DECIDED: [headers(), body(), CacheAnswered(lookup=None, at_ms=NOW), granted(HOLD)],
    AdmitStage.ABANDONED: [headers(), body(), CacheAnswered(lookup=None, at_ms=NOW), GONE],
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
    machine: Machine[Any] = Admit(PATIENT) if isinstance(stage, AdmitStage) else Tap(keeps_headers=True)
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
