"""Rate limits as clients see them: OpenAI's headers, and the two kinds of 429."""

from __future__ import annotations

from typing import Final

from gateway.budget.ledger import UNLIMITED, Refused, Standing, WindowKind
from gateway.contract import headers as names
from gateway.contract.errors import GatewayError, QuotaExceeded, RateLimited
from gateway.contract.units import Millis, UnixMillis

SHOULD_RETRY: Final = "x-should-retry"
"""OpenAI's SDKs obey it before anything else."""


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


def limit_texts(standing: Standing, *, now: UnixMillis) -> tuple[str, str, str]:
    """Limit, remaining and reset of the tightest window; empty texts when nothing is limited."""
    if standing.limit == UNLIMITED:
        return "", "", ""
    return str(standing.limit), str(standing.remaining), duration_text(standing.resets_at - now)


def limit_headers(texts: tuple[str, str, str]) -> dict[str, str]:
    """The three x-ratelimit-*-tokens headers, none without a limit."""
    order = (names.RATE_LIMIT_TOKENS, names.RATE_REMAINING_TOKENS, names.RATE_RESET_TOKENS)
    return {name: text for name, text in zip(order, texts, strict=True) if text}


def never_fits(refused: Refused) -> bool:
    """Whether even an empty window could not pay: waiting is of no use."""
    return refused.needed > refused.standing.limit


def refusal_error(refused: Refused) -> GatewayError:
    """429: RateLimited for the minute, QuotaExceeded for the month."""
    standing = refused.standing
    whose = "organization" if standing.account == "org" else "API key"
    if never_fits(refused):
        text = (
            f"Request too large for the {standing.kind.value}'s token limit of this {whose}:"
            f" limit {standing.limit}, requested at least {refused.needed}."
            " Shorten the prompt or lower max_tokens."
        )
        return RateLimited(text, code="rate_limit_exceeded")
    if standing.kind is WindowKind.MONTH:
        text = (
            f"You exceeded the monthly token quota of this {whose}:"
            f" limit {standing.limit}, used {standing.used}, requested at least {refused.needed}."
        )
        return QuotaExceeded(text, retry_after_s=_whole_seconds(refused.retry_after))
    text = (
        f"Rate limit reached on tokens per minute of this {whose}: limit {standing.limit},"
        f" used {standing.used + standing.held}, requested at least {refused.needed}."
        f" Please try again in {duration_text(refused.retry_after)}."
    )
    return RateLimited(text, retry_after_s=_whole_seconds(refused.retry_after))


def refusal_headers(refused: Refused) -> dict[str, str]:
    """Beside Retry-After: where the caller stands, and whether its SDK should try again by itself."""
    standing = refused.standing
    found = limit_headers((str(standing.limit), str(standing.remaining), duration_text(refused.retry_after)))
    if never_fits(refused) or standing.kind is WindowKind.MONTH:
        found[SHOULD_RETRY] = "false"
    return found


def _whole_seconds(millis: Millis) -> int:
    return max(1, -(-millis // 1000))
