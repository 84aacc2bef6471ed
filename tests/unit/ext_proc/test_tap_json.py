"""tap on JSON answers: kept back whole, mended, tried again or broken off; never half of one."""

from __future__ import annotations

import orjson
import pytest

from ext_proc.observations import ObserveAnswer
from ext_proc.phases.tap import OPENING_S, TapStage
from ext_proc.vocabulary import (
    AwaitOpening,
    CloseStream,
    Continue,
    OpeningOverdue,
    Phase,
    ReplyNow,
    Settle,
    Store,
)
from gateway.budget.certainty import Certainty
from gateway.openai.stored_answer import write_stored
from gateway.path import RESPONSE_BYTES_MAX
from tests.harness.openai_schema import validate
from tests.unit.ext_proc.asked import GONE, none, only
from tests.unit.ext_proc.engine_answers import (
    FULL,
    completion,
)
from tests.unit.ext_proc.tapped import (
    EMPTY,
    HEADERS_GO,
    JSON,
    answer_headers,
    bodies,
    chunk,
    place,
    record,
    shown,
    tap_after,
)


def test_json_and_its_headers_wait_until_it_is_whole_and_settled() -> None:
    sent = completion()
    machine, effects = tap_after(answer_headers(kind=JSON))
    assert effects == [AwaitOpening(at_most=OPENING_S)]
    assert machine.receive(chunk(sent[:20])) == ()
    effects = list(machine.receive(chunk(sent[20:], end=True)))
    assert place(effects, Settle) < place(effects, Continue)
    replies = [effect for effect in effects if isinstance(effect, Continue)]
    assert replies[:2] == [HEADERS_GO, EMPTY]
    validate("chat.completion", orjson.loads(replies[2].body or b""))
    assert only(Store, tuple(effects)).answer == write_stored(replies[2].body or b"")


def test_slow_json_lets_its_headers_go_and_answers_each_message_at_once() -> None:
    sent = completion()
    machine, _ = tap_after(answer_headers(kind=JSON), chunk(sent[:20]))
    assert machine.receive(OpeningOverdue()) == (HEADERS_GO, EMPTY)
    assert machine.receive(chunk(sent[20:30])) == (EMPTY,)
    effects = machine.receive(chunk(sent[30:], end=True))
    validate("chat.completion", orjson.loads(only(Continue, effects).body or b""))
    assert only(Settle, effects).used.tokens == 18


def test_json_that_announces_more_than_is_read_goes_on_at_once_charged_in_full() -> None:
    """Sent here it would fill Envoy's buffers, which crashes it (mesh/base/hardening.yaml)."""
    machine, effects = tap_after(answer_headers(kind=JSON, content_length=str(RESPONSE_BYTES_MAX + 1)))
    assert effects[-2:] == [HEADERS_GO, CloseStream()]
    assert only(Settle, tuple(effects)).certainty is Certainty.UNKNOWN
    assert only(ObserveAnswer, tuple(effects)).unmended
    assert machine.stage is TapStage.CLOSED


def test_json_with_a_length_is_settled_with_its_last_byte() -> None:
    sent = completion()
    machine, _ = tap_after(answer_headers(kind=JSON, content_length=str(len(sent))))
    assert not none(Settle, machine.receive(chunk(sent)))
    assert machine.stage is TapStage.ENDED
    assert machine.receive(chunk(end=True)) == (Continue(phase=Phase.RESPONSE_BODY), CloseStream())


def test_half_a_json_answer_costs_the_whole_hold_once_its_headers_have_gone() -> None:
    machine, _ = tap_after(answer_headers(kind=JSON), chunk(completion()[:30]))
    assert none(Settle, machine.receive(GONE))
    machine, _ = tap_after(answer_headers(kind=JSON), chunk(completion()[:30]), OpeningOverdue())
    assert only(Settle, machine.receive(GONE)).certainty is Certainty.UNKNOWN


NONE = [b"junk", completion()[:-5], b"[]", completion("abort"), orjson.dumps(FULL)]


@pytest.mark.parametrize("sent", NONE)
def test_json_that_is_no_answer_is_tried_again(sent: bytes) -> None:
    machine, effects = tap_after(answer_headers(kind=JSON), chunk(sent[:2]), chunk(sent[2:], end=True))
    assert shown(effects)[0] == "503"
    assert none(Settle, tuple(effects)), "Envoy tries again under the same hold"
    assert machine.stage is TapStage.CLOSED


@pytest.mark.parametrize("sent", NONE)
def test_json_that_is_no_answer_after_its_headers_is_broken_off(sent: bytes) -> None:
    machine, _ = tap_after(answer_headers(kind=JSON), OpeningOverdue())
    effects = machine.receive(chunk(sent, end=True))
    assert not none(Settle, effects)
    assert [type(effect) for effect in effects[-2:]] == [ReplyNow, CloseStream]
    assert none(Continue, effects), "nothing that could look like an answer"
    reply = only(ReplyNow, effects)
    assert reply.metadata["tidegate.tap"]["ended"] in ("cut", "error")
    assert reply.status == 503
    validate("error", orjson.loads(reply.body))


def test_what_an_aborted_answer_had_produced_is_charged() -> None:
    machine, _ = tap_after(answer_headers(kind=JSON), OpeningOverdue())
    settle = only(Settle, machine.receive(chunk(completion("abort"), end=True)))
    assert (settle.used.tokens, settle.certainty) == (18, Certainty.PROVISIONAL)


@pytest.mark.parametrize("coding", ["gzip", "br", "gzip, identity"])
def test_a_coded_answer_cannot_be_read_and_is_none(coding: str) -> None:
    _, effects = tap_after(answer_headers(kind=JSON, content_encoding=coding), chunk(completion()))
    assert shown(effects)[0] == "503"
    _, effects = tap_after(
        answer_headers(kind=JSON, content_encoding="Identity"), chunk(completion(), end=True)
    )
    assert not none(Settle, tuple(effects))


def test_an_answer_too_large_to_mend_passes_and_is_counted() -> None:
    machine, _ = tap_after(answer_headers(kind=JSON), OpeningOverdue())
    piece = b"x" * (RESPONSE_BYTES_MAX // 4)
    sent = [piece] * 5
    effects = [effect for part in sent for effect in machine.receive(chunk(part))]
    assert bodies(effects, *sent) == b"".join(sent)
    assert only(ObserveAnswer, machine.receive(chunk(end=True))).unmended


def test_tokens_are_free() -> None:
    sent = orjson.dumps({"tokens": [1], "count": 1, "max_model_len": 9})
    of = record(endpoint="tokenize", stream=False, cache_key="")
    _, effects = tap_after(answer_headers(kind=JSON, of=of), chunk(sent, end=True))
    settle = only(Settle, tuple(effects))
    assert (settle.used.tokens, settle.certainty, settle.detail["flags"]) == (0, Certainty.EXACT, "")
