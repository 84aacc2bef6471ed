"""What a person sees while parts start: live lines on a terminal, plain lines elsewhere."""

from __future__ import annotations

from types import TracebackType
from typing import Protocol, Self

from rich.console import Console, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from gateway.contract.clock import Clock
from mesh.local.part import PartView, State

_STYLE = {
    State.WAITING: ("·", "dim"),
    State.STARTING: ("…", "yellow"),
    State.READY: ("✓", "green"),
    State.RESTARTING: ("↻", "yellow"),
    State.UNHEALTHY: ("!", "red"),
    State.FAILED: ("✗", "red"),
    State.STOPPING: ("…", "dim"),
    State.STOPPED: ("·", "dim"),
}


class Screen(Protocol):
    """``show`` takes every change of a part; ``say`` prints a text under the lines."""

    def __enter__(self) -> Self:
        """Begin."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the last state on the screen."""

    def show(self, view: PartView) -> None:
        """A part has changed."""

    def say(self, text: str) -> None:
        """A text as it is, no markup."""

    def settle(self) -> None:
        """The start is over: from now on changes come as lines. Idempotent."""


class PlainScreen:
    """One line for each change that a reader of a log cares about, with seconds since the start."""

    def __init__(self, console: Console, clock: Clock) -> None:
        """Counts seconds from now."""
        self._console = console
        self._clock = clock
        self._began = clock.monotonic_s()
        self._last: dict[str, tuple[State, str]] = {}

    def __enter__(self) -> Self:
        """Nothing to begin."""
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing to end."""

    def show(self, view: PartView) -> None:
        """Prints a change of state or of detail, each once."""
        if view.state in (State.WAITING, State.STOPPED, State.STOPPING):
            return
        if view.state is State.STARTING and not view.detail:
            return
        if self._last.get(view.name) == (view.state, view.detail):
            return
        self._last[view.name] = (view.state, view.detail)
        took = f" in {view.seconds:.1f} s" if view.state is State.READY and view.seconds is not None else ""
        detail = f": {view.detail}" if view.detail else ""
        self.say(
            f"{self._clock.monotonic_s() - self._began:6.1f} s  {view.name}  {view.state.value}{took}{detail}"
        )

    def say(self, text: str) -> None:
        """Prints it."""
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def settle(self) -> None:
        """Lines already."""


class LiveScreen:
    """A table that follows the parts; seconds run while a part starts."""

    def __init__(self, console: Console, clock: Clock) -> None:
        """Draws nothing before ``__enter__``."""
        self._console = console
        self._clock = clock
        self._views: dict[str, PartView] = {}
        self._since: dict[str, float] = {}
        self._lines = PlainScreen(console, clock)
        self._settled = False
        self._live = Live(
            console=console, get_renderable=self._table, refresh_per_second=8, redirect_stdout=False
        )

    def __enter__(self) -> Self:
        """Starts drawing."""
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Draws once more and leaves it there."""
        self.settle()

    def _table(self) -> RenderableType:
        table = Table.grid(padding=(0, 2))
        now = self._clock.monotonic_s()
        for view in list(self._views.values()):
            sign, style = _STYLE[view.state]
            seconds = view.seconds
            if view.state in (State.STARTING, State.RESTARTING):
                seconds = now - self._since[view.name]
            shown = "" if seconds is None else f"{seconds:.1f} s"
            table.add_row(
                Text(sign, style=style),
                view.name,
                Text(view.state.value, style=style),
                Text(shown, justify="right"),
                Text(view.detail, style="dim", overflow="ellipsis", no_wrap=True),
            )
        return table

    def show(self, view: PartView) -> None:
        """Takes the change; the next drawing shows it."""
        if self._settled:
            self._lines.show(view)
            return
        before = self._views.get(view.name)
        if before is None or before.state is not view.state:
            self._since[view.name] = self._clock.monotonic_s()
        self._views[view.name] = view

    def say(self, text: str) -> None:
        """Prints it above the table while that is drawn, at the end otherwise."""
        self._lines.say(text)

    def settle(self) -> None:
        """Leaves the table as it is now."""
        if not self._settled:
            self._settled = True
            self._live.stop()


def screen_for(console: Console, clock: Clock) -> Screen:
    """Live on a terminal, plain elsewhere."""
    return LiveScreen(console, clock) if console.is_terminal else PlainScreen(console, clock)
