"""``tidegate up``."""

from __future__ import annotations

import argparse
from dataclasses import dataclass

from rich.console import Console

from gateway.config.environment import BadSetting, load
from gateway.contract.clock import SystemClock
from mesh.commands.options import DEFAULT_PORT, Commands, count, layout, mesh_option, port, state_option
from mesh.local.engine import engine_from
from mesh.local.refusal import Refusal


@dataclass(frozen=True)
class _NoSettings:
    """The command line takes options, no TIDEGATE_* variables: those are the processes'."""


def add(commands: Commands) -> None:
    """Registers ``up``."""
    up = commands.add_parser(
        "up",
        help="start a gateway on 127.0.0.1",
        description="Start Envoy, two Valkeys, the filters, the API and an engine; Ctrl-C stops them.",
        epilog="example: tidegate up --engine twin --port 9000 --detach",
    )
    up.add_argument(
        "--engine",
        default="sglang",
        metavar="sglang|twin|URL[,URL]",
        help="the real SGLang here (default), its deterministic twin, or pods that run elsewhere",
    )
    up.add_argument("--port", type=port, default=DEFAULT_PORT, help="gateway; operators one above (8080)")
    state_option(up)
    mesh_option(up)
    up.add_argument("--concurrency", type=count, default=1, metavar="N", help="Envoy's worker threads (1)")
    up.add_argument(
        "--log-level", choices=("debug", "info", "warning", "error"), default="info", help="default: info"
    )
    up.add_argument("--envoy", metavar="VERSION", help="another Envoy than the installed one, such as 1.39.3")
    up.add_argument("--detach", action="store_true", help="return when it answers; stop with 'tidegate down'")
    up.add_argument(
        "--no-wait", action="store_true", help="with --detach: do not wait until the engine has loaded"
    )
    up.add_argument("--supervise", action="store_true", help=argparse.SUPPRESS)
    up.set_defaults(run=_up)


def _up(arguments: argparse.Namespace) -> int:
    from mesh.local.detach import up_detached
    from mesh.local.screen import PlainScreen, screen_for
    from mesh.local.up import Up, UpOptions

    try:
        load(_NoSettings)
    except BadSetting as error:
        name = str(error).partition(":")[0]
        raise Refusal(f"{name} is set", "unset it: 'up' takes options (see 'tidegate up --help')") from None
    if arguments.no_wait and not arguments.detach:
        raise Refusal("--no-wait goes with --detach", "add --detach")
    options = UpOptions(
        engine=engine_from(arguments.engine),
        engine_text=arguments.engine,
        port=arguments.port,
        state=layout(arguments).state,
        mesh=arguments.mesh.resolve(),
        concurrency=arguments.concurrency,
        log_level=arguments.log_level,
        envoy=arguments.envoy,
        detached=arguments.supervise,
    )
    console, clock = Console(), SystemClock()
    if not arguments.detach:
        screen = PlainScreen(console, clock) if arguments.supervise else screen_for(console, clock)
        return Up(options, screen, clock).run()
    again = [
        *("up", "--supervise", "--engine", options.engine_text, "--port", str(options.port)),
        *("--state", str(options.state), "--mesh", str(options.mesh)),
        *("--concurrency", str(options.concurrency), "--log-level", options.log_level),
    ]
    again += ["--envoy", options.envoy] if options.envoy else []
    return up_detached(options, again, screen_for(console, clock), clock, wait=not arguments.no_wait)
