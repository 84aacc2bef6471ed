"""A short search of every target, driven by hypothesis, which makes what it finds small."""

from __future__ import annotations

import random

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.openai.sse import EVENT_BYTES_MAX, SseParser
from gateway.openai.terms import Endpoint
from tests.fuzz.bodies import SEEDS as BODIES
from tests.fuzz.bodies import check_body
from tests.fuzz.policies import READERS, check_text, mesh_files, read_mesh
from tests.fuzz.streams import check_meter, check_parser
from tests.fuzz.targets import TARGETS, search
from tests.fuzz.tokens import Gate
from tests.unit.ext_proc.engine_answers import meter

SHORT = settings(max_examples=150, suppress_health_check=list(HealthCheck), derandomize=True)
SEARCHED = 400
CHUNK_BYTES = 65_536
_CHANCE = st.randoms(use_true_random=False)


@pytest.mark.parametrize("target", TARGETS)
def test_a_search_finds_nothing(target: str) -> None:
    """The nightly search in small: the same inputs each time."""
    assert search(target, 0, SEARCHED).inputs == SEARCHED


@pytest.mark.parametrize("target", TARGETS)
def test_what_chance_makes_keeps_every_promise(target: str) -> None:
    attempt = TARGETS[target]()

    @SHORT
    @given(_CHANCE)
    def keeps(chance: random.Random) -> None:
        attempt(chance)

    keeps()


@SHORT
@given(pieces=st.lists(st.binary(max_size=60) | st.sampled_from([b"data: ", b"\n\n", b"\r", b"[DONE]"])))
def test_any_bytes_in_any_cut_are_whole_events_and_one_charge(pieces: list[bytes]) -> None:
    check_parser(pieces)
    check_meter(meter(), pieces, cut=False)


@pytest.mark.parametrize("piece", [b"x", b"data: x\n", b"\r\rx", b": x\n", b"{", b"data: [DONE]"])
def test_an_event_without_end_waits_in_bounded_memory(piece: bytes) -> None:
    parser, chunk = SseParser(), piece * (CHUNK_BYTES // len(piece))
    for _ in range(4 * EVENT_BYTES_MAX // CHUNK_BYTES):
        parser.feed(chunk)
        assert len(parser.pending) <= EVENT_BYTES_MAX + CHUNK_BYTES


@SHORT
@given(endpoint=st.sampled_from(Endpoint), body=st.binary(max_size=200))
def test_any_body_is_a_request_or_a_refusal(endpoint: Endpoint, body: bytes) -> None:
    check_body(endpoint, body)


@SHORT
@given(name=st.sampled_from(sorted(READERS)), text=st.text(max_size=200))
def test_any_text_is_a_policy_or_refused_with_its_place(name: str, text: str) -> None:
    check_text(name, text)


@SHORT
@given(file=st.sampled_from(list(mesh_files())), chance=_CHANCE)
def test_a_changed_file_of_mesh_base_is_read_or_refused_with_its_place(
    file: tuple[str, str], chance: random.Random
) -> None:
    read_mesh(*file, chance)


@SHORT
@given(text=st.text(max_size=300))
def test_any_text_as_a_token_is_refused(text: str) -> None:
    Gate().check_forged(text)


def test_the_seeds_are_taken_as_they_stand() -> None:
    """A search that starts from refused requests would never leave the first check."""
    taken = [check_body(endpoint, orjson.dumps({"model": "demo", **fields})) for endpoint, fields in BODIES]
    assert all(taken), taken


def test_a_failure_names_the_input_to_see_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(chance: random.Random) -> None:
        assert chance.random() < 0.9

    monkeypatch.setitem(TARGETS, "broken", lambda: broken)
    with pytest.raises(AssertionError) as first:
        search("broken", 0, 1000)
    note = first.value.__notes__[0]
    number = int(note.rpartition(" ")[2].rstrip(")"))
    with pytest.raises(AssertionError):
        search("broken", number, 1)
