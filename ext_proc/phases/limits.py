"""Limits as clients see them: OpenAI's headers, our own beside them, and the kinds of 429."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from gateway.budget.ledger import Refused
from gateway.budget.measure import Measure
from gateway.budget.window import UNLIMITED, Standing, WindowKind
from gateway.contract import headers as names
from gateway.contract.errors import (
    BudgetFrozen,
    GatewayError,
    QuotaExceeded,
    RateLimited,
    RequestsLimited,
)
from gateway.contract.units import Millis, UnixMillis

SHOULD_RETRY: Final = "x-should-retry"
"""OpenAI's SDKs obey it before anything else."""
ROLLING_SHORT_S: Final = 3600
"""A rolling window up to this long is a rate, a longer one a quota: as an hour and a day are."""
IN_FLIGHT_RETRY: Final = Millis(1000)
"""When to try again while other requests are in flight: nobody knows when they end."""
OVER_SHOWN_MAX: Final = 8
"""Soft limits in one header: some 80 bytes each, and Envoy bounds a response's headers too."""
_TOKENS: Final = (Measure.TOKENS, Measure.PROMPT_TOKENS, Measure.COMPLETION_TOKENS)
_IN_REQUESTS: Final = (Measure.REQUESTS, Measure.CONCURRENT)
_LEVELS: Final = {
    "org": "organization",
    "team": "team",
    "user": "user",
    "key": "API key",
    "model": "model",
    "workflow": "workflow",
}
_UNITS: Final = {
    Measure.TOKENS: "tokens",
    Measure.PROMPT_TOKENS: "prompt tokens",
    Measure.COMPLETION_TOKENS: "completion tokens",
    Measure.MICRO_USD: "micro-USD",
    Measure.REQUESTS: "requests",
    Measure.CONCURRENT: "requests in flight",
}


def duration_text(millis: int) -> str:
    """``950ms``, ``6s``, ``1m3s``, ``240h0m5s``: as OpenAI writes x-ratelimit-reset-tokens (Go's form)."""
    if millis < 1000:
        return f"{max(0, millis)}ms"
    seconds = -(-millis // 1000)
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h{minutes}m{seconds}s"
    return f"{minutes}m{seconds}s" if minutes else f"{seconds}s"


def limit_texts(standing: Standing | None, *, now: UnixMillis) -> tuple[str, str, str]:
    """Limit, remaining and reset; empty texts when nothing is limited, an empty reset for one that never
    comes."""
    if standing is None or standing.limit == UNLIMITED:
        return "", "", ""
    reset = duration_text(standing.resets_at - now) if standing.resets_at else ""
    return str(standing.limit), str(standing.remaining), reset


def tightest_tokens(tightest: Mapping[Measure, Standing]) -> Standing | None:
    """Of the windows that count tokens of any kind the one with the least left."""
    found = [tightest[measure] for measure in _TOKENS if measure in tightest]
    limited = [standing for standing in found if standing.limit != UNLIMITED]
    return min(limited, key=lambda standing: standing.remaining, default=None)


def over_text(over: Sequence[Standing]) -> str:
    """``team;measure=tokens;window=day;limit=1000;used=1200`` for each soft window above its limit, the
    farthest above first, by commas."""
    farthest = sorted(over, key=lambda standing: standing.limit - standing.used - standing.held)
    return ", ".join(
        f"{level_of(standing)};measure={standing.measure};window={standing.span.partition('@')[0]}"
        f";limit={standing.limit};used={standing.used + standing.held}"
        for standing in farthest[:OVER_SHOWN_MAX]
    )


def level_of(standing: Standing) -> str:
    """``org``, ``team``, ``user``, ``key``, ``model`` or ``workflow``."""
    return standing.account.partition("/")[0]


def never_fits(refused: Refused) -> bool:
    """Whether even an empty window could not pay: waiting is of no use."""
    return refused.needed > refused.standing.limit


def is_rate(standing: Standing) -> bool:
    """Whether the limit is a rate, which ends by itself soon, and not a quota."""
    if standing.measure is Measure.CONCURRENT:
        return True
    if standing.measure is Measure.MICRO_USD:
        return False
    if standing.kind is WindowKind.ROLLING:
        return int(standing.span.partition("-")[2]) <= ROLLING_SHORT_S
    return standing.kind in (WindowKind.MINUTE, WindowKind.HOUR)


def refusal_error(refused: Refused) -> GatewayError:
    """429: BudgetFrozen, RateLimited or RequestsLimited for rates, QuotaExceeded for quotas. The text names
    the level, the limit, what is used of it, what was needed, and what would be right."""
    standing = refused.standing
    whose = _LEVELS.get(level_of(standing), "account")
    if standing.frozen:
        return BudgetFrozen(f"The budget of this {whose} is frozen. Ask its administrator to release it.")
    counts = f"limit {standing.limit}, used {standing.used + standing.held}, requested {refused.needed}"
    limit = f"{_UNITS[standing.measure]} {_span_text(standing)} of this {whose}: {counts} or more."
    again = _retry_after(refused)
    if not is_rate(standing):
        text = f"You exceeded the quota of {limit} {_way_out(refused, again)}"
        return QuotaExceeded(text, retry_after_s=_whole_seconds(again))
    if never_fits(refused):
        text = f"Request too large for the limit of {limit} {_way_out(refused, again)}"
    else:
        text = f"Rate limit reached on {limit} Please try again in {duration_text(again)}."
    if standing.measure in _IN_REQUESTS:
        return RequestsLimited(text, retry_after_s=_whole_seconds(again))
    return RateLimited(text, retry_after_s=_whole_seconds(again))


def refusal_headers(refused: Refused) -> dict[str, str]:
    """Beside Retry-After: where the caller stands, and whether its SDK should try again by itself."""
    standing = refused.standing
    found: dict[str, str] = {}
    if standing.frozen or never_fits(refused) or not is_rate(standing):
        found[SHOULD_RETRY] = "false"
    if standing.frozen:
        return found
    if standing.measure is Measure.MICRO_USD:
        return {**found, names.REMAINING_MICRO_USD: str(standing.remaining)}
    again = _retry_after(refused)
    texts = (str(standing.limit), str(standing.remaining), duration_text(again) if again else "")
    order = (names.RATE_LIMIT_TOKENS, names.RATE_REMAINING_TOKENS, names.RATE_RESET_TOKENS)
    if standing.measure in _IN_REQUESTS:
        order = (names.RATE_LIMIT_REQUESTS, names.RATE_REMAINING_REQUESTS, names.RATE_RESET_REQUESTS)
    return {**found, **{name: text for name, text in zip(order, texts, strict=True) if text}}


def _retry_after(refused: Refused) -> Millis:
    """0 for never."""
    if never_fits(refused):
        return Millis(0)
    return IN_FLIGHT_RETRY if refused.standing.measure is Measure.CONCURRENT else refused.retry_after


def _way_out(refused: Refused, again: Millis) -> str:
    raised = "ask an administrator to raise the limit."
    if again:
        return f"There is room again in {duration_text(again)}; to have it sooner, {raised}"
    if never_fits(refused) and refused.standing.measure not in _IN_REQUESTS:
        return f"Shorten the prompt or lower max_tokens, or {raised}"
    return raised.capitalize()


def _span_text(standing: Standing) -> str:
    if standing.measure is Measure.CONCURRENT:
        return "at a time"
    if standing.kind is WindowKind.ROLLING:
        return f"in any {standing.span.partition('-')[2]} seconds"
    return "in all" if standing.kind is WindowKind.LIFETIME else f"per {standing.kind.value}"


def _whole_seconds(millis: Millis) -> int | None:
    """Rounded up; None for never."""
    return -(-millis // 1000) if millis else None
