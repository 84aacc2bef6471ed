"""What holds for every answer, every history of a bucket and every file."""

from __future__ import annotations

from contextlib import suppress

import orjson
from hypothesis import given
from hypothesis import strategies as st

from ext_proc.recall.agreement import Answer, Verdict, agreement, read_answer
from ext_proc.recall.check_request import check_request
from ext_proc.recall.judged_pairs import JudgedPairs
from ext_proc.recall.judging import read_verdict
from ext_proc.recall.truth import State, Truth
from gateway.contract.units import UnixMillis

BUCKET, SLO = "demo/m/words/0.92", 0.05
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "choices",
                    "message",
                    "content",
                    "tool_calls",
                    "function",
                    "messages",
                    "role",
                    "prompt",
                    "version",
                ]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)
WORDS = "yes no not never 30 14 days Paris on off The, . ! it's { [ 1,000 1:30"
TEXTS = st.text(max_size=60) | st.lists(st.sampled_from(WORDS.split()), max_size=12).map(" ".join)
STEPS = st.lists(st.tuples(st.booleans(), st.integers(0, 3)), max_size=80)


@given(JSON, st.binary(max_size=40))
def test_nothing_that_is_sent_raises(document: object, rubbish: bytes) -> None:
    with suppress(orjson.JSONEncodeError):  # whole numbers beyond 64 bits: no JSON of orjson's
        written = orjson.dumps(document)
        for data in (written, rubbish):
            read_answer(data)
            check_request(data)
            read_verdict(data)


@given(JSON, st.binary(max_size=40))
def test_a_foreign_file_is_a_value_error_or_nothing(document: object, rubbish: bytes) -> None:
    files = [rubbish]
    with suppress(orjson.JSONEncodeError):
        files.append(orjson.dumps(document))
    for data in files:
        for read in (Truth.from_json, JudgedPairs.from_json):
            with suppress(ValueError):
                assert len(read(data)) == 0


@given(TEXTS, TEXTS)
def test_agreement_is_symmetric_and_an_answer_agrees_with_itself(first: str, second: str) -> None:
    one, other = Answer(text=first), Answer(text=second)
    assert agreement(one, other) == agreement(other, one)
    assert agreement(one, one).verdict is Verdict.AGREE


@given(STEPS)
def test_what_is_on_is_within_its_slo_and_a_saved_truth_goes_on_alike(steps: list[tuple[bool, int]]) -> None:
    truth, now = Truth(), 0
    for agreed, hours in steps:
        now += hours * 3_600_000
        saved = Truth.from_json(truth.to_json())
        changes = [
            (which.tick(UnixMillis(now)), which.observe(BUCKET, SLO, agreed=agreed, now=UnixMillis(now)))
            for which in (truth, saved)
        ]
        assert changes[0] == changes[1]
        standing = truth.standing(BUCKET, SLO)
        assert (truth.closed() == {BUCKET}) == (standing.state is not State.ON)
        if standing.state is State.ON:
            assert standing.bound <= SLO + 1e-9
        assert (standing.until > 0) == (standing.state is State.OFF)
