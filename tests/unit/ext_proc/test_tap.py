"""tap: every ending settles once, before the last bytes; errors become what they are; nothing breaks."""

from __future__ import annotations

from dataclasses import replace

import orjson
import pytest

from ext_proc.charge import LATE_S
from ext_proc.observations import ObserveAnswer
from ext_proc.phases.tap import OPENING_S, TapStage
from ext_proc.vocabulary import (
    AwaitOpening,
    CloseStream,
    Continue,
    Land,
    OpeningOverdue,
    Phase,
    ReplyNow,
    Settle,
    Store,
    Void,
)
from gateway.budget.admission import Verdict
from gateway.budget.certainty import Certainty
from gateway.contract.ids import HoldId
from gateway.contract.units import UnixMillis
from gateway.openai.stored_answer import read_stored
from tests.harness.openai_schema import validate_stream
from tests.unit.ext_proc.asked import GONE, NOW, none, only
from tests.unit.ext_proc.engine_answers import (
    DONE,
    FINISH,
    FRAME,
    FULL,
    WHOLE,
    completion,
    event,
    usage,
    words,
)
from tests.unit.ext_proc.tapped import (
    HEADERS_GO,
    JSON,
    PLACE,
    UNTOUCHED,
    answer_headers,
    bodies,
    chunk,
    place,
    record,
    shown,
    tap_after,
)

# --- streams ---


def test_headers_wait_for_the_first_event() -> None:
    machine, effects = tap_after(answer_headers())
    assert effects == [AwaitOpening(at_most=OPENING_S)]
    first = words("a")
    assert machine.receive(chunk(first[:10])) == ()
    replies = machine.receive(chunk(first[10:]))
    assert replies[0] == HEADERS_GO
    assert len(replies) == 3, "one reply for each message, in order"
    assert machine.stage is TapStage.BODY


def test_headers_do_not_wait_for_ever() -> None:
    machine, _ = tap_after(answer_headers(), chunk(b"data: "))
    replies = machine.receive(OpeningOverdue())
    assert replies == (HEADERS_GO, Continue(phase=Phase.RESPONSE_BODY, body=b""))
    assert machine.stage is TapStage.BODY


def test_a_stream_is_settled_before_done_goes_out() -> None:
    first, last = words("a", "b"), FINISH + event(None, usage(14, 4)) + DONE
    machine, effects = tap_after(answer_headers(), chunk(first))
    effects = list(machine.receive(chunk(last)))
    settle = only(Settle, tuple(effects))
    assert (settle.used.tokens, settle.certainty, settle.hold) == (18, Certainty.EXACT, "r-1")
    assert settle.detail["finish_reason"] == "stop"
    assert place(effects, Settle) < place(effects, Continue)
    assert only(Continue, tuple(effects)).metadata["tidegate.tap"]["used"] == "18"
    assert machine.receive(chunk(end=True)) == (Continue(phase=Phase.RESPONSE_BODY), CloseStream())


def test_usage_the_client_did_not_ask_for_is_hidden_and_usage_it_asked_for_is_not() -> None:
    _, effects = tap_after(answer_headers(), chunk(WHOLE, end=True))
    assert b"usage" not in bodies(effects, WHOLE)
    assert bodies(effects, WHOLE).endswith(DONE)
    asked = record(usage_asked=True)
    _, effects = tap_after(answer_headers(of=asked), chunk(WHOLE, end=True))
    assert bodies(effects, WHOLE).count(b'"usage":{') == 1


def test_a_complete_stream_is_stored_in_one_form() -> None:
    _, effects = tap_after(answer_headers(), chunk(WHOLE, end=True))
    stored = only(Store, tuple(effects))
    assert (stored.place, stored.lineage.request_id, stored.lineage.revision) == (PLACE, "r-1", "r1")
    assert orjson.loads(read_stored(stored.answer)[0])["choices"][0]["message"]["content"] == "hello"


@pytest.mark.parametrize("sent", [words("a"), words("a") + FRAME + DONE, words("a") + FINISH])
def test_nothing_incomplete_is_stored(sent: bytes) -> None:
    machine, effects = tap_after(answer_headers(), chunk(sent))
    effects += machine.receive(GONE)
    assert none(Store, tuple(effects))
    assert only(Land, tuple(effects)).key == PLACE.keys.exact
    assert not none(Settle, tuple(effects))


def test_without_a_place_nothing_is_stored() -> None:
    for text in ("", "key", "key.e", "key.e.0", "key.e.x", "..", ".e.5"):
        _, effects = tap_after(answer_headers(of=record(cache_key=text)), chunk(WHOLE, end=True))
        assert none(Store, tuple(effects))


def test_a_cut_stream_costs_what_was_seen() -> None:
    machine, _ = tap_after(answer_headers(), chunk(words("a", "b")))
    effects = machine.receive(GONE)
    settle = only(Settle, effects)
    assert (settle.used.tokens, settle.certainty) == (18, Certainty.PROVISIONAL)
    assert settle.detail["ended"] == "cut"
    assert only(ObserveAnswer, effects).finish_reason == "cut"


def test_a_late_worker_does_not_take_its_own_end_for_the_client_s() -> None:
    machine, _ = tap_after(answer_headers(), chunk(words("a", "b")))
    settle = only(Settle, machine.receive(replace(GONE, late_s=LATE_S)))
    assert settle.certainty is Certainty.UNKNOWN, "Envoy may have gone on without us, and with the answer"
    assert (settle.detail["ended"], settle.detail["flags"]) == ("lost", "late")
    in_time, _ = tap_after(answer_headers(), chunk(words("a", "b")))
    guessed = only(Settle, in_time.receive(replace(GONE, late_s=LATE_S / 2)))
    assert guessed.certainty is Certainty.PROVISIONAL, "the client's leaving looks the same"


def test_headers_seen_and_nothing_else_costs_the_whole_hold() -> None:
    machine, _ = tap_after(answer_headers(), OpeningOverdue())
    assert only(Settle, machine.receive(GONE)).certainty is Certainty.UNKNOWN


def test_a_200_without_a_body_is_tried_again() -> None:
    for kind in ("text/event-stream", JSON):
        _, effects = tap_after(answer_headers(kind=kind, end=True))
        assert shown(effects)[0] == "503"
        assert none(Settle, tuple(effects))


@pytest.mark.parametrize("status", [200, 400, 503])
def test_an_attempt_that_dies_before_its_headers_went_on_is_the_access_logs(status: int) -> None:
    """Envoy tries it again under the same hold: a void here would make that try free, and a settle would
    charge in full for a request that may end as a 5xx. Those who wait for its answer wait no longer."""
    for bytes_before in ((), (chunk(b"data: {"),)):
        machine, _ = tap_after(answer_headers(status), *bytes_before)
        assert machine.receive(GONE) == (Land(org=record().org, key=PLACE.keys.exact),)


def test_an_end_without_done_is_a_cut_and_the_client_is_told() -> None:
    _, effects = tap_after(answer_headers(), chunk(words("a"), end=True))
    assert bodies(effects, words("a")).endswith(DONE)
    assert b"engine_unavailable" in bodies(effects, words("a"))
    settle = only(Settle, tuple(effects))
    assert (settle.detail["ended"], settle.certainty) == ("stopped", Certainty.PROVISIONAL)


# --- overload inside a 200 ---


@pytest.mark.parametrize("sent", [[FRAME], [FRAME[:9], FRAME[9:]], [FRAME + event(None, usage(0, 0)) + DONE]])
def test_an_opening_error_becomes_the_status_it_is(sent: list[bytes]) -> None:
    machine, effects = tap_after(answer_headers(), *map(chunk, sent))
    status, error = shown(effects)
    assert (status, error["code"]) == ("503", "engine_overloaded")
    assert machine.stage is TapStage.FAILED, "what the engine still says is dropped until Envoy ends the try"
    assert machine.receive(chunk(b"more")) == (Continue(phase=Phase.RESPONSE_BODY, body=b""),)
    assert none(Settle, tuple(effects)), "Envoy tries again under the same hold"
    assert none(Void, tuple(effects))


def test_an_opening_error_that_is_the_clients_fault_ends_the_hold() -> None:
    frame = b"data: " + orjson.dumps({"error": {**FULL, "code": 400, "message": "bad"}}) + b"\n\n"
    _, effects = tap_after(answer_headers(), chunk(frame))
    assert shown(effects)[0] == "400"
    assert only(Void, tuple(effects)).reason == "engine_refused"


def test_an_opening_error_after_the_headers_went_is_shown_in_the_stream_and_free() -> None:
    for opening in ([answer_headers(), OpeningOverdue()], [answer_headers()]):
        machine, _ = tap_after(*opening, keeps_headers=len(opening) == 2)
        effects = machine.receive(chunk(FRAME + DONE, end=True))
        assert only(Settle, effects).used.tokens == 0
        assert only(Settle, effects).certainty > Certainty.UNKNOWN
        assert b"engine_overloaded" in bodies(list(effects), FRAME + DONE)


def test_an_engine_that_gives_up_in_mid_stream_is_an_error_and_charged() -> None:
    machine, effects = tap_after(answer_headers(), chunk(words("a", "b")))
    last = event({}, finish="abort") + event(None, usage(14, 6)) + DONE
    effects += machine.receive(chunk(last, end=True))
    events = validate_stream("chat.completion.chunk", bodies(effects, words("a", "b"), last))
    assert events[-2]["error"]["code"] == "engine_unavailable"
    assert only(Settle, tuple(effects)).used.tokens == 20


def test_times_count_from_the_admission() -> None:
    at = record(admitted_at_ms=UnixMillis(NOW - 500))
    _, effects = tap_after(answer_headers(of=at), chunk(WHOLE, end=True))
    seen = only(ObserveAnswer, tuple(effects))
    assert seen.duration_s == pytest.approx(1.5)
    assert seen.first_token_s == pytest.approx(1.5)
    later = record(admitted_at_ms=UnixMillis(NOW + 500))
    _, effects = tap_after(answer_headers(of=later), chunk(WHOLE, end=True))
    assert only(ObserveAnswer, tuple(effects)).duration_s == pytest.approx(1.0)


# --- errors of the engine ---

REFUSED = orjson.dumps({"object": "error", "message": "temperature must be at most 2", "code": 400})


def test_an_engines_4xx_is_answered_in_our_shape_and_releases_the_hold() -> None:
    machine, effects = tap_after(answer_headers(400, "application/json"))
    assert effects == [AwaitOpening(at_most=OPENING_S)]
    assert machine.receive(chunk(REFUSED[:10])) == ()
    effects = list(machine.receive(chunk(REFUSED[10:], end=True)))
    status, error = shown(effects)
    assert (status, error["message"]) == ("400", "temperature must be at most 2")
    assert only(Void, tuple(effects)).hold == "r-1"


@pytest.mark.parametrize(
    ("status", "as_status"), [(500, 502), (503, 503), (404, 502), (302, 502), (429, 503)]
)
def test_what_envoy_may_try_again_keeps_its_hold(status: int, as_status: int) -> None:
    _, with_body = tap_after(answer_headers(status, "text/plain"), chunk(b"x", end=True))
    assert shown(with_body)[0] == str(as_status)
    _, bare = tap_after(answer_headers(status, end=True))
    if as_status == 503:
        assert shown(bare)[0] == "503", "Envoy tries it again"
    else:
        reply = only(ReplyNow, tuple(bare))
        assert (reply.status, orjson.loads(reply.body)["error"]["code"]) == (as_status, "bad_gateway")
    for effects in (with_body, bare):
        assert none(Void, tuple(effects))
        assert none(Settle, tuple(effects))


def test_an_error_whose_body_is_slow_keeps_its_status_and_gets_our_body() -> None:
    for keeps in (True, False):
        machine, effects = tap_after(answer_headers(400), keeps_headers=keeps)
        if keeps:
            machine.receive(chunk(REFUSED[:5]))
            effects = list(machine.receive(OpeningOverdue()))
        go_on = effects[0]
        assert isinstance(go_on, Continue)
        assert go_on.set_headers["content-type"] == "application/json"
        assert "content-length" in go_on.remove_headers
        rest = machine.receive(chunk(REFUSED[5:] if keeps else REFUSED, end=True))
        assert b"temperature must be at most 2" in (only(Continue, rest).body or b"")
        assert not none(Void, rest)


def test_a_client_that_leaves_during_an_error_releases_the_hold() -> None:
    machine, _ = tap_after(answer_headers(400), OpeningOverdue())
    assert not none(Void, machine.receive(GONE))
    machine, _ = tap_after(answer_headers(503), OpeningOverdue())
    effects = machine.receive(GONE)
    assert none(Void, effects)
    assert none(Settle, effects)


@pytest.mark.parametrize("status", [200, 400, 503])
def test_an_engine_does_not_speak_in_our_name(status: int) -> None:
    headers = answer_headers(status, JSON, x_tidegate_refusal="mine", x_tidegate_cache="hit", x_other="kept")
    _, effects = tap_after(headers, chunk(REFUSED if status == 400 else completion(), end=True))
    reply = next(effect for effect in effects if isinstance(effect, Continue))
    assert "x-tidegate-cache" in reply.remove_headers
    assert "x-other" not in reply.remove_headers
    written = reply.set_headers.get("x-tidegate-refusal")
    assert written != "mine"
    assert ("x-tidegate-refusal" in reply.remove_headers) == (written is None)


# --- not ours ---


@pytest.mark.parametrize("verdict", [Verdict.UNMETERED, Verdict.REFUSED, Verdict.ANSWERED, None])
def test_what_was_not_admitted_here_passes_untouched(verdict: Verdict | None) -> None:
    opening = (
        answer_headers(of=record(decision=verdict)) if verdict else replace(answer_headers(), record=None)
    )
    machine, effects = tap_after(opening, chunk(WHOLE))
    assert effects == [UNTOUCHED, Continue(phase=Phase.RESPONSE_BODY)]
    assert machine.receive(GONE) == ()


@pytest.mark.parametrize(
    "fields",
    [
        {"v": "2"},
        {"v": "9"},
        {"v": 1.0},
        {**record().to_fields(), "held": "x"},
        {**record().to_fields(), "price": "1,2"},
        {**record(lease=HoldId("l-1")).to_fields(), "event_context": "{"},
    ],
)
def test_a_record_that_is_none_passes(fields: dict[str, object]) -> None:
    _, effects = tap_after(replace(answer_headers(), record=fields))
    assert effects == [UNTOUCHED]


def test_a_status_that_is_no_number_is_a_bad_gateway() -> None:
    opening = answer_headers(end=True)
    _, effects = tap_after(replace(opening, headers={":status": "²00"}))
    assert only(ReplyNow, tuple(effects)).status == 502
