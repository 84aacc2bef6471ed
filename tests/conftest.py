"""For every tier: what a test prints, and the logs it leaves, hold none of the secrets that it sends."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.harness import canary

_LOGS = ("*.log", "*.jsonl", "log", "stdout", "stderr")


@pytest.fixture(autouse=True)
def secrets_stay_out_of_logs(request: pytest.FixtureRequest) -> Iterator[None]:
    """Looks through the files of this test's ``tmp_path`` that are logs or books."""
    directory: Path | None = (
        request.getfixturevalue("tmp_path") if "tmp_path" in request.fixturenames else None
    )
    yield
    if directory is None or "canary" in request.node.path.name:
        return
    left = [path for pattern in _LOGS for path in directory.rglob(pattern) if path.is_file()]
    found = [f"{word} in {path}" for path in left for word in canary.found_in(path.read_bytes())]
    assert found == [], "secrets were written down"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, Any, Any]:
    """Fails a test whose captured output holds a secret."""
    report = yield
    words = [word for _, text in report.sections for word in canary.found_in(text.encode())]
    if words and report.passed:
        report.outcome, report.longrepr = "failed", f"secrets in the output of {item.nodeid}: {words}"
    return report
