"""tap beyond the plain answer: streams past max_tokens, waste, holds of long streams, draws of leases."""

from __future__ import annotations

from dataclasses import replace

import orjson
import pytest
from prometheus_client import REGISTRY

from ext_proc.measures import Measures
from ext_proc.observations import ObserveAnswer, ObserveWaste
from ext_proc.phases.tap import EXTEND_AFTER_S, EXTEND_EVERY_S, SWALLOWED_MAX, TapStage
from ext_proc.vocabulary import (
    CloseStream,
    Continue,
    Effect,
    Extend,
    Note,
    OpeningOverdue,
    Phase,
    ReplyNow,
    Settle,
    Void,
)
from gateway.budget.admission import AdmissionRecord
from gateway.budget.certainty import Certainty
from gateway.budget.measure import Amounts
from gateway.contract.clock import ManualClock
from gateway.contract.ids import HoldId
from gateway.contract.units import Tokens, UnixMillis
from gateway.path import HOLD_TTL
from tests.harness.openai_schema import validate_stream
from tests.unit.ext_proc.asked import GONE, none, only
from tests.unit.ext_proc.engine_answers import DONE, FINISH, FULL, WHOLE, completion, event, usage, words
from tests.unit.ext_proc.tapped import (
    EMPTY,
    ENGINE,
    JSON,
    answer_headers,
    bodies,
    chunk,
    place,
    record,
    tap_after,
)

FOUR = record(completion_max=Tokens(4), held=Amounts.of(40, 4))
"""``words("a", "b")`` are four tokens."""
MORE = event({"content": "c"}, usage(14, 6))


def test_a_stream_past_its_limit_is_settled_and_ended_at_once() -> None:
    machine, effects = tap_after(answer_headers(of=FOUR), chunk(words("a", "b")))
    cut = list(machine.receive(chunk(MORE)))
    assert machine.stage is TapStage.ENDED
    assert place(cut, Settle) < place(cut, Continue)
    settle = only(Settle, cut)
    assert (settle.used, settle.certainty) == (Amounts.of(14, 4), Certainty.EXACT)
    assert settle.detail["ended"] == "limit"
    assert (settle.detail["upstream"], settle.detail["choices"]) == (ENGINE, "1"), "whom to tell to stop"
    assert only(ObserveAnswer, cut).finish_reason == "length"
    assert only(Continue, cut).metadata["tidegate.tap"]["ended"] == "limit"
    assert none(Note, cut), "how much is wasted is known once the engine has stopped"
    validate_stream("chat.completion.chunk", bodies([*effects, *cut], words("a", "b"), MORE))
    late = event({"content": "d"}, usage(14, 9))
    assert machine.receive(chunk(late)) == (EMPTY,)
    last = machine.receive(chunk(event({}, finish="abort") + DONE, end=True))
    assert only(Note, last).context == {
        "team": "red",
        "request_id": "r-1",
        "hold": "r-1",
        "model": "chat",
        "revision": "r1",
        "reason": "over_limit",
        "tokens": "5",
        "prompt": "0",
        "completion": "5",
    }
    assert only(ObserveWaste, last).tokens == 5
    assert last[-2:] == (EMPTY, CloseStream())


def test_a_client_that_leaves_after_its_end_has_paid() -> None:
    machine, _ = tap_after(answer_headers(of=FOUR), chunk(words("a", "b") + MORE))
    effects = machine.receive(GONE)
    assert none(Settle, effects)
    assert only(Note, effects).kind == "attempt.wasted"


def test_an_end_and_a_limit_in_one_message() -> None:
    sent = words("a", "b") + MORE + event({}, finish="stop") + DONE
    _, effects = tap_after(answer_headers(of=FOUR), chunk(sent, end=True))
    assert only(Settle, effects).used == Amounts.of(14, 4)
    assert only(ObserveWaste, effects).tokens == 2
    assert effects[-1] == CloseStream()


def test_an_engine_that_does_not_stop_is_broken_off() -> None:
    machine, _ = tap_after(answer_headers(of=FOUR), chunk(words("a", "b") + MORE))
    count, effects = 6, tuple[Effect, ...]()
    while machine.stage is TapStage.ENDED:
        count += 50
        effects = machine.receive(chunk(event({"content": "x"}, usage(14, count))))
    assert count - 4 > SWALLOWED_MAX >= count - 4 - 50
    assert [type(effect) for effect in effects[-2:]] == [ReplyNow, CloseStream]
    assert none(Continue, effects)
    assert only(ObserveWaste, effects).tokens == count - 4


def test_a_stream_that_keeps_to_its_limit_tells_nobody_to_stop() -> None:
    _, effects = tap_after(answer_headers(of=FOUR), chunk(WHOLE, end=True))
    settle = only(Settle, effects)
    assert "upstream" not in settle.detail
    assert none(Note, effects)


def test_what_follows_a_whole_answer_is_not_shown() -> None:
    machine, _ = tap_after(answer_headers(), chunk(WHOLE))
    assert machine.receive(chunk(WHOLE)) == (EMPTY,)
    assert machine.receive(GONE) == ()


# --- waste ---


def test_an_attempt_that_produced_and_failed_is_noted_and_may_be_tried_again() -> None:
    sent = completion("abort", used=usage(14, 9))
    _, effects = tap_after(answer_headers(kind=JSON), chunk(sent, end=True))
    assert none(Settle, effects)
    note = only(Note, effects)
    assert (note.org, note.kind, note.context["reason"]) == ("acme", "attempt.wasted", "failed")
    assert (note.context["prompt"], note.context["completion"]) == ("14", "9")
    assert only(ObserveWaste, effects).tokens == 23


@pytest.mark.parametrize("sent", [orjson.dumps(FULL), b"junk", completion()[:-5]])
def test_an_attempt_that_reported_nothing_wasted_nothing_that_is_known(sent: bytes) -> None:
    _, effects = tap_after(answer_headers(kind=JSON), chunk(sent, end=True))
    assert none(Note, effects)


def test_json_past_its_limit_is_noted_with_its_settle() -> None:
    whole = replace(FOUR, stream=False)
    _, effects = tap_after(
        answer_headers(kind=JSON, of=whole), chunk(completion(used=usage(14, 9)), end=True)
    )
    assert only(Settle, effects).used == Amounts.of(14, 4)
    assert only(Note, effects).context["completion"] == "5"


# --- long streams ---


def test_the_hold_of_a_long_stream_is_extended_now_and_then() -> None:
    machine, _ = tap_after(answer_headers(), chunk(words("a")))
    later = event({"content": "b"}, usage(14, 4))

    def at(at_s: float) -> list[Extend]:
        return [one for one in machine.receive(chunk(later, at_s=at_s)) if isinstance(one, Extend)]

    half = 1.0 + EXTEND_AFTER_S
    assert at(half - 1) == []
    assert at(half) == [Extend(org=record().org, hold=HoldId("r-1"), ttl=HOLD_TTL)]
    assert machine.stage is TapStage.BODY
    assert at(half + EXTEND_EVERY_S - 1) == []
    assert len(at(half + EXTEND_EVERY_S)) == 1
    machine.receive(chunk(FINISH + event(None, usage(14, 4)) + DONE))
    assert at(half + 9 * EXTEND_EVERY_S) == []
    assert 2 * EXTEND_AFTER_S == 4 * EXTEND_EVERY_S == HOLD_TTL / 1000


# --- leases ---

LEASED = record(
    lease=HoldId("l-1"),
    lease_windows=("org|tokens|month|1", "key|tokens|month|1"),
    hold_expires_at=UnixMillis(9),
)


def _check(resolution: Settle | Void, of: AdmissionRecord) -> None:
    draw = resolution.draw
    assert draw is not None
    assert (draw.lease, draw.hold, draw.windows) == ("l-1", "r-1", of.lease_windows)
    assert (draw.amounts, draw.units, draw.expires_at) == (Amounts.of(40, 60), 60, 9)
    assert draw.context["team"] == "red"


def test_a_resolution_carries_the_draw_of_its_lease() -> None:
    _, effects = tap_after(answer_headers(of=LEASED), chunk(WHOLE, end=True))
    _check(only(Settle, effects), LEASED)
    machine, _ = tap_after(answer_headers(of=LEASED), OpeningOverdue())
    _check(only(Settle, machine.receive(GONE)), LEASED)
    _, effects = tap_after(answer_headers(400, JSON, of=LEASED), chunk(b"{}", end=True))
    _check(only(Void, effects), LEASED)
    _, effects = tap_after(answer_headers(), chunk(WHOLE, end=True))
    assert only(Settle, effects).draw is None
    assert only(Settle, effects).detail["flags"] == ""


def test_replies_after_a_limit_keep_their_phase() -> None:
    machine, _ = tap_after(answer_headers(of=FOUR), chunk(words("a", "b") + MORE))
    reply = machine.receive(chunk(MORE))[-1]
    assert isinstance(reply, Continue)
    assert reply.phase is Phase.RESPONSE_BODY


def test_waste_is_counted_by_model_and_cause() -> None:
    labels = {"gen_ai_request_model": "test-of-waste", "cause": "failed"}
    measures = Measures(ManualClock())
    for tokens in (Tokens(3), Tokens(4)):
        measures.waste(ObserveWaste(model="test-of-waste", cause="failed", tokens=tokens))
    assert REGISTRY.get_sample_value("tidegate_wasted_tokens_total", labels) == 7


def test_embeddings_have_a_prompt_only() -> None:
    answer = {
        "object": "list",
        "model": "e",
        "data": [{"object": "embedding", "index": index, "embedding": [0.5]} for index in range(3)],
        "usage": {"prompt_tokens": 30, "total_tokens": 30},
    }
    of = record(
        endpoint="embeddings",
        stream=False,
        completion_max=Tokens(0),
        held=Amounts.of(40, 0, micro_usd=81),
        price="2000000,0,0,1",
    )
    _, effects = tap_after(answer_headers(kind=JSON, of=of), chunk(orjson.dumps(answer), end=True))
    settle = only(Settle, effects)
    assert settle.used == Amounts.of(30, 0, micro_usd=61)
    assert (settle.detail["flags"], settle.detail["price"]) == ("", "2000000,0,0,1")
