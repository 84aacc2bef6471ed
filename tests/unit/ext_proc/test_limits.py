"""Every measure and window as a client sees it: the header, the 429 and its words."""

from __future__ import annotations

from typing import Any

import pytest

from ext_proc.phases.limits import (
    OVER_SHOWN_MAX,
    limit_texts,
    over_text,
    refusal_error,
    refusal_headers,
    tightest_tokens,
)
from gateway.budget.ledger import Refused
from gateway.budget.measure import Measure
from gateway.budget.window import UNLIMITED, Enforcement
from gateway.contract.ids import AccountId
from gateway.contract.units import Millis, UnixMillis
from gateway.openai.error_body import error_headers
from tests.unit.ext_proc.asked import NOW, standing

RATE = ("rate_limit_exceeded", "tokens")
REQUESTS = ("rate_limit_exceeded", "requests")
QUOTA = ("insufficient_quota", "insufficient_quota")
FROZEN = ("billing_hard_limit_reached", "insufficient_quota")


def refused(*, needed: int = 30, retry_after: int = 2_100, **changed: Any) -> Refused:
    return Refused(standing=standing(**changed), needed=needed, retry_after=Millis(retry_after))


CASES: list[tuple[Refused, tuple[str, str], str, str]] = [
    (
        refused(),
        RATE,
        "3",
        "tokens per minute of this organization: limit 100, used 80, requested 30",
    ),
    (refused(span="hour", account="team/ml"), RATE, "3", "tokens per hour of this team"),
    (refused(measure=Measure.PROMPT_TOKENS), RATE, "3", "prompt tokens per minute"),
    (refused(measure=Measure.COMPLETION_TOKENS), RATE, "3", "completion tokens per minute"),
    (refused(span="rolling-3600", account="key/k1"), RATE, "3", "in any 3600 seconds of this API key"),
    (refused(span="rolling-7200"), QUOTA, "3", "in any 7200 seconds"),
    (refused(span="day@Europe/Berlin", account="user/0f"), QUOTA, "3", "per day of this user"),
    (refused(span="month", account="model/m"), QUOTA, "3", "per month of this model"),
    (refused(span="lifetime", account="workflow/w", retry_after=0), QUOTA, "", "in all of this workflow"),
    (refused(measure=Measure.MICRO_USD), QUOTA, "3", "micro-USD per minute"),
    (refused(measure=Measure.REQUESTS, needed=1, used=100), REQUESTS, "3", "requests per minute"),
    (
        refused(measure=Measure.CONCURRENT, span="lifetime", needed=1, used=0, held=100, retry_after=0),
        REQUESTS,
        "1",
        "requests in flight at a time of this organization: limit 100, used 100, requested 1 or more",
    ),
    (refused(needed=101), RATE, "", "Shorten the prompt or lower max_tokens, or ask an administrator"),
    (refused(measure=Measure.REQUESTS, limit=0, used=0, needed=1), REQUESTS, "", "Ask an administrator"),
    (refused(span="month", needed=101), QUOTA, "", "Shorten the prompt or lower max_tokens"),
    (refused(frozen=True, account="team/ml"), FROZEN, "", "The budget of this team is frozen"),
]


@pytest.mark.parametrize(("answer", "kind", "retry_after", "words"), CASES, ids=lambda case: str(case)[-60:])
def test_each_refusal_has_its_code_its_words_and_its_advice(
    answer: Refused, kind: tuple[str, str], retry_after: str, words: str
) -> None:
    error = refusal_error(answer)
    headers = {**error_headers(error), **refusal_headers(answer)}
    assert (error.http_status, error.code, error.type) == (429, *kind)
    assert words in error.message
    assert error.message.endswith((".", "limit."))
    assert headers.get("retry-after", "") == retry_after
    again = kind[0] == "rate_limit_exceeded" and retry_after
    assert (headers.get("x-should-retry") == "false") == (not again)


def test_a_refusal_shows_the_limit_it_met_under_its_own_name() -> None:
    assert refusal_headers(refused()) == {
        "x-ratelimit-limit-tokens": "100",
        "x-ratelimit-remaining-tokens": "20",
        "x-ratelimit-reset-tokens": "3s",
    }
    assert refusal_headers(refused(measure=Measure.REQUESTS, used=100, needed=1)) == {
        "x-ratelimit-limit-requests": "100",
        "x-ratelimit-remaining-requests": "0",
        "x-ratelimit-reset-requests": "3s",
    }
    assert refusal_headers(refused(measure=Measure.MICRO_USD)) == {
        "x-should-retry": "false",
        "x-tidegate-remaining-micro-usd": "20",
    }
    assert refusal_headers(refused(frozen=True)) == {"x-should-retry": "false"}


def test_nothing_of_an_accounts_id_is_told_beyond_its_level() -> None:
    error = refusal_error(refused(account="user/0123456789abcdef"))
    assert "0123456789abcdef" not in error.message
    assert "0123456789abcdef" not in over_text([standing(account=AccountId("user/0123456789abcdef"))])


@pytest.mark.parametrize(
    ("changed", "texts"),
    [
        ({}, ("100", "20", "6s")),
        ({"limit": UNLIMITED}, ("", "", "")),
        ({"resets_at": UnixMillis(0)}, ("100", "20", "")),
        ({"used": 500}, ("100", "0", "6s")),
        ({"resets_at": UnixMillis(NOW - 1)}, ("100", "20", "0ms")),
    ],
)
def test_a_limit_as_headers(changed: dict[str, Any], texts: tuple[str, str, str]) -> None:
    assert limit_texts(standing(**changed), now=NOW) == texts


def test_no_limit_is_no_header() -> None:
    assert limit_texts(None, now=NOW) == ("", "", "")


def test_of_several_kinds_of_tokens_the_one_with_the_least_left_is_shown() -> None:
    measures = {
        Measure.TOKENS: standing(),
        Measure.PROMPT_TOKENS: standing(measure=Measure.PROMPT_TOKENS, limit=90),
        Measure.COMPLETION_TOKENS: standing(measure=Measure.COMPLETION_TOKENS, limit=UNLIMITED),
        Measure.REQUESTS: standing(measure=Measure.REQUESTS, limit=81),
    }
    found = tightest_tokens(measures)
    assert found is not None and found.measure is Measure.PROMPT_TOKENS
    assert tightest_tokens({Measure.TOKENS: standing(limit=UNLIMITED)}) is None


def test_soft_limits_are_named_the_farthest_above_first() -> None:
    soft = {"enforcement": Enforcement.SOFT}
    team = standing(account=AccountId("team/ml"), span="day@Europe/Berlin", used=130, held=20, **soft)
    org = standing(measure=Measure.MICRO_USD, span="month", used=110, **soft)
    assert over_text([org, team]) == (
        "team;measure=tokens;window=day;limit=100;used=150, "
        "org;measure=micro_usd;window=month;limit=100;used=110"
    )
    assert over_text([]) == ""
    assert over_text([org] * 30).count("org;") == OVER_SHOWN_MAX
