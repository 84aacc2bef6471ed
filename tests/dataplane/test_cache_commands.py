"""``tidegate cache`` on a running gateway: what is explained is what happens, it costs nothing, and a purge
or a client's word ends what was stored. With keys of its own."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from mesh.cli import main
from tests.dataplane.cache.served import LATE, LOOKS
from tests.harness.api_keys import KNOWN, verdicts
from tests.harness.gateway import Gateway, request_body, until
from tests.harness.patience import patient


@dataclass(frozen=True)
class Stored:
    """``asked``: the answer that was stored, or found to be. ``found``: the explanation that finds it."""

    asked: httpx.Response
    found: dict[str, Any]


@dataclass
class Desk:
    """An operator with a key, on one gateway."""

    gateway: Gateway
    capsys: pytest.CaptureFixture[str]
    directory: Path
    key: str = ""

    def json(self, *words: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.run(*words, "--json"))
        return found

    def run(self, *words: str) -> str:
        self.capsys.readouterr()
        code = main([*words, "--state", str(self.gateway.state)])
        printed = self.capsys.readouterr()
        assert code == 0, printed.err
        return printed.out

    def new_key(self, name: str) -> str:
        """A user's own, known to every worker."""
        words = ("--org", "cached", "--id", name, "--reason", "a test")
        text = self.run("keys", "create", *words).strip()
        until(lambda: verdicts(self.gateway, text) == {KNOWN}, "the new key works on every worker")
        (self.directory / name).write_text(text)
        return name

    def ask(self, key: str, body: dict[str, Any], **headers: str) -> httpx.Response:
        """An answer that says of the cache what is so: on a busy machine it may have been too late."""
        text = (self.directory / key).read_text()
        sent = {"authorization": f"Bearer {text}", **headers}
        url = f"{self.gateway.base_url}/chat/completions"

        def send() -> httpx.Response | None:
            with patient(headers=sent) as client:
                answer = client.post(url, json=body)
            assert answer.status_code == 200, answer.text
            return None if answer.headers.get("x-tidegate-cache-reason") in LATE else answer

        return until(send, "an answer")

    def explained(self, key: str, body: dict[str, Any]) -> dict[str, Any]:
        file = self.directory / "request.json"
        file.write_text(json.dumps(body))
        words = ("cache", "explain", str(file), "--api-key-file", str(self.directory / key))

        def explain() -> dict[str, Any] | None:
            found = self.json(*words)
            return None if found["code"] in LATE else found

        return until(explain, "an explanation")

    def until_stored(self, key: str, body: dict[str, Any]) -> Stored:
        """Ask until the answer is stored; what a late look-up or write costs is asked for again."""

        def look() -> Stored | None:
            asked = self.ask(key, body)
            found = self.explained(key, body)
            for _ in range(LOOKS):
                if found["hit"]:
                    break
                time.sleep(0.05)
                found = self.explained(key, body)
            return Stored(asked, found) if found["hit"] else None

        return until(look, "the answer is stored")

    def until_miss(self, key: str, body: dict[str, Any]) -> None:
        """On both workers, which take turns."""

        def missed() -> bool:
            return not any(self.explained(key, body)["hit"] for _ in range(4))

        until(missed, "nobody answers with it any more")

    def used(self) -> list[int]:
        windows = self.json("budget", "show", "--org", "cached")["windows"]
        return [window["used"] for window in windows]


@pytest.fixture
def desk(gateway: Gateway, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Desk:
    return Desk(gateway, capsys, tmp_path)


def question(text: str, **more: Any) -> dict[str, Any]:
    # As many tokens as the twin ever says: an answer that was cut is not stored.
    return request_body(text, temperature=0, max_tokens=100, **more)


def test_what_is_explained_is_what_happens_and_costs_nothing(desk: Desk) -> None:
    key, stranger = desk.new_key("cx-explain"), desk.new_key("cx-stranger")
    body = question("What does a lighthouse keeper do?")
    missed = desk.explained(key, body)
    assert (missed["hit"], missed["code"]) == (False, "absent")
    assert [step["name"] for step in missed["steps"]] == ["similarity", "keys"]
    stored = desk.until_stored(key, body)
    said = (stored.asked.headers["x-tidegate-cache"], stored.asked.headers["x-tidegate-cache-reason"])
    assert said == ("miss", "absent")
    found = stored.found
    used = desk.used()
    again = desk.ask(key, {**body, "stream": False})
    assert (again.headers["x-tidegate-cache-kind"], again.headers["x-tidegate-cache-entry"]) == (
        found["code"],
        found["entry"],
    )
    assert found["question"] == found["entry"], "an exact hit answers the very question"
    assert desk.explained(stranger, body)["code"] == "absent", "answers are shared by user, unless told else"
    assert desk.used() == used
    assert desk.json("cache", "report")["hits"]["exact"] >= 1


def test_a_purge_by_request_or_tag_ends_the_answer_and_is_in_the_books(desk: Desk) -> None:
    key = desk.new_key("cx-purge")
    bodies = [question("Who mends nets?", metadata={"cache_tags": "cx-nets"}), question("Who mends sails?")]
    ids = [desk.until_stored(key, body).asked.headers["x-request-id"] for body in bodies]
    desk.run("cache", "purge", "--tag", "cx-nets", "--tenant", "cached", "--reason", "nets are out")
    desk.until_miss(key, bodies[0])
    assert desk.explained(key, bodies[1])["hit"]
    desk.run("cache", "purge", "--request", ids[1], "--reason", "sails are out", "--actor", "olga")
    desk.until_miss(key, bodies[1])
    rules = [made["rule"] for made in desk.json("cache", "rules")["rules"]]
    assert {"tenant": "cached", "tag": "cx-nets"} in rules and {"request": ids[1]} in rules

    def noted() -> bool:
        found = [event for event in desk.gateway.events() if event["type"] == "cache.purged"]
        return any(
            (event["org"], event["reason"], event["context"].get("cache_request"), event["context"]["actor"])
            == ("cached", "sails are out", ids[1], "olga")
            for event in found
        )

    until(noted, "the purge is in the books")


def test_a_barred_answer_and_one_that_a_client_calls_wrong_are_gone(desk: Desk) -> None:
    key = desk.new_key("cx-bar")
    body = question("How deep is the harbour?")
    found = desk.until_stored(key, body).found
    pair = ("--question", found["question"], "--entry", found["entry"])
    desk.run("cache", "bar", "--org", "cached", *pair, "--reason", "wrong")
    desk.until_miss(key, body)
    entry = desk.until_stored(key, body).found["entry"]
    said = desk.ask(key, body, **{"x-tidegate-cache-feedback": f'wrong; entry="{entry}"'})
    assert said.headers["x-tidegate-cache"] != "hit"


def test_who_may_not_ask_is_told_so(desk: Desk) -> None:
    (desk.directory / "none").write_text("tg-none-" + "x" * 40)
    (desk.directory / "request.json").write_text(json.dumps(question("hi")))
    words = ["cache", "explain", str(desk.directory / "request.json")]
    words += ["--api-key-file", str(desk.directory / "none"), "--state", str(desk.gateway.state)]
    desk.capsys.readouterr()
    assert main(words) == 1
    line = desk.capsys.readouterr().err
    assert line.startswith("tidegate: the gateway answered 401 invalid_api_key: ") and line.count("\n") == 1
