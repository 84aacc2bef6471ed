"""Durations and moments as an operator writes them: ``90d``, ``12h``, ``2027-01-31``."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, timedelta
from typing import Final

from gateway.admin.change import BadValue
from gateway.contract.units import Millis, UnixMillis

DURATION_MAX: Final = timedelta(days=3660)
"""Ten years: longer is a slip of the hand, or meant as for ever, which is leaving it out."""
_DURATION: Final = re.compile(r"(\d{1,9})(ms|s|m|h|d)\Z", re.ASCII)
_UNIT_MS: Final = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
DURATION_FORM: Final = "a number with s, m, h or d, such as 90s, 12h or 7d; or 0"


def duration(text: str, *, longest: timedelta = DURATION_MAX) -> Millis:
    """``0`` or ``<number><unit>``. Raises BadValue beyond ``longest``."""
    found = _DURATION.match(text)
    amount = int(found[1]) * _UNIT_MS[found[2]] if found else 0
    if (found is None and text != "0") or amount > longest // timedelta(milliseconds=1):
        raise BadValue(f"{text!r} is no duration up to {longest.days} days", f"write {DURATION_FORM}")
    return Millis(amount)


def day(text: str) -> date:
    """``YYYY-MM-DD``. Raises BadValue."""
    try:
        found = datetime.strptime(text, "%Y-%m-%d").replace(tzinfo=UTC).date()
    except ValueError:
        raise BadValue(f"{text!r} is no day", "write YYYY-MM-DD, such as 2027-01-31") from None
    return found


def start_of(found: date) -> UnixMillis:
    """The first millisecond of a day in UTC."""
    midnight = datetime(found.year, found.month, found.day, tzinfo=UTC)
    return UnixMillis(int(midnight.timestamp()) * 1000)


def moment(text: str, *, now: UnixMillis) -> UnixMillis:
    """A day, which is its first millisecond in UTC, or so long from now. Raises BadValue for one that is
    not to come."""
    found = start_of(day(text)) if "-" in text else UnixMillis(now + duration(text))
    if found <= now:
        raise BadValue(f"{text!r} is not in the future", "name a later day, or a duration such as 90d")
    return found
