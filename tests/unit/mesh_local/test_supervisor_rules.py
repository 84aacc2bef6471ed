"""Order, back-off and the text of an end: the supervisor's rules without processes."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest

from mesh.local.part import Part, checked_order
from mesh.local.probes import ValkeyPing
from mesh.local.supervisor import BACKOFF_S, BACKOFF_S_MAX, backoff_s


def part(name: str, *after: str) -> Part:
    return Part(name=name, command=("true",), probe=ValkeyPing(socket=Path("/none")), after=after)


def test_parts_that_need_nothing_of_each_other_start_together() -> None:
    parts = [part("c", "a", "b"), part("a"), part("b"), part("d", "c")]
    assert checked_order(parts) == [["a", "b"], ["c"], ["d"]]


@pytest.mark.parametrize(
    ("parts", "complaint"),
    [
        ([part("a"), part("a")], "stands twice"),
        ([part("a", "x")], r"a needs \['x'\], which is no part"),
        ([part("a", "b"), part("b", "a")], r"\['a', 'b'\] need each other in a circle"),
    ],
)
def test_an_impossible_order_is_refused(parts: list[Part], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        checked_order(parts)


@pytest.mark.parametrize("failures", [1, 2, 3, 6, 50, 100_000])
def test_back_off_doubles_is_capped_and_half_random(failures: int) -> None:
    longest = min(BACKOFF_S_MAX, BACKOFF_S * 2.0 ** min(failures - 1, 16))
    pauses = {backoff_s(failures, Random(seed)) for seed in range(50)}
    assert len(pauses) == 50
    assert all(longest / 2 <= pause <= longest for pause in pauses)
