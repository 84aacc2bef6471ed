"""Where fixed windows begin and end, in UTC. The Lua ledger computes the same without a calendar."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final

from gateway.budget.ledger import WindowKind
from gateway.contract.units import UnixMillis

MINUTE_MS: Final = 60_000
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def _unix_ms(instant: datetime) -> UnixMillis:
    return UnixMillis((instant - _EPOCH) // timedelta(milliseconds=1))


def window_bounds(kind: WindowKind, now: UnixMillis) -> tuple[UnixMillis, UnixMillis]:
    """First millisecond of the window that holds ``now``, and of the next one."""
    if kind is WindowKind.MINUTE:
        start = now - now % MINUTE_MS
        return UnixMillis(start), UnixMillis(start + MINUTE_MS)
    first = (_EPOCH + timedelta(milliseconds=now)).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    following = (first + timedelta(days=31)).replace(day=1)
    return _unix_ms(first), _unix_ms(following)
