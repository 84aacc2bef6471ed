"""The administration's commands on a running gateway: what they print, that they count at once, and that each
change is in the books. On orgs of their own."""

from __future__ import annotations

import json
import threading
import time
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest

from mesh.cli import main
from tests.harness.api_keys import KNOWN, verdicts
from tests.harness.gateway import MODEL, UNTIL_S, Gateway, until
from tests.harness.patience import patient

REFUSED_TIMES = 40
"""Refusals one after another that show that every worker refuses: two take turns."""
PROMISED_S = 1.0
"""Within which a revoked key is refused everywhere, as the documentation promises. The workers look at the
file every quarter of a second."""
TRIES = 3
"""Of which one must keep the promise: a busy machine may stop a worker for as long as that."""
PROJECTED_S = 180.0
"""A turn of the projection is 5 s, and two processes import LanceDB: seconds on a busy machine."""


@dataclass
class Commands:
    """``tidegate`` in this process, on one gateway."""

    gateway: Gateway
    capsys: pytest.CaptureFixture[str]

    def run(self, *words: str) -> str:
        """Standard output of a command that succeeds."""
        self.capsys.readouterr()
        code = main([*words, "--state", str(self.gateway.state)])
        printed = self.capsys.readouterr()
        assert code == 0, printed.err
        return printed.out

    def json(self, *words: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.run(*words, "--json"))
        return found

    def refusal(self, *words: str) -> str:
        """The one line of a command that is refused."""
        self.capsys.readouterr()
        assert main([*words, "--state", str(self.gateway.state)]) == 1
        line = self.capsys.readouterr().err
        assert line.startswith("tidegate: ") and line.count("\n") == 1
        return line

    def key(self, org: str, *options: str) -> str:
        """A new key's text, once every worker knows it."""
        text = self.run("keys", "create", "--org", org, "--reason", "a test", *options).strip()
        until(lambda: verdicts(self.gateway, text) == {KNOWN}, "the new key works on every worker")
        return text

    def status(self, text: str) -> int:
        with patient(headers=bearer(text)) as client:
            return client.get(f"{self.gateway.base_url}/models").status_code

    def chat(self, text: str) -> httpx.Response:
        body = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 8}
        url = f"{self.gateway.base_url}/chat/completions"
        with patient(headers=bearer(text)) as client:
            return client.post(url, json=body)

    def recorded(self, kind: str, org: str, count: int) -> list[dict[str, Any]]:
        """Events of ``kind`` in the books, once there are so many."""

        def look() -> list[dict[str, Any]] | None:
            found = [
                event for event in self.gateway.events() if (event["type"], event.get("org")) == (kind, org)
            ]
            return found if len(found) >= count else None

        return until(look, f"{count} events {kind} of {org} in the books")


def bearer(text: str) -> dict[str, str]:
    return {"authorization": f"Bearer {text}"}


@pytest.fixture
def commands(gateway: Gateway, capsys: pytest.CaptureFixture[str]) -> Commands:
    return Commands(gateway, capsys)


@dataclass
class Hammer:
    """Asks with a key without pause, and notes when each accepted request began."""

    commands: Commands
    text: str
    accepted: list[float] = field(default_factory=list)
    refused_in_a_row: int = 0

    def run(self) -> None:
        with patient(headers=bearer(self.text)) as client:
            while self.refused_in_a_row < REFUSED_TIMES:
                began = time.monotonic()
                if client.get(f"{self.commands.gateway.base_url}/models").status_code == 200:
                    self.accepted.append(began)
                    self.refused_in_a_row = 0
                else:
                    self.refused_in_a_row += 1


def test_a_revoked_key_is_refused_on_every_worker_within_a_second(commands: Commands) -> None:
    lasts_s: list[float] = []
    while not lasts_s or (lasts_s[-1] >= PROMISED_S and len(lasts_s) < TRIES):
        lasts_s.append(last_accepted_s(commands, f"rev-{len(lasts_s)}"))
    with commands.capsys.disabled():
        print(f"\nlast request accepted {min(lasts_s) * 1000:+.0f} ms after 'keys revoke' had returned")
    assert min(lasts_s) < PROMISED_S


def last_accepted_s(commands: Commands, name: str) -> float:
    """When a new key, in use, was taken for the last time: seconds after its revocation."""
    text = commands.key("rev-org", "--id", name)
    hammer = Hammer(commands, text)
    thread = threading.Thread(target=hammer.run)
    thread.start()
    until(lambda: len(hammer.accepted) > 5, "the key is in use")
    commands.run("keys", "revoke", name, "--reason", "leaked")
    returned = time.monotonic()
    thread.join(timeout=UNTIL_S)
    assert not thread.is_alive(), "the key was never refused"
    assert commands.chat(text).headers["x-tidegate-refusal"] == "api_key_revoked"
    return max(hammer.accepted) - returned


def test_keys_come_turn_and_are_listed_and_recorded(commands: Commands) -> None:
    first = commands.key("turn-org", "--id", "turn", "--models", MODEL, "--expires", "90d")
    rotated = commands.json("keys", "rotate", "turn", "--overlap", "1h", "--reason", "yearly")
    new = rotated["api_key"]
    until(lambda: verdicts(commands.gateway, new) == {KNOWN}, "the new secret works on every worker")
    assert commands.status(first) == 200, "the old one lives for the overlap"
    (listed,) = commands.json("keys", "list", "--org", "turn-org")["data"]
    assert set(listed) == {
        *("object", "id", "org", "team", "user", "tier", "models", "scopes"),
        *("created_ms", "expires_ms", "revoked", "earlier_until_ms"),
    }
    assert (listed["models"], len(listed["earlier_until_ms"])) == ([MODEL], 1)
    header, line = commands.run("keys", "list", "--org", "turn-org").splitlines()
    assert header.split("\t")[0] == "id"
    assert line.split("\t")[:5] == ["turn", "turn-org", "default", "turn", "standard"]
    events = commands.recorded("keys.changed", "turn-org", 2)
    assert [event["context"]["verb"] for event in events] == ["create", "rotate"]
    assert [event["reason"] for event in events] == ["a test", "yearly"]
    stored = (commands.gateway.state / "secrets" / "api_keys.json").read_text()
    books = "".join(file.read_text() for file in (commands.gateway.state / "books").glob("*.jsonl"))
    for text in (first, new):
        assert text not in stored + books
    assert "no key 'turm': there are" in commands.refusal("keys", "revoke", "turm", "--reason", "x")


def test_a_budget_is_adjusted_and_counts_at_once(commands: Commands) -> None:
    text = commands.key("adj-org", "--id", "adj")
    where = ("--org", "adj-org", "--account", "key/adj")
    why = ("--reason", "a test")
    limit = commands.json("budget", "set", *where, "--limit", "tokens=1 per minute", *why)
    assert set(limit) == {"object", "org", "windows"}
    assert set(limit["windows"][0]) == {
        *("account", "measure", "window", "span", "unit", "enforcement", "frozen"),
        *("limit", "used", "held", "remaining", "resets_at_ms"),
    }
    assert commands.chat(text).status_code == 429
    assert "stands at 1" in commands.refusal(
        "budget", "raise", *where, "--limit", "tokens=1 per minute", *why
    )
    commands.run("budget", "raise", *where, "--limit", "tokens=1000 per minute", *why)
    commands.run("budget", "lower", *where, "--limit", "tokens=2 per minute", *why)
    commands.run("budget", "top-up", *where, "--amount", "tokens=5000 per month", *why)
    commands.run("budget", "freeze", *where, *why)
    assert commands.chat(text).status_code == 429
    commands.run("budget", "unfreeze", *where, *why)
    commands.run("budget", "reset", *where, "--window", "tokens per minute", *why)
    assert commands.chat(text).status_code == 200
    shown = commands.json("budget", "show", *where)["windows"]
    assert [(one["window"], one["limit"]) for one in shown] == [("minute", 500_000), ("month", 1_000_005_000)]
    lines = commands.run("budget", "list", "--org", "adj-org").splitlines()
    assert [line.split("\t")[1:3] for line in lines[1:]] == [
        ["org", "tokens per minute"],
        ["org", "tokens per month"],
        ["key/adj", "tokens per minute"],
        ["key/adj", "tokens per month"],
    ]
    events = commands.recorded("budget.adjusted", "adj-org", 7)
    assert [event["verdict"] for event in events] == [
        *("set", "set", "set", "top_up", "freeze", "unfreeze", "reset"),
    ]
    assert {event["reason"] for event in events} == {"a test"}


def test_usage_is_reported_to_operators_and_to_callers(commands: Commands) -> None:
    text = commands.key("use-org", "--id", "use", "--scopes", "usage:org")
    other = commands.key("use-org", "--id", "use2")
    assert [commands.chat(key).status_code for key in (text, other)] == [200, 200]

    def reported() -> dict[str, Any] | None:
        with patient(headers=bearer(text)) as client:
            answer = client.get(f"{commands.gateway.base_url}/usage", params={"by": "key"})
        found: dict[str, Any] = answer.json().get("report", {})
        return found if len(found.get("rows", ())) == 2 else None

    mine = until(reported, "both requests in the projection", seconds=PROJECTED_S)
    assert [row["key"] for row in mine["rows"]] == ["use", "use2"]
    with patient(headers=bearer(other)) as client:
        own = client.get(f"{commands.gateway.base_url}/usage?by=key").json()
    assert [row["key"] for row in own["report"]["rows"]] == ["use2"]
    report = commands.json("usage", "--by", "key", "--org", "use-org")
    assert set(report) == {"object", "org", "from_ms", "to_ms", "by", "rows", "total"}
    assert report["rows"] == mine["rows"]
    header, *lines, total = commands.run("usage", "--by", "team,day", "--org", "use-org").splitlines()
    assert (header.split("\t")[:3], len(lines)) == (["team", "day", "requests"], 1)
    assert total.split("\t")[:3] == ["all", "all", "2"]
    assert "no org in the books 'nobody'" in commands.refusal("usage", "--org", "nobody")
