"""The look that every tier ends with (tests/conftest.py) finds what a test prints and what it logs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.harness import canary

ROOT = Path(__file__).resolve().parents[2]
LEAKS = {
    "prints": f"def test_one():\n    print({canary.PROMPT!r})\n",
    "logs": f"def test_one(tmp_path):\n    (tmp_path / 'a.log').write_text({canary.EMAIL!r})\n",
    "books": f"def test_one(tmp_path):\n    (tmp_path / '1.jsonl').write_text({canary.TOOL_ARGUMENT!r})\n",
}


@pytest.mark.parametrize("how", [*LEAKS, "clean"])
def test_a_leak_fails_its_test(tmp_path: Path, how: str) -> None:
    (tmp_path / "test_leak.py").write_text(LEAKS.get(how, "def test_one():\n    print('nothing')\n"))
    command = [sys.executable, "-m", "pytest", "-q", "-p", "tests.conftest", str(tmp_path / "test_leak.py")]
    done = subprocess.run(
        [*command, "-c", str(ROOT / "pyproject.toml"), "--rootdir", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode == 0) == (how == "clean"), done.stdout + done.stderr
