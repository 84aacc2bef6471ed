"""``tidegate down``, ``status``, ``logs`` and ``env``: what is done with a gateway that runs."""

from __future__ import annotations

import argparse

from rich.console import Console

from gateway.contract.clock import SystemClock
from mesh.commands.options import Commands, count, layout, state_option


def add(commands: Commands) -> None:
    """Registers the four."""
    for name, text, example, run in (
        ("down", "stop the gateway and whatever a killed one left", "tidegate down --state /tmp/tg", _down),
        ("status", "show every part of the running gateway", "tidegate status --json", _status),
        ("logs", "show the logs of one part or of all", "tidegate logs envoy -f", _logs),
        ("env", "print export lines for OpenAI clients", 'eval "$(tidegate env)"', _env),
    ):
        command = commands.add_parser(
            name, help=text, description=text.capitalize() + ".", epilog=f"example: {example}"
        )
        state_option(command)
        command.set_defaults(run=run)
        if name == "status":
            command.add_argument("--json", action="store_true", help="stable keys; exit 1 when nothing runs")
        if name == "logs":
            command.add_argument("part", nargs="?", metavar="PART", help="such as envoy or ext-proc-0")
            command.add_argument("-f", "--follow", action="store_true", help="go on until Ctrl-C")
            text = "last lines (100); of all parts, a fifth each"
            command.add_argument("-n", "--lines", type=count, default=100, help=text)


def _down(arguments: argparse.Namespace) -> int:
    from mesh.local.running import bring_down

    return bring_down(layout(arguments), SystemClock(), lambda text: print(text, flush=True))


def _status(arguments: argparse.Namespace) -> int:
    from mesh.local.running import show_status

    return show_status(layout(arguments), Console(), SystemClock(), as_json=arguments.json)


def _logs(arguments: argparse.Namespace) -> int:
    from mesh.local.running import show_logs

    return show_logs(layout(arguments), arguments.part, following=arguments.follow, lines=arguments.lines)


def _env(arguments: argparse.Namespace) -> int:
    from mesh.local.running import show_env

    return show_env(layout(arguments), SystemClock())
