"""What all streams share: a stage, a table, and that whatever is not in the table is out of order.

A machine is one request's (admit) or one attempt's (tap) life inside ext_proc: no I/O, no clock, no
logging, no gRPC type. ``receive`` takes an event and returns the effects, in the order to carry them
out. server.py is a loop around it without an ``if`` about policy.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from enum import Enum
from typing import ClassVar, Generic, TypeVar

from ext_proc.vocabulary import Effect, Event

S = TypeVar("S", bound=Enum)
Effects = tuple[Effect, ...]


class OutOfOrder(Exception):
    """An event that cannot follow what has happened so far: Envoy is configured in another way, or a bug.
    The stream ends with an error, which closes admit's filter and opens the tap's."""


class Machine(ABC, Generic[S]):
    """``stage`` and the step table; subclasses hold what the stages know."""

    steps: ClassVar[Mapping[tuple[Enum, type], Callable[..., tuple[Enum, Effects]]]]
    """(stage, event type) to step(machine, event) -> (next stage, effects). Absent pair: OutOfOrder."""

    def __init__(self, stage: S) -> None:
        """Starts at ``stage``."""
        self.stage: S = stage

    @property
    @abstractmethod
    def decided(self) -> bool:
        """Whether the stream may end cleanly now: Envoy lets a request pass whose filter closes cleanly,
        so that before a decision every end must be an error."""

    def receive(self, event: Event) -> Effects:
        """Advance by one event. Raises OutOfOrder."""
        step = self.steps.get((self.stage, type(event)))
        if step is None:
            raise OutOfOrder(f"{type(event).__name__} at {type(self).__name__}.{self.stage.name}")
        stage, effects = step(self, event)
        self.stage = stage  # type: ignore[assignment]  # the table pairs a machine with its own stages
        return effects
