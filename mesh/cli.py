"""The command line. Exit 0 only when a command did what it says; errors are one line with the mend.

Commands import what they need when they run, so that ``--help`` and ``env`` stay quick.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NoReturn

from rich.console import Console

from gateway.config.document import PolicyError
from gateway.config.environment import BadSetting, load
from gateway.contract.clock import SystemClock
from mesh.local.engine import engine_from
from mesh.local.layout import BASE, CHECKOUT, DEFAULT_STATE, Layout, layout_of
from mesh.local.refusal import Refusal, refusal_from

DEFAULT_PORT: Final = 8080
TIERS: Final = ("unit", "fuzz", "contract", "golden", "integration", "dataplane", "clients", "drills", "tidy")
"""What ``tidegate test`` runs without arguments; ``nightly`` and ``bench`` only when named."""
EXTRA_TIERS: Final = ("nightly",)
BENCHES: Final = ("path", "sdk")


@dataclass(frozen=True)
class _NoSettings:
    """The command line takes options, no TIDEGATE_* variables: those are the processes'."""


class _Parser(argparse.ArgumentParser):
    """Errors in one line, with the mend."""

    def error(self, message: str) -> NoReturn:
        sys.stderr.write(f"{self.prog}: {message}: see '{self.prog} --help'\n")
        raise SystemExit(2)


def _port(text: str) -> int:
    port = int(text) if text.isascii() and text.isdigit() else 0
    if not 1 <= port <= 65534:
        raise argparse.ArgumentTypeError(f"a port is a number from 1 to 65534, got {text!r}")
    return port


def _count(text: str) -> int:
    count = int(text) if text.isascii() and text.isdigit() else 0
    if not 1 <= count <= 256:
        raise argparse.ArgumentTypeError(f"must be 1 to 256, got {text!r}")
    return count


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= 3600:
        raise argparse.ArgumentTypeError(f"must be over 0 and at most 3600 seconds, got {text!r}")
    return seconds


def _state_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--state",
        type=Path,
        metavar="DIR",
        default=DEFAULT_STATE,
        help="state directory (default: .tidegate in the checkout)",
    )


def _mesh_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--mesh",
        type=Path,
        metavar="DIR",
        default=BASE,
        help="kustomize directory of the policy (default: mesh/base)",
    )


def _add_up(commands: argparse._SubParsersAction[_Parser]) -> None:
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
    up.add_argument("--port", type=_port, default=DEFAULT_PORT, help="gateway; operators one above (8080)")
    _state_option(up)
    _mesh_option(up)
    up.add_argument("--concurrency", type=_count, default=1, metavar="N", help="Envoy's worker threads (1)")
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


def _add_running(commands: argparse._SubParsersAction[_Parser]) -> None:
    for name, text, example, run in (
        ("down", "stop the gateway and whatever a killed one left", "tidegate down --state /tmp/tg", _down),
        ("status", "show every part of the running gateway", "tidegate status --json", _status),
        ("logs", "show the logs of one part or of all", "tidegate logs envoy -f", _logs),
        ("env", "print export lines for OpenAI clients", 'eval "$(tidegate env)"', _env),
    ):
        command = commands.add_parser(
            name, help=text, description=text.capitalize() + ".", epilog=f"example: {example}"
        )
        _state_option(command)
        command.set_defaults(run=run)
        if name == "status":
            command.add_argument("--json", action="store_true", help="stable keys; exit 1 when nothing runs")
        if name == "logs":
            command.add_argument("part", nargs="?", metavar="PART", help="such as envoy or ext-proc-0")
            command.add_argument("-f", "--follow", action="store_true", help="go on until Ctrl-C")
            command.add_argument("-n", "--lines", type=_count, default=100, help="last lines (100)")


def _add_tools(commands: argparse._SubParsersAction[_Parser]) -> None:
    test = commands.add_parser(
        "test",
        help="run the tests",
        description=f"Run the tests of the tiers named; of {', '.join(TIERS)} when none is.",
        epilog="example: tidegate test unit dataplane -- -k abort -x",
    )
    test.add_argument("tier", nargs="*", metavar="TIER", help=f"{', '.join((*TIERS, *EXTRA_TIERS))}")
    test.set_defaults(run=_test)
    bench = commands.add_parser(
        "bench",
        help="measure the whole path against bare Envoy, and what an SDK sees",
        description="Measure the whole path against bare Envoy (path), and the openai client through the "
        "gateway against the engine (sdk); each in one run. Prints tables of ratios.",
        epilog="example: tidegate bench sdk --seconds 5 --json bench.json",
    )
    bench.add_argument("section", nargs="*", metavar="SECTION", help=f"{', '.join(BENCHES)} (all)")
    bench.add_argument("--seconds", type=_seconds, help="length of one slice")
    bench.add_argument("--engine", choices=("twin", "sglang"), default="twin", help="of sdk (twin)")
    bench.add_argument("--json", type=Path, metavar="FILE", help="also write every figure to FILE")
    bench.set_defaults(run=_bench)


def _add_ledger_and_mesh(commands: argparse._SubParsersAction[_Parser]) -> None:
    ledger = commands.add_parser("ledger", help="look after the books")
    verbs = ledger.add_subparsers(required=True, metavar="VERB", parser_class=_Parser)
    verify = verbs.add_parser(
        "verify",
        help="check the hash chain of every recorded decision",
        description="Check the hash chain and anchor of every recorded decision; exit 1 when one is broken.",
        epilog="example: tidegate ledger verify",
    )
    _state_option(verify)
    verify.add_argument("--json", action="store_true", help="one JSON object instead of lines")
    verify.set_defaults(run=_ledger_verify)
    mesh = commands.add_parser("mesh", help="check or compile the policy")
    verbs = mesh.add_subparsers(required=True, metavar="VERB", parser_class=_Parser)
    lint = verbs.add_parser(
        "lint",
        help="check the policy",
        description="Build, compile and check the policy; prints every problem with file and line.",
        epilog="example: tidegate mesh lint --mesh mesh/base",
    )
    _mesh_option(lint)
    lint.set_defaults(run=_mesh_lint)
    compiled = verbs.add_parser(
        "compile",
        help="print the Envoy config that the policy becomes",
        description="Print the Envoy config that the policy becomes on this machine, as JSON.",
        epilog="example: tidegate mesh compile > envoy.json",
    )
    _mesh_option(compiled)
    _state_option(compiled)
    compiled.add_argument("--port", type=_port, default=DEFAULT_PORT, help="gateway; operators one above")
    compiled.set_defaults(run=_mesh_compile)


def parser() -> argparse.ArgumentParser:
    """The whole command line."""
    top = _Parser(
        prog="tidegate",
        description="One OpenAI-compatible endpoint in front of SGLang; budgets cannot be overspent.",
        epilog="example: tidegate up --engine twin",
    )
    commands = top.add_subparsers(required=True, metavar="COMMAND", parser_class=_Parser)
    _add_up(commands)
    _add_running(commands)
    _add_tools(commands)
    _add_ledger_and_mesh(commands)
    return top


def _layout(arguments: argparse.Namespace) -> Layout:
    return layout_of(arguments.state)


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
        state=_layout(arguments).state,
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


def _down(arguments: argparse.Namespace) -> int:
    from mesh.local.running import bring_down

    return bring_down(_layout(arguments), SystemClock(), lambda text: print(text, flush=True))


def _status(arguments: argparse.Namespace) -> int:
    from mesh.local.running import show_status

    return show_status(_layout(arguments), Console(), SystemClock(), as_json=arguments.json)


def _logs(arguments: argparse.Namespace) -> int:
    from mesh.local.running import show_logs

    return show_logs(_layout(arguments), arguments.part, following=arguments.follow, lines=arguments.lines)


def _env(arguments: argparse.Namespace) -> int:
    from mesh.local.running import show_env

    return show_env(_layout(arguments), SystemClock())


def _become(module: str, *arguments: str) -> NoReturn:
    """Runs ``module`` in this process's place, standing in the checkout."""
    os.chdir(CHECKOUT)
    os.execv(sys.executable, [sys.executable, "-P", "-m", module, *arguments])


def _test(arguments: argparse.Namespace) -> int:
    known = (*TIERS, *EXTRA_TIERS)
    for tier in arguments.tier:
        if tier not in known:
            raise Refusal(f"no tier {tier!r}", f"known are {', '.join(known)}")
    wanted = arguments.tier or TIERS
    folders = [f"tests/{tier}" for tier in wanted if any((CHECKOUT / "tests" / tier).rglob("test_*.py"))]
    if not folders:
        raise Refusal(f"no tests in {', '.join(wanted)}", f"known tiers are {', '.join(known)}")
    sys.stdout.flush()
    _become("pytest", *folders, *arguments.extra)


def _bench(arguments: argparse.Namespace) -> int:
    for section in arguments.section:
        if section not in BENCHES:
            raise Refusal(f"no section {section!r}", f"known are {', '.join(BENCHES)}")
    options = [*arguments.section, "--engine", arguments.engine]
    options += [] if arguments.seconds is None else ["--seconds", str(arguments.seconds)]
    if arguments.json is not None:
        options += ["--json", str(arguments.json.absolute())]
    _become("tests.bench.main", *options)


def _ledger_verify(arguments: argparse.Namespace) -> int:
    from mesh.local.books import verify_books

    return verify_books(_layout(arguments), SystemClock(), as_json=arguments.json)


def _mesh_lint(arguments: argparse.Namespace) -> int:
    from mesh.local.lint import lint

    return lint(arguments.mesh.resolve())


def _mesh_compile(arguments: argparse.Namespace) -> int:
    from mesh.local.lint import print_compiled

    return print_compiled(arguments.mesh.resolve(), _layout(arguments), arguments.port)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command. Exit codes: 0 done, 1 refused or failed, 2 a bad command line, 130 Ctrl-C."""
    words = list(sys.argv[1:] if argv is None else argv)
    extra: list[str] = []
    if words[:1] == ["test"] and "--" in words:
        cut = words.index("--")
        words, extra = words[:cut], words[cut + 1 :]
    arguments = parser().parse_args(words)
    arguments.extra = extra
    try:
        return int(arguments.run(arguments))
    except Refusal as refusal:
        if refusal.detail:
            sys.stderr.write(refusal.detail + "\n")
        sys.stderr.write(f"tidegate: {refusal}\n")
    except (PolicyError, BadSetting) as error:
        sys.stderr.write(f"tidegate: {error}\n")
    except OSError as error:
        if isinstance(error, BrokenPipeError):  # the reader of our output has gone: not our failure
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 141
        sys.stderr.write(f"tidegate: {refusal_from(error, 'the system')}\n")
    except KeyboardInterrupt:
        return 130
    return 1
