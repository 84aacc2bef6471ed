"""The whole product as a user runs it in the background: up --detach, status, env, logs, kill -9, down."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

from mesh.local.layout import layout_of
from mesh.local.proc import identity_of, is_alive
from mesh.local.record import read_record
from tests.harness.gateway import ROOT, free_ports, until
from tests.harness.patience import patient

PARTS = {
    *("valkey-ledger", "valkey-cache", "ext-authz-0", "ext-authz-1", "ext-proc-0", "ext-proc-1"),
    *("bookkeeper", "api", "envoy", "engine", "recall", "pods"),
}
BODY = {"model": "smollm2-135m", "messages": [{"role": "user", "content": "Hello!"}], "max_tokens": 4}


class CommandLine:
    """``tidegate`` on one state directory."""

    def __init__(self, state: Path) -> None:
        self.state, self.port = state, free_ports()

    def __call__(self, *words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "mesh", *words, "--state", str(self.state)]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)

    def up(self) -> subprocess.CompletedProcess[str]:
        return self("up", "--engine", "twin", "--port", str(self.port), "--detach")

    def status(self) -> dict[str, Any]:
        loaded: dict[str, Any] = json.loads(self("status", "--json").stdout)
        return loaded


@pytest.fixture
def tidegate(tmp_path: Path) -> Any:
    command_line = CommandLine(tmp_path / "state")
    yield command_line
    down = command_line("down")
    assert down.returncode == 0, down.stderr


def ask(exported: str) -> httpx.Response:
    """One chat completion with what ``env`` says."""
    values = dict(line.removeprefix("export ").split("=", 1) for line in exported.splitlines())
    with patient(headers={"authorization": f"Bearer {values['OPENAI_API_KEY']}"}) as client:
        body = {**BODY, "model": values["OPENAI_MODEL"]}
        return client.post(f"{values['OPENAI_BASE_URL']}/chat/completions", json=body)


def test_a_day_in_the_background(tidegate: CommandLine) -> None:
    started = tidegate.up()
    assert started.returncode == 0, started.stderr
    for wanted in ("API key  tg-", "JWT      ey", f"./tidegate down --state {tidegate.state}"):
        assert wanted in started.stdout

    status = tidegate.status()
    assert status["state"] == "ready"
    assert {part["name"] for part in status["parts"] if part["state"] == "ready"} == PARTS
    assert "engine twin" in tidegate("status").stdout

    exported = tidegate("env").stdout
    answer = ask(exported)
    assert answer.status_code == 200, answer.text
    assert answer.json()["usage"]["completion_tokens"] <= 4

    assert tidegate("logs", "engine").returncode == 0
    assert "known are api, " in tidegate("logs", "nobody").stderr
    assert "tg-" not in (tidegate.state / "logs" / "supervisor.log").read_text()

    verified = tidegate("ledger", "verify")
    assert (verified.returncode, verified.stderr) == (0, ""), verified.stdout
    assert verified.stdout.startswith("clean: ")

    again = tidegate.up()
    assert again.returncode == 1
    assert f"already runs on {tidegate.state} (pid {status['pid']})" in again.stderr
    assert tidegate.status()["pid"] == status["pid"]

    record = read_record(layout_of(tidegate.state))
    assert record is not None
    parts = [identity for identity, _ in record.parts.values()]
    os.kill(status["pid"], signal.SIGKILL)
    until(lambda: identity_of(status["pid"]) is None, "the supervisor is dead")
    assert tidegate("env").returncode == 1
    revived = tidegate.up()
    assert revived.returncode == 0, revived.stderr
    assert [one for one in parts if is_alive(one)] == []
    assert ask(tidegate("env").stdout).status_code == 200

    down = tidegate("down")
    assert (down.returncode, down.stderr) == (0, "")
    assert down.stdout.rstrip().endswith("Stopped.")
    assert record.living() == []
    assert tidegate("ledger", "verify").stdout.startswith("clean: "), "also while nothing runs"
    assert record.living() == []
    assert tidegate("status").returncode == 1
    with pytest.raises(httpx.ConnectError):
        ask(exported)


def test_a_taken_port_is_said_by_the_detached_one_too(tidegate: CommandLine) -> None:
    holder = subprocess.Popen(
        [
            *(sys.executable, "-I", "-S", "-c"),
            "import socket, sys; s = socket.socket(); s.bind(('127.0.0.1', int(sys.argv[1]))); s.listen();"
            " print(flush=True); sys.stdin.read()",
            str(tidegate.port),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        assert holder.stdout is not None
        holder.stdout.readline()
        refused = tidegate.up()
        assert refused.returncode == 1
        assert refused.stderr.startswith(f"tidegate: port {tidegate.port} (the gateway) is taken")
        assert "choose another with --port P" in refused.stderr
        assert refused.stderr.count("\n") == 1
    finally:
        holder.communicate()


def test_pods_elsewhere_that_do_not_answer_are_told_and_the_gateway_says_503(tidegate: CommandLine) -> None:
    nowhere = free_ports()
    started = tidegate(
        *("up", "--engine", f"http://127.0.0.1:{nowhere}", "--port", str(tidegate.port)),
        *("--detach", "--no-wait"),
    )
    assert started.returncode == 0, started.stderr
    assert "No engine answers yet" in started.stdout
    status = tidegate.status()
    assert status["state"] == "loading"
    assert {part["name"]: part["state"] for part in status["parts"]}["pods"] == "starting"
    refused = ask(tidegate("env").stdout)
    assert refused.status_code == 503
    assert int(refused.headers["retry-after"]) > 0
    assert "loading" in refused.json()["error"]["message"]
