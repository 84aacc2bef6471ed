"""The stream corpus against the tap itself: what goes on to the client, and what the hold costs."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from ext_proc.phases.tap import Tap
from ext_proc.vocabulary import CloseStream, Continue, Effect, OpeningOverdue, Phase, ReplyNow, Settle
from gateway.budget.certainty import Certainty
from gateway.contract.units import Tokens
from tests.corpus.streams.cases import StreamCase, stream_cases
from tests.corpus.streams.seen import ZERO, Answer, Charged, charged, fits, seen_in
from tests.unit.ext_proc.asked import GONE
from tests.unit.ext_proc.tapped import answer_headers, chunk, record

CASES_MIN = 150
RECORD = record(usage_asked=True, usage_max=Tokens(8192))
METERED = [case for case in stream_cases() if not case.on_the_wire_only]
UNANSWERED = (
    b'{"error": {"message": "x", "type": "server_error", "param": null, "code": "engine_unavailable"}}'
)
"""Stands for Envoy's own answer when every try has died before its headers went on."""


class Client:
    """What the tap's replies make of an engine's answer, as Envoy would carry them out."""

    def __init__(self, case: StreamCase) -> None:
        """Nothing has come yet."""
        self.status = case.status
        self.headers = {name.lower(): value for name, value in case.headers}
        self.body = b""
        self.begun = False
        self.ended = False
        self.broken = False
        self._waiting: list[bytes] = []

    def sent(self, data: bytes) -> None:
        """The engine has sent this; its reply may come later."""
        self._waiting.append(data)

    def take(self, effects: tuple[Effect, ...]) -> None:
        """Carry out what the tap wants."""
        for effect in effects:
            match effect:
                case ReplyNow() if self.begun:
                    self.broken = True  # after the headers Envoy can only reset the client's stream
                case ReplyNow(status=status, headers=headers, body=body):
                    self.status, self.body = status, body
                    self.headers |= headers
                    self.begun = self.ended = True
                case Continue(phase=Phase.RESPONSE_HEADERS, set_headers=headers):
                    self.begun = True
                    self.status = int(headers.get(":status", self.status))
                    self.headers |= headers
                case Continue(body=body):
                    data = self._waiting.pop(0)
                    self.body += data if body is None else body
                case _:
                    continue

    def answer(self) -> Answer:
        """At the end."""
        if not self.begun or (self.status == 503 and not self.body):
            return Answer(status=503, headers={}, body=UNANSWERED, ended=True)
        ended = self.ended and not self.broken
        return Answer(status=self.status, headers=self.headers, body=self.body, ended=ended)


def through(case: StreamCase, *, overdue: bool) -> tuple[Answer, Charged]:
    """``overdue``: the opening's time is over before anything has come, so that the headers have gone on."""
    machine, client = Tap(keeps_headers=True), Client(case)
    effects: list[Effect] = []

    def take(made: tuple[Effect, ...]) -> None:
        effects.extend(made)
        client.take(made)

    writes = case.writes()
    bodiless = not writes and case.end == "end"
    opening = answer_headers(case.status, "", of=RECORD, end=bodiless)
    take(machine.receive(replace(opening, headers={":status": str(case.status), **client.headers})))
    if overdue and not bodiless:
        take(machine.receive(OpeningOverdue()))
    sent = [chunk(data) for data in writes]
    if case.end == "end" and not bodiless:
        sent.append(chunk(b"", end=True))
    for event in sent:
        if not any(isinstance(effect, CloseStream) for effect in effects):
            client.sent(event.body)
            take(machine.receive(event))
    client.ended = client.ended or case.end == "end"
    take(machine.receive(GONE))
    settles = [effect for effect in effects if isinstance(effect, Settle)]
    assert len(settles) <= 1, "a hold is resolved once"
    if not settles:
        return client.answer(), ZERO
    (settle,) = settles
    flags, unknown = settle.detail["flags"], settle.certainty is Certainty.UNKNOWN
    return client.answer(), charged(unknown=unknown, used=settle.used.tokens, flags=flags)


@pytest.mark.parametrize("case", METERED, ids=lambda case: case.name)
def test_the_client_and_the_charge_are_what_its_file_says(case: StreamCase) -> None:
    answer, charge = through(case, overdue=False)
    seen = seen_in(answer)
    assert any(fits(expected, seen, charge) for expected in case.expected), (seen, charge)


@pytest.mark.parametrize("case", METERED, ids=lambda case: case.name)
def test_headers_that_have_gone_on_change_no_charge(case: StreamCase) -> None:
    """A refusal is then an error in the stream: well-formed, and as free."""
    answer, charge = through(case, overdue=True)
    seen = seen_in(answer)
    if any(expected.client == "refused" for expected in case.expected):
        assert seen.client in ("refused", "error", "broken") or case.name == "reset-after-done", seen
    else:
        assert any(fits(expected, seen, charge) for expected in case.expected), (seen, charge)


def test_the_corpus_is_as_long_as_promised_and_each_stream_is_another() -> None:
    assert len(stream_cases()) >= CASES_MIN
    sent = [
        json.dumps({name: part for name, part in case.spec.items() if name not in ("about", "expect")})
        for case in stream_cases()
    ]
    assert len(set(sent)) == len(sent)


def test_every_kind_of_ending_has_its_cases() -> None:
    expected = [one for case in stream_cases() for one in case.expected]
    assert {one.client for one in expected} == {"whole", "error", "refused", "broken"}
    assert {one.charge for one in expected} == {"exact", "estimated", "unknown", "zero"}
