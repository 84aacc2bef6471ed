"""Where windows begin and end. The Lua ledger computes the same from a zone's table of offsets."""

from __future__ import annotations

from bisect import bisect_right
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Final
from zoneinfo import ZoneInfo

from gateway.budget.window import ROLLING_BUCKETS, Window, WindowKind
from gateway.contract.units import Millis, UnixMillis

MINUTE_MS: Final = 60_000
HOUR_MS: Final = 60 * MINUTE_MS
DAY_MS: Final = 24 * HOUR_MS
NEVER: Final = UnixMillis(0)
"""When a lifetime begins anew."""
ZONE_FROM, ZONE_TO = 2020, 2080
"""Years whose offsets a zone's table has; before and after the first and the last offset hold."""
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_ZONES_MAX: Final = 700
"""There are about 600 names."""

Offsets = tuple[tuple[int, int], ...]
"""(from Unix ms, offset of local time in ms), ascending; the first holds for all time before it too."""


def _unix_ms(instant: datetime) -> int:
    return (instant - _EPOCH) // timedelta(milliseconds=1)


@lru_cache(maxsize=_ZONES_MAX)
def zone_offsets(zone: str) -> Offsets:
    """The offsets of IANA zone ``zone``, from ``zoneinfo`` (the system's data or the tzdata package).
    Raises ValueError for a name that is none."""
    try:
        info = ZoneInfo(zone)
    except KeyError as error:
        raise ValueError(f"zone: {zone!r} is no time zone that is known here") from error

    def offset_ms(unix_ms: int) -> int:
        moment = (_EPOCH + timedelta(milliseconds=unix_ms)).astimezone(info)
        return (moment.utcoffset() or timedelta()) // timedelta(milliseconds=1)

    start = _unix_ms(datetime(ZONE_FROM, 1, 1, tzinfo=UTC))
    end = _unix_ms(datetime(ZONE_TO, 1, 1, tzinfo=UTC))
    found = [(start, offset_ms(start))]
    for day in range(start, end, DAY_MS):
        after = offset_ms(day + DAY_MS)
        if after == found[-1][1]:
            continue
        low, high = day, day + DAY_MS  # the change lies in (low, high]
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if offset_ms(middle) == after else (middle, high)
        found.append((high, after))
    return tuple(found)


def _local_ms(offsets: Offsets, now: int) -> int:
    place = max(0, bisect_right(offsets, (now, DAY_MS * 2)) - 1)
    return now + offsets[place][1]


def _utc_of(offsets: Offsets, local: int) -> int:
    """The first instant at which clocks of the zone show ``local`` or later."""
    for place, (begin, offset) in enumerate(offsets):
        last = place + 1 == len(offsets)
        moment = local - offset
        if last or moment < offsets[place + 1][0]:
            return moment if place == 0 else max(moment, begin)
    raise AssertionError("a zone has an offset")


def _month_starts(local: int) -> tuple[int, int]:
    first = (_EPOCH + timedelta(milliseconds=local)).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    return _unix_ms(first), _unix_ms((first + timedelta(days=31)).replace(day=1))


def bucket_ms(seconds: int) -> Millis:
    """Width of a rolling window's buckets."""
    return Millis(-(-seconds // ROLLING_BUCKETS) * 1000)


def window_bounds(window: Window, now: UnixMillis) -> tuple[UnixMillis, UnixMillis]:
    """First millisecond of the window that holds ``now``, and of the next one. Of a rolling window: its
    bucket's, and when that bucket leaves. Of a lifetime: 0 and NEVER."""
    if window.kind is WindowKind.LIFETIME:
        return UnixMillis(0), NEVER
    if window.kind is WindowKind.ROLLING:
        width = bucket_ms(window.seconds)
        start = now - now % width
        return UnixMillis(start), UnixMillis(start + width + window.seconds * 1000)
    if window.kind in (WindowKind.MINUTE, WindowKind.HOUR):
        length = MINUTE_MS if window.kind is WindowKind.MINUTE else HOUR_MS
        start = now - now % length
        return UnixMillis(start), UnixMillis(start + length)
    offsets = zone_offsets(window.zone)
    local = _local_ms(offsets, now)
    if window.kind is WindowKind.DAY:
        begin, end = local - local % DAY_MS, local - local % DAY_MS + DAY_MS
    else:
        begin, end = _month_starts(local)
    return UnixMillis(_utc_of(offsets, begin)), UnixMillis(_utc_of(offsets, end))
