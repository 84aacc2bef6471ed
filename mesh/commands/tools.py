"""``tidegate test`` and ``bench``."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Final, NoReturn

from mesh.commands import suite
from mesh.commands.options import Commands, seconds
from mesh.local.layout import CHECKOUT
from mesh.local.refusal import Refusal

TIERS: Final = (*suite.COMPUTING, *suite.ASKING)
"""What ``tidegate test`` runs without arguments; ``nightly`` only when named."""
EXTRA_TIERS: Final = ("nightly",)
BENCHES: Final = ("path", "sdk", "ledger", "recall", "cache")


def add(commands: Commands) -> None:
    """Registers the two."""
    test = commands.add_parser(
        "test",
        help="run the tests",
        description=f"Run the tests of the tiers named; of {', '.join(TIERS)} when none is, in two processes "
        "side by side. Options for pytest stand behind --, and then there is one process.",
        epilog="example: tidegate test unit dataplane -- -k abort -x",
    )
    test.add_argument("tier", nargs="*", metavar="TIER", help=f"{', '.join((*TIERS, *EXTRA_TIERS))}")
    test.set_defaults(run=_test)
    bench = commands.add_parser(
        "bench",
        help="measure the whole path against bare Envoy, and what an SDK sees",
        description="Measure the whole path against bare Envoy (path), the openai client through the "
        "gateway against the engine (sdk), reserve and settle (ledger), look-ups by likeness (recall), and "
        "what the cache does to the road (cache); each in one run. Prints tables.",
        epilog="example: tidegate bench sdk --seconds 5 --json bench.json",
    )
    bench.add_argument("section", nargs="*", metavar="SECTION", help=f"{', '.join(BENCHES)} (all)")
    bench.add_argument("--seconds", type=seconds, help="length of one slice")
    bench.add_argument("--engine", choices=("twin", "sglang"), default="twin", help="of sdk (twin)")
    bench.add_argument("--json", type=Path, metavar="FILE", help="also write every figure to FILE")
    bench.set_defaults(run=_bench)


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
    found = suite.folders(wanted)
    if not found:
        raise Refusal(f"no tests in {', '.join(wanted)}", f"known tiers are {', '.join(known)}")
    sys.stdout.flush()
    if not arguments.tier and not arguments.extra:
        return suite.run_side_by_side(TIERS)
    _become("pytest", *found, *arguments.extra)


def _bench(arguments: argparse.Namespace) -> int:
    for section in arguments.section:
        if section not in BENCHES:
            raise Refusal(f"no section {section!r}", f"known are {', '.join(BENCHES)}")
    options = [*arguments.section, "--engine", arguments.engine]
    options += [] if arguments.seconds is None else ["--seconds", str(arguments.seconds)]
    if arguments.json is not None:
        options += ["--json", str(arguments.json.absolute())]
    _become("tests.bench.main", *options)
