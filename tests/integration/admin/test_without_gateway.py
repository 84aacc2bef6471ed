"""The administration's commands on a state directory whose gateway does not run: the ledger is started for
them alone."""

from __future__ import annotations

import asyncio
import json
import shutil
from pathlib import Path

import pytest

from gateway.budget.redis_ledger import RedisLedger
from gateway.contract.clock import SystemClock
from mesh.cli import main
from mesh.local.books import with_ledger
from mesh.local.credentials import ensure_credentials
from mesh.local.layout import BASE, layout_of, prepare

CLOCK = SystemClock()


def forget(state: Path) -> None:
    """The record names this process as a supervisor, which a command's own process would have ended with."""
    (state / "processes.json").unlink()


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """As a gateway that ran once leaves it."""
    layout = layout_of(tmp_path)
    prepare(layout)
    shutil.copytree(BASE / "policy", layout.policy, dirs_exist_ok=True)
    ensure_credentials(layout.secrets, CLOCK)

    async def found(url: str) -> None:
        ledger = RedisLedger.connect(url)
        try:
            await ledger.found_epoch(fresh=True)
        finally:
            await ledger.aclose()

    def command(url: str) -> int:
        asyncio.run(found(url))
        return 0

    assert with_ledger(layout, CLOCK, command) == 0
    forget(tmp_path)
    return tmp_path


def test_changes_are_kept_for_the_gateway_to_come(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    where = ("--org", "demo", "--account", "key/demo", "--state", str(state), "--json")
    assert main(["budget", "freeze", *where, "--reason", "a test"]) == 0
    capsys.readouterr()
    forget(state)
    assert main(["budget", "show", *where]) == 0
    assert {window["frozen"] for window in json.loads(capsys.readouterr().out)["windows"]} == {True}
    forget(state)
    create = ["keys", "create", "--org", "demo", "--id", "ci", "--reason", "x"]
    assert main([*create, "--state", str(state)]) == 0
    assert capsys.readouterr().out.startswith("tg-ci-")


@pytest.mark.parametrize(
    ("words", "code", "complaint"),
    [
        (["keys", "revoke", "cj", "--reason", "x"], 1, "tidegate: no key 'cj': there are demo, operator\n"),
        (["keys", "rotate", "demo", "--overlap", "8d", "--reason", "x"], 2, "no duration up to 7 days"),
        (["keys", "create", "--org", "demo", "--reason", " "], 2, "reason: is empty"),
        (["budget", "show", "--org", "dmeo"], 1, "tidegate: no org 'dmeo': there are demo, operator\n"),
        (["usage"], 1, "no projection of the books yet: the bookkeeper makes one"),
        (["usage", "--by", "colour"], 2, "use org, team, user"),
    ],
)
def test_what_cannot_be_done_is_one_line_with_the_mend(
    state: Path, capsys: pytest.CaptureFixture[str], words: list[str], code: int, complaint: str
) -> None:
    try:
        ended = main([*words, "--state", str(state)])
    except SystemExit as exit_:
        ended = int(exit_.code or 0)
    printed = capsys.readouterr()
    assert (ended, printed.out) == (code, "")
    assert complaint in printed.err
    assert printed.err.count("\n") == 1


@pytest.mark.parametrize(
    "words",
    [
        ["keys", "list"],
        ["keys", "revoke", "x", "--reason", "x"],
        ["budget", "list"],
        ["usage"],
    ],
    ids=" ".join,
)
def test_a_state_that_never_ran_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    assert main([*words, "--state", str(tmp_path)]) == 1
    assert capsys.readouterr().err == (
        f"tidegate: no gateway ever ran on {tmp_path}: start it once with './tidegate up'\n"
    )
    assert list(tmp_path.iterdir()) == []
