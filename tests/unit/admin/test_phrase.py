"""Limits, durations and days in an operator's words: what they mean, and what is said of any other."""

from __future__ import annotations

import pytest

from gateway.admin.change import BadValue, By
from gateway.admin.duration import duration, moment
from gateway.admin.phrase import limit_phrase, window_phrase, words_of
from gateway.budget.measure import Measure
from gateway.budget.window import UNLIMITED, Enforcement, Window, WindowKind
from gateway.contract.units import UnixMillis

NOW = UnixMillis(1_800_000_000_000)
"""2027-01-15 08:00 UTC."""


@pytest.mark.parametrize(
    ("text", "window"),
    [
        ("tokens=100000 per minute", Window(kind=WindowKind.MINUTE, limit=100000)),
        ("tokens=unlimited per month", Window(kind=WindowKind.MONTH, limit=UNLIMITED)),
        (
            "micro_usd=5 per month zone Europe/Berlin enforcement soft",
            Window(
                kind=WindowKind.MONTH,
                measure=Measure.MICRO_USD,
                limit=5,
                zone="Europe/Berlin",
                enforcement=Enforcement.SOFT,
            ),
        ),
        (
            "requests=60  per minute  burst 20",
            Window(kind=WindowKind.MINUTE, measure=Measure.REQUESTS, limit=60, burst=20),
        ),
        (
            "tokens=7 per rolling_seconds=3600",
            Window(kind=WindowKind.ROLLING, limit=7, seconds=3600),
        ),
        ("concurrent=8", Window(kind=WindowKind.LIFETIME, measure=Measure.CONCURRENT, limit=8)),
    ],
)
def test_a_limit_and_its_window(text: str, window: Window) -> None:
    assert limit_phrase(text).window == window
    named = window_phrase(words_of(window))
    assert named.name == window.name, "what words_of writes names the same window"


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "is no limit"),
        ("tokens=1 per minute " + "x" * 200, "is no limit"),
        ("tokens per minute", "says no amount"),
        ("tokens=-1 per minute", "the amount is no whole number"),
        ("tokens=1.5 per minute", "no whole number"),
        ("tokens=1_000 per minute", "no whole number"),
        ("tokens=99999999999999999 per minute", "no whole number"),
        ("tokens=9999999999999999 per minute", "limit: must be"),
        ("words=1 per minute", "what can be counted is tokens, prompt_tokens"),
        ("tokens=1", "needs 'per' and a time"),
        ("concurrent=1 per minute", "is counted now, without 'per'"),
        ("tokens=1 per week", "no window 'week'"),
        ("tokens=1 per", "'per' where it may not stand"),
        ("tokens=1 per day per day", "'per' where it may not stand"),
        ("tokens=1 every day", "'every' where it may not stand"),
        ("tokens=1 per day zone Mars/North", "no time zone"),
        ("tokens=1 per minute zone Europe/Berlin", "a minute has none"),
        ("tokens=1 per day enforcement strict", "there are hard, soft, shadow"),
        ("tokens=1 per day burst 5", "burst: only of limited minutes and hours"),
        ("tokens=1 per rolling_seconds=0", "seconds"),
    ],
)
def test_a_limit_that_is_none(text: str, complaint: str) -> None:
    with pytest.raises(BadValue) as refused:
        limit_phrase(text)
    assert complaint in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_window_has_no_amount() -> None:
    with pytest.raises(BadValue, match="names a window, no amount"):
        window_phrase("tokens=1 per minute")


def test_what_is_not_said_stays_as_it_is() -> None:
    present = Window(kind=WindowKind.MINUTE, limit=10, burst=5, enforcement=Enforcement.SOFT)
    assert limit_phrase("tokens=20 per minute").after(present) == Window(
        kind=WindowKind.MINUTE, limit=20, burst=5, enforcement=Enforcement.SOFT
    )
    said = limit_phrase("tokens=20 per minute burst 0 enforcement hard").after(present)
    assert said == Window(kind=WindowKind.MINUTE, limit=20)
    assert limit_phrase("tokens=unlimited per minute").after(present).burst == 0
    assert limit_phrase("tokens=20 per minute").after(None) == Window(kind=WindowKind.MINUTE, limit=20)


def test_durations_and_moments() -> None:
    assert [duration(text) for text in ("0", "90s", "12h", "7d", "250ms")] == [
        *(0, 90_000, 43_200_000, 604_800_000, 250)
    ]
    assert moment("1d", now=NOW) == NOW + 86_400_000
    assert moment("2027-02-01", now=NOW) == 1_801_440_000_000


@pytest.mark.parametrize(
    "text", ["", "7", "-1d", "1w", "1.5h", "99999d", "0", "2026-01-01", "2027-02-30", "soon"]
)
def test_a_moment_that_is_none(text: str) -> None:
    with pytest.raises(BadValue):
        moment(text, now=NOW)


@pytest.mark.parametrize(("actor", "reason"), [("", "x"), ("a", " "), ("a", "x\ny"), ("a", "x" * 501)])
def test_who_and_why_are_needed(actor: str, reason: str) -> None:
    with pytest.raises(BadValue):
        By(actor=actor, reason=reason)
