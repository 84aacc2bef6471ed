"""What an answer is charged: from what was read of it to amounts within what was held."""

from __future__ import annotations

from ext_proc.charge import NOTHING, OVER_LIMIT, Bounds, Charge, Ended
from ext_proc.reading import Reading
from gateway.contract.errors import GatewayError
from gateway.contract.units import Tokens
from gateway.openai.answers import Usage


def charge_of(
    reading: Reading,
    bounds: Bounds,
    *,
    ended: Ended,
    error: GatewayError | None,
    free: bool,
    too_large: bool,
) -> Charge:
    """The charge as far as is known now. ``free``: the endpoint uses no model. ``too_large``: the answer was
    not read."""
    seen = reading.seen
    usage, flags = (NOTHING, set[str]()) if free else _used(reading, bounds, failed=error is not None)
    if ended is Ended.LOST and not free:
        usage = None
        flags.add("late")
    reported = seen.usage is not None
    exact = (ended is Ended.COMPLETE and (seen.is_final or free)) or (ended is Ended.LIMIT and reported)
    estimated = usage is not None and usage is not NOTHING and (not exact or bool(flags))
    if usage is not None:
        payable = seen.payable if reported else bounds.completion * bounds.choices
        usage, above = bounds.capped(usage, payable=payable)
        flags |= above
    if ended is Ended.LIMIT:
        flags.add(OVER_LIMIT)
    if too_large:
        flags.add("answer_too_large")
    if estimated:
        flags.add("estimated")
    if error is not None:
        flags.add(f"error:{error.code}")
    return Charge.of(
        usage,
        bounds,
        estimated=estimated,
        finish_reason=reading.finish_reason,
        ended=ended.value,
        flags=flags,
    )


def _used(reading: Reading, bounds: Bounds, *, failed: bool) -> tuple[Usage | None, set[str]]:
    """What was used as far as can be believed, None where nothing is known, and flags.

    Without a report: the prompt's bound, and for the completion what was shown. Too much rather than too
    little for the prompt, near the truth for the completion, and never above the hold.
    """
    seen = reading.seen
    usage = seen.usage
    flags = set(seen.flags)
    if usage is None:
        flags.add("usage_missing")
    if failed and not reading.content_seen and not (reading.begun and usage is not None):
        return NOTHING, flags  # an error in place of an answer: what it cost is the operator's
    if usage is None:
        guess = Usage(prompt=bounds.prompt, completion=Tokens(seen.estimate))
        return (guess if reading.begun else None), flags
    if reading.finish_reason == "abort" and not usage.total:
        return usage, flags
    low = usage.completion < seen.shown
    if reading.content_seen and (low or not usage.prompt):
        flags.add("usage_invalid")  # an answer, of nothing or from nothing
        usage = Usage(
            prompt=usage.prompt or bounds.prompt,
            completion=Tokens(seen.estimate) if low else usage.completion,
            cached=usage.cached,
        )
    return usage, flags


def wasted_of(reading: Reading, charge: Charge, *, free: bool) -> Usage:
    """What the engine is known to have spent without anybody being charged: all of an attempt that gave no
    answer, and what it produced past max_tokens."""
    spent = reading.seen.usage or NOTHING
    if charge.unknown or free:
        return NOTHING
    if not charge.usage.total:
        return spent
    if OVER_LIMIT not in charge.detail["flags"].split(","):
        return NOTHING
    produced = max(spent.completion, reading.seen.produced)
    return Usage(prompt=Tokens(0), completion=Tokens(max(0, produced - charge.usage.completion)))
