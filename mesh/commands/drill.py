"""``tidegate drill``: break a gateway of its own by plan, and judge what is left."""

from __future__ import annotations

import argparse
from pathlib import Path

from mesh.commands.options import Commands


def add(commands: Commands) -> None:
    """Registers ``drill``."""
    drill = commands.add_parser(
        "drill",
        help="break a gateway of its own by plan, and judge what is left",
        description="Run a drill: a gateway of its own, faults by the seed, figures against the engine's own "
        "record; exit 0 when every criterion holds. Without a name: the drills there are.",
        epilog="example: tidegate drill budget-crash --requests 2000 --seed 7 --json drill.json",
    )
    drill.add_argument("name", nargs="?", metavar="NAME", help="such as budget-crash")
    drill.add_argument("--requests", type=_number, metavar="N", help="length (default: the drill's own)")
    drill.add_argument("--seed", type=int, metavar="S", help="of everything random (default: 1)")
    drill.add_argument("--leases", action="store_true", help="workers hold funds ahead (default: no)")
    drill.add_argument("--json", type=Path, metavar="FILE", help="also write every figure to FILE")
    drill.add_argument(
        "--canary", default="", metavar="BUG", help="plant a known bug, which must make the drill fail"
    )
    drill.set_defaults(run=_drill)


def _number(text: str) -> int:
    number = int(text) if text.isascii() and text.isdigit() else 0
    if not 100 <= number <= 1_000_000:
        raise argparse.ArgumentTypeError(f"must be 100 to 1000000, got {text!r}")
    return number


def _drill(arguments: argparse.Namespace) -> int:
    from rich.console import Console

    from mesh.drill.runner import list_drills, run_drill

    if arguments.name is None:
        return list_drills(Console())
    return run_drill(
        arguments.name,
        Console(),
        requests=arguments.requests,
        seed=arguments.seed,
        canary=arguments.canary,
        leases=arguments.leases,
        file=arguments.json,
    )
