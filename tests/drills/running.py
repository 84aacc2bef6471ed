"""A drill as a user runs it: exit code, output and figures."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.harness.gateway import ROOT

LONGEST_S = 1_500
"""Longer than a drill's own bound, which ends it with a reason."""


@dataclass(frozen=True, slots=True)
class Ran:
    """``figures`` is empty for a drill that did not come to its end."""

    code: int
    output: str
    figures: dict[str, Any]


def drill(directory: Path, *arguments: str) -> Ran:
    """Run ``tidegate drill`` with ``arguments``."""
    file = directory / "figures.json"
    command = [sys.executable, "-m", "mesh", "drill", *arguments]
    command += ["--json", str(file)] if arguments else []
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=LONGEST_S)
    figures = json.loads(file.read_text()) if file.exists() else {}
    return Ran(code=done.returncode, output=done.stdout + done.stderr, figures=figures)
