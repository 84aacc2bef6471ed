"""Reports of usage: the time they cover, what they are grouped by, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.admin.change import Conflict
from gateway.admin.usage import BadUsage, UsageQuery, groups_from, report, row_object, span_from, total_of
from gateway.bookkeeper.consumption import Sums, UsageRow
from gateway.contract.units import UnixMillis

NOW = UnixMillis(1_800_000_000_000)
DAY_MS = 86_400_000
TODAY = 1_799_971_200_000
"""2027-01-15 00:00 UTC."""


def test_days_are_whole_and_the_last_one_counts() -> None:
    assert span_from("2027-01-15", "2027-01-15", now=NOW) == (TODAY, TODAY + DAY_MS)
    assert span_from(None, None, now=NOW) == (TODAY - 30 * DAY_MS, NOW + 1)
    assert span_from(None, "2027-01-14", now=NOW) == (TODAY - 30 * DAY_MS, TODAY)
    assert span_from("2027-01-01", None, now=NOW) == (TODAY - 14 * DAY_MS, NOW + 1)


@pytest.mark.parametrize(
    ("first", "last", "param"),
    [
        ("x", None, "from"),
        (None, "2027-1-1x", "to"),
        ("2027-13-01", None, "from"),
        ("2027-01-16", "2027-01-15", "from"),
        ("2020-01-01", "2027-01-01", "from"),
        ("9" * 5000, None, "from"),
    ],
)
def test_a_time_that_is_none_names_its_parameter(first: str | None, last: str | None, param: str) -> None:
    with pytest.raises(BadUsage) as refused:
        span_from(first, last, now=NOW)
    assert refused.value.param == param
    assert len(str(refused.value)) < 300


def test_groups() -> None:
    assert groups_from("") == ()
    assert groups_from("team,day") == ("team", "day")
    for wrong in ("colour", "team,team", "team,,day", "Team", "day "):
        with pytest.raises(BadUsage) as refused:
            groups_from(wrong)
        assert refused.value.param == "by"


async def test_without_a_projection_it_is_said(tmp_path: Path) -> None:
    with pytest.raises(Conflict, match="no projection of the books yet: the bookkeeper makes one"):
        await report(tmp_path, UsageQuery(since_ms=NOW, until_ms=NOW))


def test_rows_as_objects() -> None:
    rows = [
        UsageRow(group={"team": "blue"}, sums=Sums(requests=1, tokens=5)),
        UsageRow(group={"team": ""}, sums=Sums(requests=2, tokens=7, micro_usd=1)),
    ]
    assert row_object(rows[0])["team"] == "blue"
    assert (total_of(rows).requests, total_of(rows).tokens, total_of(rows).micro_usd) == (3, 12, 1)
    assert total_of([]) == Sums()
