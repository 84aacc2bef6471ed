"""The real SGLang, the twin beside it, and which cases ran on which."""

from __future__ import annotations

import asyncio
import re
import textwrap
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from inference.cases import QUEUED_MAX, RUNNING_MAX, Case
from inference.record import Recorded, ask
from tests.harness.engines import Engine, Twin, twin

HERE = "tests/contract/inference/"
ANSWER_S = 120.0
"""An answer of the real one on a machine that is busy with other tests."""
SOON_S = 30.0
"""For what takes a second or two there."""
POLL_S = 0.05
NOTICE_MS = 1000
"""Of the twin: as NOTICE_CLIENT_S of the real one's launcher."""


@pytest.fixture(scope="session")
def sglang(limited_sglang: Engine) -> Engine:
    """The real one, with the limits that the cases count on."""
    return limited_sglang


@pytest.fixture(scope="session")
def same_twin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Twin]:
    """A twin with the real one's limits and habits, and about its pace."""
    limits = ["--max-running", str(RUNNING_MAX), "--max-queued", str(QUEUED_MAX)]
    habits = ["--health-ms", "1000", "--notice-ms", str(NOTICE_MS), "--tokens-per-s", "100"]
    directory = tmp_path_factory.mktemp("same-twin")
    with twin(directory, "--model", "smollm2-135m", "--serves", "generation", *limits, *habits) as running:
        yield running


@pytest.fixture(params=["twin", pytest.param("sglang", marks=pytest.mark.real_sglang("limited"))])
def engine(request: pytest.FixtureRequest) -> Engine:
    """Each in turn."""
    found: Engine = request.getfixturevalue("same_twin" if request.param == "twin" else "sglang")
    return found


@pytest.fixture
def http(engine: Engine) -> Iterator[httpx.Client]:
    """A client of ``engine``, which has no more work from the tests before."""
    with httpx.Client(base_url=engine.url, timeout=ANSWER_S, trust_env=False) as client:
        until(lambda: running(client) == 0, "idle")
        yield client


def until(met: Callable[[], bool], what: str) -> None:
    """Asks until it is so; fails after SOON_S."""
    deadline = time.monotonic() + SOON_S
    while not met():
        assert time.monotonic() < deadline, what
        time.sleep(POLL_S)


def running(http: httpx.Client) -> int:
    """Requests that the engine works on or has waiting."""
    [load] = http.get("/v1/loads").json()["loads"]
    return int(load["num_running_reqs"]) + int(load["num_waiting_reqs"])


def answered(engine: Engine, case: Case) -> Recorded:
    """What ``engine`` answers to ``case``."""

    async def asked() -> Recorded:
        async with httpx.AsyncClient(base_url=engine.url, timeout=ANSWER_S, trust_env=False) as client:
            return await ask(client, case)

    return asyncio.run(asked())


def _case(nodeid: str) -> tuple[str, bool] | None:
    """A contract case's name, and whether this test asks the real one for it."""
    matched = re.match(rf"{HERE}test_(\w+)\.py::test_(\w+)(?:\[(.+)\])?$", nodeid)
    if matched is None:
        return None
    module, test, parameters = matched[1], matched[2], (matched[3] or "").split("-", 1)
    if parameters[0] in ("twin", "sglang"):
        return "-".join([test, *parameters[1:]]), parameters[0] == "sglang"
    name = matched[3] or test
    return name, module == "real_sglang"


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Says which cases the real SGLang was asked, and which only its twin."""
    found: dict[bool, set[str]] = {True: set(), False: set()}
    for outcome in ("passed", "failed"):
        for report in terminalreporter.stats.get(outcome, ()):
            if report.when == "call" and (case := _case(report.nodeid)) is not None:
                found[case[1]].add(case[0])
    real, only_twin = found[True], found[False] - found[True]
    if real or only_twin:
        terminalreporter.section("engine contract")
        for where, names in (("the real SGLang", real), ("the twin alone, by recordings", only_twin)):
            filled = textwrap.fill(", ".join(sorted(names)), width=108, break_on_hyphens=False)
            shown = textwrap.indent(filled, "  ")
            terminalreporter.write_line(f"on {where}: {len(names)} cases\n{shown}".rstrip())
