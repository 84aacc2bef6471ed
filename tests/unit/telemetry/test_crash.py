"""A failure is told by type and place; its text, which may be a prompt, is not."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

SECRET = "marzipan-xylophone"
SET_UP = "from gateway.telemetry.log import set_level; set_level('info')\n"
FAILURES = {
    "uncaught": f"{{}}['{SECRET}']",
    "library with a traceback": f"import logging\ntry:\n {{}}['{SECRET}']\nexcept KeyError:\n"
    f" logging.getLogger('library').exception('failed on %s', '{SECRET}')",
    "library's message": f"import logging; logging.getLogger('library').warning('{SECRET}')",
    "thread": f"import threading; t = threading.Thread(target=lambda: {{}}['{SECRET}']); t.start(); t.join()",
    "task": "import asyncio, gc\nasync def fail():\n {}['" + SECRET + "']\n"
    "async def main():\n asyncio.create_task(fail())\n await asyncio.sleep(0)\n await asyncio.sleep(0)\n"
    "asyncio.run(main()); gc.collect()",
    "finalizer": f"class A:\n def __del__(self): {{}}['{SECRET}']\na = A()\ndel a",
}


@pytest.mark.parametrize("how", FAILURES)
def test_a_failure_is_told_without_its_text(how: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SET_UP + FAILURES[how]], capture_output=True, text=True, check=False
    )
    assert SECRET not in done.stdout + done.stderr
    [line] = [json.loads(line) for line in done.stdout.splitlines()]
    assert line["event"] in ("uncaught", "library")
    if how != "library's message":
        assert line["error"] == "KeyError"
        assert line["stack"][-1].startswith("<string>:")
    assert done.stderr == ""


def test_debug_levels_are_refused_by_name() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SET_UP.replace("info", "loud")], capture_output=True, text=True, check=False
    )
    assert done.returncode != 0
    assert "log level must be one of" in done.stderr
