"""``tidegate ledger``: each verb has its help with an example, and hands its options on."""

from __future__ import annotations

from pathlib import Path

import pytest

from mesh.cli import main

VERBS = ("verify", "replay", "export", "reconcile", "archive", "backup", "restore")


@pytest.mark.parametrize("verb", VERBS)
def test_help_has_an_example(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["ledger", verb, "--help"])
    told = capsys.readouterr().out
    assert ended.value.code == 0 and f"example: tidegate ledger {verb}" in told
    assert "--state" in told and "--json" in told


def test_without_books_the_mend_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = ["--state", str(tmp_path / "state")]
    url = (tmp_path / "there").as_uri()
    for words in (
        ["verify"],
        ["replay", "--apply"],
        ["export", "--format", "csv", "--by", "org", "--out", str(tmp_path / "out")],
        ["reconcile"],
        ["archive", "--to", url],
        ["backup", "--to", url],
    ):
        assert main(["ledger", *words, *state]) == 1
        assert "start the gateway once" in capsys.readouterr().err
    assert main(["ledger", "restore", "--from", url, *state]) == 1
    assert "not a backup" in capsys.readouterr().err
