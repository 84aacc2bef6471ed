"""The command line. Exit 0 only when a command did what it says; errors are one line with the mend.

Each module of mesh/commands registers its own; what a command needs is imported when it runs.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import Final

from gateway.config.document import PolicyError
from gateway.config.environment import BadSetting
from mesh.commands import budget, cache, drill, keys, ledger, mesh, running, tools, up, usage
from mesh.commands.options import Parser
from mesh.local.refusal import Refusal, refusal_from

COMMANDS: Final = (
    up.add,
    running.add,
    keys.add,
    budget.add,
    cache.add,
    usage.add,
    ledger.add,
    mesh.add,
    tools.add,
    drill.add,
)
"""In the order of ``--help``."""


def parser() -> argparse.ArgumentParser:
    """The whole command line."""
    top = Parser(
        prog="tidegate",
        description="One OpenAI-compatible endpoint in front of SGLang; budgets cannot be overspent.",
        epilog="example: tidegate up --engine twin",
    )
    commands = top.add_subparsers(required=True, metavar="COMMAND", parser_class=Parser)
    for add in COMMANDS:
        add(commands)
    return top


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
