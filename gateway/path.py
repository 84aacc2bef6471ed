"""The request path as data: hops in the request's order, their deadline, what a failure of each means.

Sidecars take their deadlines from here; a test holds mesh/base and the table in ARCHITECTURE.md
against it.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final

from gateway.contract.units import Bytes, Millis, Seconds


class OnFailure(Enum):
    """What a request meets when a hop cannot be asked (design decision D10)."""

    CLOSED = "closed"
    OPEN = "open"


@dataclass(frozen=True, slots=True, kw_only=True)
class Hop:
    """One hop: ``deadline`` bounds one message to it, 0 where Envoy answers itself."""

    name: str
    deadline: Millis
    on_failure: OnFailure
    meaning: str


HOPS: Final = (
    Hop(name="strip", deadline=Millis(0), on_failure=OnFailure.CLOSED, meaning="Envoy itself; no call"),
    Hop(
        name="ext_authz",
        deadline=Millis(500),
        on_failure=OnFailure.CLOSED,
        meaning="503 identity_unavailable",
    ),
    Hop(name="gate.principal", deadline=Millis(0), on_failure=OnFailure.CLOSED, meaning="503, no principal"),
    Hop(
        name="admit",
        deadline=Millis(1000),
        on_failure=OnFailure.CLOSED,
        meaning="503 admission_unavailable",
    ),
    Hop(
        name="reserve",
        deadline=Millis(50),
        on_failure=OnFailure.CLOSED,
        meaning="503 budget_unavailable, unless the worker holds a lease that pays",
    ),
    Hop(
        name="ledger",
        deadline=Millis(250),
        on_failure=OnFailure.CLOSED,
        meaning="any other call; settles and voids are kept on disk and delivered later",
    ),
    Hop(name="cache", deadline=Millis(25), on_failure=OnFailure.OPEN, meaning="a miss, counted"),
    Hop(name="recall", deadline=Millis(40), on_failure=OnFailure.OPEN, meaning="a miss, counted"),
    Hop(name="gate.admission", deadline=Millis(0), on_failure=OnFailure.CLOSED, meaning="503, no decision"),
    Hop(
        name="engine",
        deadline=Millis(0),
        on_failure=OnFailure.CLOSED,
        meaning="retried, then 502, 503 or 504",
    ),
    Hop(
        name="tap",
        deadline=Millis(1000),
        on_failure=OnFailure.OPEN,
        meaning="answer whole; hold charged by expiry",
    ),
    Hop(
        name="abort",
        deadline=Millis(1000),
        on_failure=OnFailure.OPEN,
        meaning="engine finds out by itself, in seconds",
    ),
    Hop(name="events", deadline=Millis(0), on_failure=OnFailure.OPEN, meaning="outbox grows; nothing lost"),
)

BODY_BYTES_MAX: Final = Bytes(16 * 1024 * 1024)
"""Largest request body; buffered once in Envoy and once in admit. 16 MiB holds a 4 M-token context
as text; Envoy's own default of 1 MiB would also stop retries of larger prompts (istio.md 3.5)."""
BUFFERED_BYTES_MAX: Final = Bytes(2 * BODY_BYTES_MAX)
"""Of a body that Envoy buffers, and so hands to admit, before it refuses (mesh/base/filters.yaml)."""
CONNECTION_BYTES_MAX: Final = Bytes(7 * 1024 * 1024)
"""Of what waits in Envoy in either direction of one connection, before it reads no more."""
RESPONSE_BYTES_MAX: Final = Bytes(6 * 1024 * 1024)
"""Most of one answer the tap keeps to meter, to mend and to cache; beyond it only a stream's usage is
followed. Less than CONNECTION_BYTES_MAX: Envoy crashes when more than that waits for the tap."""
HOLD_TTL: Final = Millis(15 * 60 * 1000)
"""How long an unresolved hold stays held. Longer than the longest stream (max_stream_duration
10 min), so that only holds of dead processes expire; they are charged in full."""
DRAIN: Final = Seconds(20.0)
"""How long a worker that is told to stop finishes its open streams."""


def hop(name: str) -> Hop:
    """The hop called ``name``. Raises KeyError."""
    for candidate in HOPS:
        if candidate.name == name:
            return candidate
    raise KeyError(name)
