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

from gateway.config.environment import inherited
from inference.sglang.install import ensure_environment, ensure_model
from inference.sglang.launch import command
from mesh.local.supervisor import PROGRESS


def _progress(text: str) -> None:
    print(f"{PROGRESS}{text}", flush=True)


def main() -> None:
    """Does not return: the process becomes SGLang, or ends with the installer's error."""
    parser = argparse.ArgumentParser(prog="mesh.local.sglang", description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--model", required=True, help="served name")
    parser.add_argument("--tools", type=Path, required=True, help="where environments and models are kept")
    arguments = parser.parse_args()
    python = ensure_environment(arguments.tools, _progress)
    model = ensure_model(arguments.tools, _progress)
    argv, environment = command(python, model, port=arguments.port, served_name=arguments.model)
    _progress("loading the model")
    os.execve(argv[0], argv, {**inherited(), **environment})


if __name__ == "__main__":
    sys.exit(main())
