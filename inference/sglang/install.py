"""SGLang's own environment, beside Tidegate's: its dependencies are large and not the gateway's.

On a CPU it is made in steps because a plain ``pip install sglang`` pulls CUDA builds: the locked list,
then triton (imported, never used: the version that the chosen torch asks for, else a fixed one), then
SGLang and four packages without their dependencies. With CUDA it is the plain full install.
"""

from __future__ import annotations

import fcntl
import hashlib
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from inference.sglang import model
from inference.sglang.host import has_cuda
from inference.sglang.packages import InstallFailed, Progress, pip

VERSION: Final = "0.5.23"
TRITON_WITHOUT_TORCH_S_WISH: Final = "triton==3.9.0"
DISK_BYTES_CPU: Final = 4 * 1024**3
DISK_BYTES_CUDA: Final = 16 * 1024**3
_HERE: Final = Path(__file__).parent
_LOCK: Final = _HERE / "requirements.txt"
_WITHOUT_DEPENDENCIES: Final = _HERE / "requirements-no-deps.txt"
STAMP: Final = "tidegate-stamp"
"""Written last: an environment without it is started over."""


def environment_dir(tools_dir: Path, *, cuda: bool) -> Path:
    """Where the environment of this version stands."""
    return tools_dir / (f"sglang-{VERSION}-cuda" if cuda else f"sglang-{VERSION}")


def stamp(*, cuda: bool) -> str:
    """What a finished environment says of itself: another lock or Python means another environment."""
    lock = hashlib.sha256(_LOCK.read_bytes() + _WITHOUT_DEPENDENCIES.read_bytes()).hexdigest()[:16]
    return f"sglang {VERSION} python {sys.version_info.major}.{sys.version_info.minor} {lock} cuda={cuda}\n"


def ready(directory: Path, *, cuda: bool) -> bool:
    """Whether ``directory`` holds a whole environment of this stamp."""
    written = directory / STAMP
    python = directory / "bin" / "python"
    return python.exists() and written.exists() and written.read_text() == stamp(cuda=cuda)


@contextmanager
def exclusive(tools_dir: Path, progress: Progress) -> Iterator[None]:
    """Only one process installs into ``tools_dir``; the others wait for it. Raises InstallFailed."""
    try:
        tools_dir.mkdir(parents=True, exist_ok=True)
        lock = (tools_dir / "sglang.lock").open("w")
    except OSError as error:
        raise InstallFailed(f"cannot write to {tools_dir} ({error.strerror})", "make it writable") from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress("waiting for another installation")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _check_disk(tools_dir: Path, needed: int) -> None:
    free = shutil.disk_usage(tools_dir).free
    if free < needed:
        gib = 1024**3
        raise InstallFailed(
            f"SGLang needs {needed / gib:.0f} GiB in {tools_dir} and {free / gib:.1f} GiB are free",
            "free some disk space, or use --engine twin",
        )


def _new_environment(directory: Path) -> Path:
    made = subprocess.run(
        [sys.executable, "-m", "venv", "--clear", str(directory)],
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    if made.returncode != 0:
        said = (made.stdout + made.stderr).strip().splitlines()
        raise InstallFailed(
            f"python -m venv failed: {said[-1] if said else 'no reason given'}",
            "install Python's venv module (Debian: apt-get install python3-venv)",
        )
    return directory / "bin" / "python"


def _has(python: Path, module: str) -> bool:
    code = f"import importlib.util as u, sys; sys.exit(u.find_spec({module!r}) is None)"
    return subprocess.run([str(python), "-c", code], check=False, stdin=subprocess.DEVNULL).returncode == 0


def ensure_environment(tools_dir: Path, progress: Progress) -> Path:
    """The Python of SGLang's environment under ``tools_dir``, installed first if it is not there.

    An interrupted installation is started over, with the downloads that pip has kept. Raises
    InstallFailed, with what to do.
    """
    cuda = has_cuda()
    directory = environment_dir(tools_dir, cuda=cuda)
    python = directory / "bin" / "python"
    if ready(directory, cuda=cuda):
        return python
    with exclusive(tools_dir, progress):
        if ready(directory, cuda=cuda):
            return python
        _check_disk(tools_dir, DISK_BYTES_CUDA if cuda else DISK_BYTES_CPU)
        progress("making SGLang's environment")
        _new_environment(directory)
        if cuda:
            arguments = ["install", f"sglang=={VERSION}", "gguf", "safetensors"]
            pip(python, arguments, step="SGLang for CUDA", progress=progress)
        else:
            pip(python, ["install", "-r", str(_LOCK)], step="SGLang 1/2", progress=progress)
            if not _has(python, "triton"):
                pip(python, ["install", TRITON_WITHOUT_TORCH_S_WISH], step="triton", progress=progress)
            last = ["install", "--no-deps", "-r", str(_WITHOUT_DEPENDENCIES)]
            pip(python, last, step="SGLang 2/2", progress=progress)
        (directory / STAMP).write_text(stamp(cuda=cuda))
    return python


def ensure_model(tools_dir: Path, progress: Progress) -> Path:
    """The folder of the default model, made with the environment's Python. Raises InstallFailed."""
    python = ensure_environment(tools_dir, progress)
    with exclusive(tools_dir, progress):
        return model.ensure_model(tools_dir, python, progress)
