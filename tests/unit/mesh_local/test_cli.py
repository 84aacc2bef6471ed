"""The command line: what it takes, what it refuses, and that each command explains itself."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import pytest

from mesh.cli import main, parser
from mesh.local.engine import RemoteEngine, SglangEngine, TwinEngine, engine_from
from mesh.local.refusal import Refusal


def commands(at: argparse.ArgumentParser, words: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Every command and subcommand."""
    inner = [action for action in at._actions if isinstance(action, argparse._SubParsersAction)]
    if not inner:
        yield words
    for action in inner:
        for name, child in action.choices.items():
            yield from commands(child, (*words, name))


@pytest.mark.parametrize("words", list(commands(parser())), ids=" ".join)
def test_every_command_has_help_with_an_example(
    words: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main([*words, "--help"])
    assert ended.value.code == 0
    assert "example: " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["up", "--engine", "vllm"], "unknown engine 'vllm': use sglang, twin, or http://HOST:PORT"),
        (["up", "--no-wait"], "--no-wait goes with --detach: add --detach"),
        (["test", "fast"], "no tier 'fast': known are unit, fuzz, golden"),
    ],
)
def test_a_refusal_is_one_line_with_the_mend(
    words: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 1
    errors = capsys.readouterr().err
    assert errors.startswith(f"tidegate: {complaint}")
    assert errors.count("\n") == 1


@pytest.mark.parametrize(
    "words",
    [[], ["fly"], ["up", "--port", "0"], ["up", "--port", "65535"], ["up", "--port", "x"], ["ledger"]],
    ids=" ".join,
)
def test_a_bad_command_line_is_one_line_too(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_setting_in_the_environment_is_not_silently_ignored(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TIDEGATE_PORT", "9000")
    assert main(["up", "--engine", "twin"]) == 1
    assert "TIDEGATE_PORT is set: unset it" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["status", "env"])
def test_nothing_running_is_said_with_the_mend(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([command, "--state", str(tmp_path)]) == 1
    assert capsys.readouterr().err == (
        f"tidegate: no gateway runs on {tmp_path}: start one with './tidegate up'\n"
    )


def test_down_of_nothing_is_done_already(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["down", "--state", str(tmp_path)]) == 0
    assert "No gateway runs" in capsys.readouterr().out


def test_status_in_json_says_stopped_and_exits_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", "--json", "--state", str(tmp_path)]) == 1
    assert '"state": "stopped"' in capsys.readouterr().out


def test_engines() -> None:
    assert engine_from("sglang") == SglangEngine()
    assert engine_from("twin") == TwinEngine()
    assert engine_from("http://10.0.0.7:30000, http://pod/v1") == RemoteEngine(
        pods=(("10.0.0.7", 30000), ("pod", 80))
    )


@pytest.mark.parametrize(
    "text",
    [
        *("", "TWIN", "http://", "http://h:99999", "http://h:x", "https://h", "http://h/other", "ftp://h"),
        *("http://h,", "http://h,http://h:80", "http://user@h", "http://h?x=1"),
    ],
)
def test_addresses_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(Refusal):
        engine_from(text)
