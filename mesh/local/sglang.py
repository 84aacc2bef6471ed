"""``python -m mesh.local.sglang``: installs SGLang's environment and model when missing, then becomes it.

One process for both, so that a stop in the middle of a download ends that too, and readiness, restart
and logs are the supervisor's as for every part. Lines that start with ``progress: `` are shown beside
the part while it starts.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import NoReturn

from gateway.config.environment import inherited
from inference.sglang.install import ensure_environment, ensure_model
from inference.sglang.launch import command
from inference.sglang.packages import InstallFailed
from mesh.local.supervisor import PROGRESS, REFUSED


def _progress(text: str) -> None:
    print(f"{PROGRESS}{text}", flush=True)


def _become(argv: list[str], environment: dict[str, str]) -> NoReturn:
    _progress("loading the model")
    # Our own packages must not be found by SGLang's Python.
    inherit = {name: value for name, value in inherited().items() if name != "PYTHONPATH"}
    os.execve(argv[0], argv, {**inherit, **environment})


def main() -> int:
    """Returns only when something is missing: the process becomes SGLang otherwise."""
    parser = argparse.ArgumentParser(prog="mesh.local.sglang", description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--model", required=True, help="served name")
    parser.add_argument("--tools", type=Path, required=True, help="where environments and models are kept")
    arguments = parser.parse_args()
    try:
        python = ensure_environment(arguments.tools, _progress)
        model = ensure_model(arguments.tools, _progress)
    except InstallFailed as error:
        print(f"{REFUSED}{error}", flush=True)
        return 1
    _become(*command(python, model, arguments.port, arguments.model))


if __name__ == "__main__":
    sys.exit(main())
