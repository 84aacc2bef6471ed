"""What a window's id says (gateway/budget/window.py, window_id): its measure, and when it ends."""

from __future__ import annotations

from functools import lru_cache

from gateway.budget.calendar import window_bounds
from gateway.budget.ledger import WINDOW_KEPT
from gateway.budget.measure import Measure
from gateway.budget.outbox import window_of
from gateway.budget.window import Enforcement, Window, WindowKind
from gateway.contract.units import UnixMillis


def measure_of(window: str) -> Measure:
    """Tokens where the id names none. Raises ValueError."""
    parts = window.split("|")
    if len(parts) == 3:
        return Measure.TOKENS
    if len(parts) != 4:
        raise ValueError("window: an id has three or four parts")
    return Measure(parts[1])


def ends_at(window: str) -> UnixMillis:
    """The first millisecond after it (of a bucket: when it leaves its rolling window); 0 for never. Raises
    ValueError."""
    *name, start = window.split("|")
    measure = measure_of(window)
    return window_bounds(_shape(measure.value, name[-1]), UnixMillis(int(start)))[1]


def forgotten_at(window: str) -> UnixMillis:
    """From when on the ledger may have forgotten it, if it holds nothing; 0 for never. Raises ValueError."""
    end = ends_at(window)
    if not end or window.rpartition("|")[0].rpartition("|")[2].startswith(WindowKind.ROLLING):
        return end
    return UnixMillis(end + WINDOW_KEPT)


@lru_cache(maxsize=1024)
def _shape(measure: str, span: str) -> Window:
    return window_of(f"{measure},{span},0,{Enforcement.HARD},0")
