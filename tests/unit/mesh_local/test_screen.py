"""What a person sees while parts start."""

from __future__ import annotations

import io

from rich.console import Console

from gateway.contract.clock import ManualClock
from mesh.local.message import ready_text
from mesh.local.part import PartView, State
from mesh.local.screen import LiveScreen, PlainScreen, screen_for
from mesh.local.status import Overall, Status


def console(*, terminal: bool) -> tuple[Console, io.StringIO]:
    file = io.StringIO()
    return Console(file=file, force_terminal=terminal, width=100, _environ={}), file


def test_plain_lines_carry_seconds_and_come_once() -> None:
    to, file = console(terminal=False)
    clock = ManualClock()
    screen = screen_for(to, clock)
    assert isinstance(screen, PlainScreen)
    with screen:
        screen.show(PartView(name="envoy", state=State.WAITING))
        screen.show(PartView(name="engine", state=State.STARTING, detail="model [1 of 2]"))
        screen.show(PartView(name="engine", state=State.STARTING, detail="model [1 of 2]"))
        clock.advance_ms(1500)
        screen.show(PartView(name="engine", state=State.READY, seconds=1.5))
        screen.show(PartView(name="engine", state=State.RESTARTING, detail="killed by SIGKILL"))
    assert file.getvalue().splitlines() == [
        "   0.0 s  engine  starting: model [1 of 2]",
        "   1.5 s  engine  ready in 1.5 s",
        "   1.5 s  engine  restarting: killed by SIGKILL",
    ]


def test_a_terminal_gets_a_table_and_lines_after_the_start() -> None:
    to, file = console(terminal=True)
    screen = screen_for(to, ManualClock())
    assert isinstance(screen, LiveScreen)
    with screen:
        screen.show(PartView(name="envoy", state=State.STARTING))
        screen.show(PartView(name="envoy", state=State.READY, seconds=0.2))
        screen.say("a text with [brackets]")
        screen.settle()
        screen.settle()
        table = file.getvalue()
        screen.show(PartView(name="api", state=State.RESTARTING, detail="killed by SIGKILL"))
    assert "envoy" in table
    assert "0.2 s" in table
    assert "a text with [brackets]" in table
    assert "api  restarting: killed by SIGKILL" in file.getvalue()


def message(state: Overall, *, option: str, detached: bool) -> str:
    status = Status(
        state=state,
        base_url="http://127.0.0.1:8080/v1",
        operators_url="http://127.0.0.1:8081",
        engine="twin",
        model="smollm2-135m",
    )
    return ready_text(status, api_key="tg-key", jwt="ey.jwt", state=option, logs="/s/logs", detached=detached)


def test_the_message_has_what_a_newcomer_needs() -> None:
    text = message(Overall.READY, option="", detached=False)
    for wanted in (
        *("http://127.0.0.1:8080/v1", "tg-key", "ey.jwt", "curl http://127.0.0.1:8080/v1/chat/completions"),
        *("from openai import OpenAI", 'api_key="tg-key"', 'model="smollm2-135m"'),
        *("http://127.0.0.1:8081/metrics", "/s/logs", "Ctrl-C", 'eval "$(./tidegate env)"'),
    ):
        assert wanted in text
    assert "Retry-After" not in text


def test_the_message_tells_of_a_loading_engine_and_of_the_state_that_down_needs() -> None:
    text = message(Overall.LOADING, option="/s", detached=True)
    assert "No engine answers yet" in text
    assert "503 with Retry-After" in text
    assert "./tidegate down --state /s" in text
    assert "Ctrl-C" not in text
