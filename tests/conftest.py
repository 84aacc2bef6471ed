"""For every tier: what a test prints, and the logs it leaves, hold none of the secrets that it sends. And the
real SGLang is installed and loaded while the tests before its own run."""

from __future__ import annotations

import gc
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from tests.harness import canary, patience
from tests.harness.engines import Engine
from tests.harness.sglang import Sglangs

# No example is timed: beside other tests one may wait for a core as long as it likes. Each run tries the same
# ones; `--hypothesis-profile=drawn` looks for new ones.
hypothesis.settings.register_profile(
    "drawn", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.register_profile("seeded", hypothesis.settings.get_profile("drawn"), derandomize=True)
hypothesis.settings.load_profile("seeded")

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


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A test that ends a real SGLang comes behind all others that ask it, also those of other folders."""
    for ending in [item for item in items if _ends_it(item)]:
        last = max(place for place, item in enumerate(items) if _kind(item) == _kind(ending))
        items.insert(last, items.pop(items.index(ending)))


def _ends_it(item: pytest.Item) -> bool:
    marker = item.get_closest_marker("real_sglang")
    return marker is not None and bool(marker.kwargs.get("ends"))


def _kind(item: pytest.Item) -> str | None:
    """Of the real SGLang that the test asks."""
    marker = item.get_closest_marker("real_sglang")
    return None if marker is None else str(marker.args[0])


@pytest.hookimpl
def pytest_collection_finish() -> None:
    """Ten thousand tests are a million objects: to look through them for garbage again and again would stop
    this process, in which Envoy's scripted sidecars live too, for as long as their deadlines."""
    gc.collect()
    gc.freeze()


_SGLANGS = pytest.StashKey[Sglangs]()


@pytest.fixture(scope="session", autouse=True)
def sglangs(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sglangs]:
    """The engines of the tests that are marked; the first is begun before the first test of all."""
    kinds = dict.fromkeys(kind for item in request.session.items if (kind := _kind(item)) is not None)
    engines = Sglangs(tmp_path_factory.mktemp("sglang"), list(kinds))
    request.config.stash[_SGLANGS] = engines
    engines.begin_next()
    yield engines
    engines.close()


@pytest.fixture(scope="session")
def limited_sglang(sglangs: Sglangs) -> Engine:
    """The real SGLang with the limits that inference/cases counts on."""
    return sglangs.ready("limited")


@pytest.fixture(scope="session")
def plain_sglang(sglangs: Sglangs) -> Engine:
    """The real SGLang as ``tidegate up`` starts it."""
    return sglangs.ready("plain")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item) -> Iterator[None]:
    """Ends a real SGLang after its last test, and so begins the next."""
    yield
    items = item.session.items
    kind = _kind(item)
    if kind is not None and kind not in map(_kind, items[items.index(item) + 1 :]):
        item.config.stash[_SGLANGS].done(kind)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, Any, Any]:
    """Fails a test whose captured output holds a secret."""
    report = yield
    words = [word for _, text in report.sections for word in canary.found_in(text.encode())]
    if words and report.passed:
        report.outcome, report.longrepr = "failed", f"secrets in the output of {item.nodeid}: {words}"
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Says which refusals of a busy machine tests have met and asked again."""
    if patience.met:
        told = ", ".join(f"{code} {times}" for code, times in sorted(patience.met.items()))
        terminalreporter.section("asked again of a busy machine")
        terminalreporter.line(told)
