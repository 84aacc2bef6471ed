"""The code's own rules: sizes, names, words that must not appear, imports."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("gateway", "ext_authz", "ext_proc", "inference", "mesh")
MODULE_LINES_MAX = 400
FUNCTION_LINES_MAX = 60
BANNED_NAMES = re.compile(r"(^|_)(utils?|helpers?|common|misc|manager)(_|\.|$)")


def tracked(*suffixes: str) -> list[Path]:
    """Files git tracks, or would (not ignored)."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout.splitlines()
    return [ROOT / name for name in listed if name.endswith(suffixes) and (ROOT / name).is_file()]


PYTHON = tracked(".py")
LOCKS = [path for path in tracked(".lock", ".txt", ".json") if re.search(r"lock|requirements", path.name)]


def shown(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", PYTHON, ids=shown)
def test_sizes_and_docstrings(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= MODULE_LINES_MAX, "split the module by noun"
    tree = ast.parse(text)
    if path.relative_to(ROOT).parts[0] in PACKAGES:
        assert ast.get_docstring(tree), "a module says what it is"
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno is not None:
            lines = node.end_lineno - node.lineno + 1
            assert lines <= FUNCTION_LINES_MAX, f"{node.name} has {lines} lines: a function is one thought"


def test_no_vague_names() -> None:
    vague = [shown(path) for path in tracked("") if BANNED_NAMES.search(path.name.lower())]
    assert vague == []


def test_packages_are_the_five() -> None:
    found = {path.relative_to(ROOT).parts[0] for path in PYTHON if len(path.relative_to(ROOT).parts) > 1}
    assert found <= {*PACKAGES, "tests"}


def test_imports_point_down() -> None:
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_ruff_and_types() -> None:
    """One place where style and types are checked, so that nobody needs to remember two more commands."""
    for command in (["ruff", "check", "."], ["ruff", "format", "--check", "."], ["mypy"]):
        program = str(Path(sys.executable).with_name(command[0]))
        done = subprocess.run([program, *command[1:]], cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("path", LOCKS, ids=shown)
def test_locks_carry_no_registry_address(path: Path) -> None:
    if "lock" in path.name or path.name.startswith("requirements"):
        text = path.read_text()
        assert not re.search(
            r"^\s*--(index-url|extra-index-url|find-links)|\"resolved\": \"http", text, re.MULTILINE
        )


def test_nothing_switched_off_without_a_reason() -> None:
    marker = re.compile(r"\b(TODO|FIXME|XXX|NotImplementedError)\b")
    here = Path(__file__)
    found = [shown(path) for path in PYTHON if path != here and marker.search(path.read_text())]
    assert found == []
