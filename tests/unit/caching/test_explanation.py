"""What an answer's headers say of the cache, in steps and words."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from mesh.caching.explanation import Explanation, Step, explained

ASKED = "a" * 64
ENTRY = "b" * 64
SEMANTIC = {
    "x-tidegate-cache": "hit",
    "x-tidegate-cache-kind": "semantic",
    "x-tidegate-cache-entry": ENTRY,
    "x-tidegate-cache-similarity": "0.9713",
    "age": "61",
    "x-request-id": "r-1",
    "x-tidegate-cache-trace": f"question={ASKED}; keys=absent; recall=0.990 words guard.number;"
    " recall=0.971 words found; hit=semantic",
}
MISS = {
    "x-tidegate-refusal": "not_cached",
    "x-tidegate-cache-reason": "absent",
    "x-tidegate-cache-trace": f"similar=freshness; question={ASKED}; keys=absent; miss=absent",
}


def test_a_hit_is_told_with_every_step() -> None:
    found = explained(200, SEMANTIC)
    assert found == Explanation(
        hit=True,
        code="semantic",
        question=ASKED,
        request_id="r-1",
        entry=ENTRY,
        similarity="0.9713",
        age_s=61,
        steps=found.steps if found else (),
    )
    assert [(step.name, step.said) for step in found.steps] == [
        ("keys", "absent"),
        ("search", "0.990 words guard.number"),
        ("search", "0.971 words found"),
    ]
    assert found.steps[1].meaning == (
        "a stored question with cosine 0.990 and the same content words: the two have other numbers"
    )
    assert found.steps[2].meaning.endswith("the same content words: may be served")


def test_a_miss_says_what_stood_against_likeness_too() -> None:
    found = explained(504, MISS)
    assert found is not None and not found.hit
    assert [step.name for step in found.steps] == ["similarity", "keys"]
    assert "freshness" in found.steps[0].meaning and found.meaning.startswith(
        "nothing is stored for this question"
    )


def test_the_object_has_the_same_keys_for_both() -> None:
    hit, miss = explained(200, SEMANTIC), explained(504, MISS)
    assert hit is not None and miss is not None
    assert hit.to_object().keys() == miss.to_object().keys()
    assert (hit.to_object()["similarity"], miss.to_object()["entry"]) == (0.9713, None)


@pytest.mark.parametrize(
    ("status", "headers"),
    [
        (401, {"x-tidegate-refusal": "invalid_api_key"}),
        (504, {"x-tidegate-refusal": "engine_timeout"}),
        (504, {}),
        (200, {}),
        (200, {"x-tidegate-cache": "miss"}),
    ],
)
def test_other_answers_explain_nothing(status: int, headers: Mapping[str, str]) -> None:
    assert explained(status, headers) is None


def test_a_step_of_a_newer_gateway_does_not_hide_the_others() -> None:
    trace = "novel=7; keys=brand_new; recall=0.9 odd found; miss=absent"
    found = explained(504, {**MISS, "x-tidegate-cache-trace": trace})
    assert found is not None
    assert found.steps == (
        Step(name="keys", said="brand_new", meaning="brand_new"),
        Step(name="search", said="0.9 odd found", meaning="0.9 odd found"),
    )
