"""The SSE parser and the meter under fuzz: nothing is raised, nothing is lost, nothing grows."""

from __future__ import annotations

import random
from typing import Final

import orjson

from ext_proc.charge import Ended
from ext_proc.metering import Meter
from gateway.openai.sse import DONE, SseParser
from tests.corpus.streams.cases import stream_cases
from tests.fuzz.mutation import changed_bytes, cut_up
from tests.unit.ext_proc.engine_answers import JSON, STREAM, completion, meter

_SEED_BYTES_MAX: Final = 3_000
SEEDS: Final = (
    *(joined for case in stream_cases() if len(joined := b"".join(case.writes())) <= _SEED_BYTES_MAX),
    completion(),
    completion("length", choices=2),
)
_KINDS: Final = (STREAM, STREAM, STREAM, STREAM, JSON, "text/html", "")


def stream_from(rng: random.Random) -> bytes:
    """A changed stream of the corpus."""
    return changed_bytes(rng, rng.choice(SEEDS), rng.choice(SEEDS))


def check_parser(pieces: list[bytes]) -> None:
    """Raw bytes joined are the bytes fed, and the events do not depend on the cut."""
    parser, whole = SseParser(), b"".join(pieces)
    events = [event for piece in pieces for event in parser.feed(piece)]
    events += parser.flush()
    assert b"".join(event.raw for event in events) == whole
    assert parser.pending == b""
    once = SseParser()
    assert [event.data for event in (*once.feed(whole), *once.flush())] == [event.data for event in events]


def check_meter(subject: Meter, pieces: list[bytes], *, cut: bool) -> None:
    """One end, a charge that can be true, and an answer only of what was whole."""
    steps = [subject.feed(piece, at_s=101.0) for piece in pieces]
    if cut:
        subject.cut(at_s=102.0)
    else:
        steps.append(subject.end(at_s=102.0))
    if subject.streams:
        check_shown(b"".join(step.forward for step in steps), cut=cut)
    charge = subject.charge()
    assert subject.ended is not Ended.OPEN
    assert sum(step.ends for step in steps) <= 1
    assert charge.used.prompt_tokens <= 1000
    assert charge.used.completion_tokens <= 2000
    assert not (charge.unknown and charge.used.tokens)
    assert all(isinstance(value, str) for value in charge.detail.values())
    stored = subject.answer()
    assert stored is None or subject.ended is Ended.COMPLETE


def check_shown(forward: bytes, *, cut: bool) -> None:
    """Whole events of a JSON object each, keep-alives, ``[DONE]`` once, at the end of what was not cut."""
    *events, rest = forward.split(b"\n\n")
    assert rest == b"", rest
    data = [event.removeprefix(b"data: ") for event in events if not event.startswith(b":")]
    assert all(isinstance(orjson.loads(one), dict) for one in data if one != DONE), data
    assert DONE not in data[:-1]
    assert cut or data[-1] == DONE


def check_stream(rng: random.Random) -> None:
    """One changed stream, in pieces, through both."""
    pieces = cut_up(rng, stream_from(rng))
    check_parser(pieces)
    subject = meter(
        rng.choice(_KINDS),
        usage_asked=rng.random() < 0.5,
        choices=rng.choice((1, 1, 2)),
        completion=rng.choice((3, 1000)),
    )
    check_meter(subject, pieces, cut=rng.random() < 0.3)
