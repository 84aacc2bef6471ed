"""The official openai npm package: the Node suite in ``npm/``, run once for each engine."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

from tests.clients.node import NODE, installed
from tests.clients.served import EMBEDDER, Served
from tests.harness.engines import Twin
from tests.harness.gateway import MODEL

SUITE = Path(__file__).with_name("npm")
TESTS_MIN = {"twin": 33, "sglang": 23}
"""How many must have passed: a run that found no tests is no success."""
SUITE_S = 400


def node_tests(served: Served, engine: Twin | None) -> str:
    """Run the suite; its report in TAP. ``engine`` is the twin that its scripts go to."""
    where: dict[str, Any] = {
        "baseURL": served.gateway.base_url,
        "apiKey": served.gateway.api_key,
        "model": MODEL,
    }
    if engine is not None:
        where |= {
            "engine": engine.url,
            "embedder": EMBEDDER,
            "poorKey": served.jwt("month"),
        }
    directory = installed(SUITE)
    files = sorted(path.name for path in SUITE.glob("*.test.mjs"))
    done = subprocess.run(
        [str(NODE), "--test", "--test-reporter=tap", "--test-concurrency=1", *files],
        cwd=directory,
        env={**os.environ, "NPM_SUITE_SERVED": json.dumps(where)},
        capture_output=True,
        text=True,
        check=False,
        timeout=SUITE_S,
    )
    assert done.returncode == 0, failures(done.stdout) + done.stderr
    return done.stdout


def failures(report: str) -> str:
    """The report's failed tests, each with its details; all of it when none is marked."""
    failed = re.findall(r"^ *not ok .*?^ *\.\.\.$", report, re.MULTILINE | re.DOTALL)
    return "\n".join(failed) or report


def passed(report: str) -> int:
    """How many tests passed: the report's own count, skipped ones and groups left out."""
    [count] = re.findall(r"^# pass (\d+)$", report, re.MULTILINE)
    return int(count)


def test_the_npm_suite(served: Served, engine: Twin) -> None:
    report = node_tests(served, engine if served.engine == "twin" else None)
    assert passed(report) >= TESTS_MIN[served.engine], report
