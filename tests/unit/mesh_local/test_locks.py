"""The lock files and pyproject.toml say the same."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[3]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
RUNTIME = PROJECT["project"]["dependencies"]
LOCKS = ("requirements.lock", "requirements-dev.lock", "requirements-installers.lock")


def locked(name: str) -> dict[str, str]:
    """Package to version."""
    found = re.findall(r"^([A-Za-z0-9._-]+)==([^\s;\\]+)", (ROOT / name).read_text(), re.MULTILINE)
    return {canonicalize_name(package): version for package, version in found}


@pytest.mark.parametrize(
    ("lock", "wanted"),
    [
        ("requirements.lock", RUNTIME),
        ("requirements-dev.lock", [*RUNTIME, *PROJECT["dependency-groups"]["dev"]]),
        ("requirements-installers.lock", ["pip", "uv"]),
    ],
)
def test_each_requirement_is_locked_at_a_version_it_allows(lock: str, wanted: list[str]) -> None:
    versions = locked(lock)
    for text in wanted:
        requirement = Requirement(text)
        name = canonicalize_name(requirement.name)
        assert name in versions, f"{name} is not in {lock}: make the locks anew (CONTRIBUTING.md)"
        assert requirement.specifier.contains(versions[name], prereleases=True), f"{text} against {lock}"


def test_the_development_lock_holds_the_runtime_lock() -> None:
    assert locked("requirements.lock").items() <= locked("requirements-dev.lock").items()


@pytest.mark.parametrize("lock", LOCKS)
def test_every_locked_package_has_hashes(lock: str) -> None:
    entries = re.split(r"^(?=[A-Za-z0-9])", (ROOT / lock).read_text(), flags=re.MULTILINE)
    without = [entry.splitlines()[0] for entry in entries if entry.strip() and "--hash=sha256:" not in entry]
    assert without == []
