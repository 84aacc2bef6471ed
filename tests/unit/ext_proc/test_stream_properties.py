"""Histories nobody thought of: a stream that dies anywhere resolves its hold at most once, and admit
never ends well without a decision."""

from __future__ import annotations

from hypothesis import example, given, settings
from hypothesis import strategies as st

from ext_proc.cache.store import CachedAnswer, Lookup
from ext_proc.phases.admit import Admit
from ext_proc.phases.tap import Tap
from ext_proc.vocabulary import (
    AskCache,
    AwaitTurn,
    CacheAnswered,
    CloseStream,
    Continue,
    Effect,
    Event,
    HoldAnswered,
    OpeningOverdue,
    PeerGone,
    Phase,
    ReplyNow,
    RequestBodyArrived,
    RequestHeadersArrived,
    Reserve,
    ResponseHeadersArrived,
    Settle,
    Store,
    TakeTime,
    TurnCame,
    Void,
)
from gateway.budget.ledger import Refused
from gateway.contract.errors import LedgerUnavailable
from gateway.contract.units import Millis, Seconds
from tests.unit.ext_proc.asked import BEHIND, GONE, NOW, PATIENT, body, granted, headers, standing
from tests.unit.ext_proc.engine_answers import DONE, FINISH, FRAME, WHOLE, completion, event, usage, words
from tests.unit.ext_proc.tapped import answer_headers, chunk

Effects = tuple[Effect, ...]


def resolutions(effects: Effects) -> int:
    return sum(isinstance(effect, Settle | Void) for effect in effects)


LOOKUPS = st.sampled_from(
    [
        None,
        Lookup(answer=None, epoch="e"),
        Lookup(answer=CachedAnswer(body=completion(), stored_at=NOW), epoch="e"),
    ]
)
BODIES = st.sampled_from([body(), body(stream=True), body(model="none"), body(temperature=1), body(b"{")])
HEADS = st.sampled_from(
    [headers(), headers(cache_control="no-store"), headers(path="/v1/models"), headers(method="GET")]
)


ANSWERS = st.lists(st.sampled_from(["granted", "silent", "refused", "behind"]), min_size=1, max_size=5)
TURNS = st.sampled_from([TurnCame(left=Seconds(3.0)), TurnCame(left=Seconds(0.0))])


def answered(effect: Reserve, how: str) -> HoldAnswered:
    """What the ledger, or the line before it, says."""
    match how:
        case "granted":
            return granted(effect.request)
        case "refused":
            refused = Refused(standing=standing(), needed=30, retry_after=Millis(200))
            return HoldAnswered(answer=refused, at_ms=NOW)
        case "behind":
            return BEHIND
        case _:
            return HoldAnswered(answer=LedgerUnavailable("x"), at_ms=NOW)


@given(
    head=HEADS,
    asked=BODIES,
    lookup=LOOKUPS,
    ledger=ANSWERS,
    turn=TURNS,
    dies_before=st.integers(0, 9),
)
def test_admit_decides_once_or_holds_nothing(
    head: RequestHeadersArrived,
    asked: RequestBodyArrived,
    lookup: Lookup | None,
    ledger: list[str],
    turn: TurnCame,
    dies_before: int,
) -> None:
    machine = Admit(PATIENT)
    held = released = decisions = times = 0
    how = "refused"
    arriving: list[Event] = [head, asked]
    step = 0
    while True:
        if step == dies_before or not arriving:
            effects = machine.receive(GONE)
            released += resolutions(effects)
            for late in arriving:
                if isinstance(late, HoldAnswered | CacheAnswered):
                    released += resolutions(machine.receive(late))
            break
        effects = machine.receive(arriving.pop(0))
        step += 1
        released += resolutions(effects)
        for effect in effects:
            if isinstance(effect, AskCache):
                arriving.insert(0, CacheAnswered(lookup=lookup, at_ms=NOW))
            elif isinstance(effect, Reserve):
                how = ledger.pop(0) if ledger else "refused"
                held += how in ("granted", "silent")
                arriving.insert(0, answered(effect, how))
            elif isinstance(effect, TakeTime):
                times += 1
            elif isinstance(effect, AwaitTurn):
                assert times == 1, "Envoy is told once, before the first wait"
                arriving.insert(0, turn if ledger else TurnCame(left=Seconds(0.0)))
            elif isinstance(effect, ReplyNow) or (isinstance(effect, Continue) and effect.metadata):
                decisions += 1
            elif isinstance(effect, CloseStream):
                assert decisions == 1
                assert machine.decided
                arriving.clear()
    assert decisions <= 1
    assert held <= 1
    assert released <= held
    if held and not decisions:
        assert released == 1, "a hold nobody was told of is released"
    if decisions and how == "granted":
        assert released == 0, "a hold that went out with a decision is the tap's"


PIECES = st.sampled_from(
    [words("a"), words("a", "b"), FINISH, event(None, usage(14, 4)), DONE, FRAME, WHOLE, b": ping\n\n", b"x"]
)
OPENINGS = st.sampled_from(
    [
        answer_headers(),
        answer_headers(kind="application/json"),
        answer_headers(kind="application/json", content_length=str(len(completion()))),
        answer_headers(400),
        answer_headers(503, "application/json"),
        answer_headers(200, "text/html"),
    ]
)


@st.composite
def answers(draw: st.DrawFn) -> list[Event]:
    sent = draw(st.lists(PIECES, max_size=4).map(b"".join) | st.just(completion()))
    cuts = sorted(draw(st.lists(st.integers(0, len(sent)), max_size=5)))
    parts = [sent[start:stop] for start, stop in zip([0, *cuts], [*cuts, len(sent)], strict=True)]
    events: list[Event] = [chunk(part) for part in parts]
    if draw(st.booleans()):
        events.append(chunk(end=True))
    if draw(st.booleans()):
        events.insert(draw(st.integers(0, len(events))), OpeningOverdue())
    return events


@settings(max_examples=400)
@given(opening=OPENINGS, events=answers(), keeps=st.booleans())
@example(opening=answer_headers(), events=[chunk(FRAME), chunk(DONE, end=True)], keeps=True)
@example(opening=answer_headers(), events=[chunk(FRAME + DONE, end=True)], keeps=True)
@example(opening=answer_headers(400), events=[chunk(b"x"), OpeningOverdue(), chunk(end=True)], keeps=True)
def test_tap_resolves_at_most_once_and_answers_every_message_in_order(
    opening: ResponseHeadersArrived, events: list[Event], keeps: bool
) -> None:
    machine = Tap(keeps_headers=keeps)
    done: list[Effect] = list(machine.receive(opening))
    messages = 1
    for item in events:
        if isinstance(item, OpeningOverdue) and (machine.stage, OpeningOverdue) not in machine.steps:
            continue
        if any(isinstance(effect, CloseStream) for effect in done):
            break
        messages += not isinstance(item, OpeningOverdue)
        done += machine.receive(item)
    replies = [effect for effect in done if isinstance(effect, Continue)]
    broken = [index for index, effect in enumerate(done) if isinstance(effect, ReplyNow)]
    assert not broken or replies, "an immediate reply is never tried again: only once headers have gone"
    assert [reply.phase for reply in replies[:1]] in ([], [Phase.RESPONSE_HEADERS])
    assert all(reply.phase is Phase.RESPONSE_BODY for reply in replies[1:])
    assert len(replies) <= messages
    if any(isinstance(effect, CloseStream) for effect in done):
        assert len(replies) + len(broken) == messages
    failed_as = replies[0].set_headers.get(":status") if replies else None
    done += machine.receive(PeerGone(at_s=9.0))
    assert resolutions(tuple(done)) <= 1
    assert sum(isinstance(effect, Store) for effect in done) <= 1
    if failed_as is not None:
        voids = sum(isinstance(effect, Void) for effect in done)
        assert (resolutions(tuple(done)), voids) == ((1, 1) if failed_as < "500" else (0, 0))
    elif not replies:
        assert resolutions(tuple(done)) == 0, "an attempt of which nothing has gone on may be tried again"
    elif 200 <= int(opening.headers[":status"]) < 300:
        assert sum(isinstance(effect, Settle) for effect in done) == 1, "settled in every ending"


def test_the_clients_bytes_do_not_depend_on_how_they_were_cut() -> None:
    whole = WHOLE
    for size in (1, 7, 64, len(whole)):
        machine = Tap(keeps_headers=True)
        effects: list[Effect] = list(machine.receive(answer_headers()))
        sent = [whole[at : at + size] for at in range(0, len(whole), size)]
        for part in sent:
            effects += machine.receive(chunk(part))
        bodies = [e for e in effects if isinstance(e, Continue) and e.phase is Phase.RESPONSE_BODY]
        seen = b"".join(
            part if reply.body is None else reply.body for reply, part in zip(bodies, sent, strict=True)
        )
        assert seen.endswith(DONE)
        assert b"usage" not in seen
