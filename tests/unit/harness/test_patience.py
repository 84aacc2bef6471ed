"""What asks again of a busy machine, and what it leaves alone."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from tests.harness import patience
from tests.harness.patience import TRIES, Patient, patiently

LATE = httpx.Response(503, headers={"x-tidegate-refusal": "budget_unavailable"})
FULL = httpx.Response(503, headers={"x-tidegate-refusal": "engine_overloaded"})


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Without a pause; what is met here is none of the run's."""
    monkeypatch.setattr(patience, "PAUSE_S", 0)
    known = patience.met.copy()
    yield
    patience.met.clear()
    patience.met.update(known)


def answering(monkeypatch: pytest.MonkeyPatch, *answers: httpx.Response) -> list[httpx.Request]:
    """The requests that httpx's transport was given; it answers in turn, and with the last for ever."""
    asked: list[httpx.Request] = []

    def handle(_: httpx.HTTPTransport, request: httpx.Request) -> httpx.Response:
        asked.append(request)
        return answers[min(len(asked), len(answers)) - 1]

    monkeypatch.setattr(httpx.HTTPTransport, "handle_request", handle)
    return asked


def test_what_was_late_is_asked_again_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = answering(monkeypatch, LATE, LATE, httpx.Response(200))
    before = patience.met["budget_unavailable"]
    with httpx.Client(transport=Patient(verify=False)) as client:
        assert client.post("http://x/", json={}).status_code == 200
    assert len(asked) == 3
    assert patience.met["budget_unavailable"] - before == 2


@pytest.mark.parametrize("answer", [FULL, httpx.Response(200), httpx.Response(503)])
def test_any_other_answer_is_the_answer(monkeypatch: pytest.MonkeyPatch, answer: httpx.Response) -> None:
    asked = answering(monkeypatch, answer)
    with httpx.Client(transport=Patient(verify=False)) as client:
        assert client.get("http://x/") is not None
    assert len(asked) == 1


def test_an_outage_is_the_answer_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = answering(monkeypatch, LATE)
    with httpx.Client(transport=Patient(verify=False)) as client:
        assert client.get("http://x/").status_code == 503
    assert len(asked) == TRIES


def test_what_is_sent_piece_by_piece_is_sent_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = answering(monkeypatch, LATE, httpx.Response(200))
    with httpx.Client(transport=Patient(verify=False)) as client:
        assert client.post("http://x/", content=iter([b"a"])).status_code == 503
    assert len(asked) == 1


def test_any_client_may_be_patient() -> None:
    answers = iter([LATE, FULL])
    assert patiently(lambda: next(answers), lambda answer: answer.headers) is FULL
