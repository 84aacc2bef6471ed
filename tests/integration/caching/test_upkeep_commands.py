"""``tidegate cache`` on the two real stores of a state directory, without a gateway's other processes."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from ext_proc.cache.entry import Sealer
from ext_proc.cache.redis_store import RedisStore
from ext_proc.cache.store import CachedAnswer, CacheUnavailable, Keys, Lineage, Lookup
from ext_proc.settings import load_secrets
from gateway.budget.redis_ledger import RedisLedger
from gateway.contract.clock import SystemClock
from gateway.contract.ids import OrgId
from mesh.cli import main
from mesh.local.credentials import ensure_credentials
from mesh.local.layout import BASE, Layout, layout_of, prepare
from tests.harness.valkey import StoreProcess, cache_store, ledger_store

CLOCK = SystemClock()
DEMO = OrgId("demo")
ONE, ASKED = "1" * 64, "3" * 64
TRIES = 100
"""Of a look-up, each of 25 ms at most."""


@dataclass
class Operator:
    """Runs commands on a state directory whose gateway is said to run."""

    layout: Layout
    cache: StoreProcess
    capsys: pytest.CaptureFixture[str]

    def run(self, *words: str) -> str:
        self.capsys.readouterr()
        code = main(["cache", *words, "--state", str(self.layout.state)])
        printed = self.capsys.readouterr()
        assert code == 0, printed.err
        return printed.out

    def refusal(self, *words: str) -> str:
        self.capsys.readouterr()
        assert main(["cache", *words, "--state", str(self.layout.state)]) == 1
        line = self.capsys.readouterr().err
        assert line.startswith("tidegate: ") and line.count("\n") == 1
        return line

    def store(self) -> RedisStore:
        sealer = Sealer(load_secrets(self.layout.secrets).entry_key())
        return RedisStore.connect(self.cache.url, sealer, CLOCK)


@pytest.fixture
def operator(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Operator]:
    layout = layout_of(tmp_path / "s")
    prepare(layout)
    shutil.copytree(BASE / "policy", layout.policy, dirs_exist_ok=True)
    ensure_credentials(layout.secrets, CLOCK)
    for module in ("mesh.local.cache_desk", "mesh.local.books"):
        monkeypatch.setattr(f"{module}.running_supervisor", lambda layout: object())
    with ExitStack() as stack:
        cache = stack.enter_context(cache_store())
        for name, store in (("cache", cache), ("ledger", stack.enter_context(ledger_store()))):
            layout.socket(name).symlink_to(store.socket)
        asyncio.run(founded(f"unix://{layout.socket('ledger')}"))
        yield Operator(layout=layout, cache=cache, capsys=capsys)


async def founded(url: str) -> None:
    ledger = RedisLedger.connect(url)
    try:
        await ledger.found_epoch(fresh=True)
    finally:
        await ledger.aclose()


async def looked_up(store: RedisStore, question: str) -> Lookup:
    """Asked again where a busy machine takes longer than a look-up may."""
    for _ in range(TRIES - 1):
        with contextlib.suppress(CacheUnavailable):
            return await store.get(DEMO, Keys(exact=question))
    return await store.get(DEMO, Keys(exact=question))


async def put_and_asked(operator: Operator) -> None:
    """An answer is stored, a question is told to have it as an alias."""
    store = operator.store()
    try:
        epoch = (await looked_up(store, ONE)).epoch
        lineage = Lineage(revision="r1", tags=("faq",), request_id="r-1")
        answer = CachedAnswer(body=b"x", stored_at=CLOCK.unix_ms(), lineage=lineage)
        assert await store.put(DEMO, Keys(exact=ONE), epoch, answer, ttl_seconds=600)
        assert await store.alias(DEMO, ASKED, ONE, ttl_seconds=600)
    finally:
        await store.aclose()


async def answered(operator: Operator, question: str) -> bool:
    store = operator.store()
    try:
        return (await looked_up(store, question)).answer is not None
    finally:
        await store.aclose()


@pytest.mark.parametrize(
    "words",
    [
        ("--tenant", "demo"),
        ("--model-revision", "r1"),
        ("--tag", "faq", "--tenant", "demo"),
        ("--request", "r-1"),
        ("--entry", ONE),
    ],
    ids=" ".join,
)
def test_a_purge_ends_the_answer_and_its_alias(operator: Operator, words: tuple[str, ...]) -> None:
    asyncio.run(put_and_asked(operator))
    operator.run("purge", "--tag", "other", "--reason", "a test")
    assert asyncio.run(answered(operator, ONE)) and asyncio.run(answered(operator, ASKED))
    operator.run("purge", *words, "--reason", "a test")
    assert not asyncio.run(answered(operator, ONE)) and not asyncio.run(answered(operator, ASKED))


def test_what_is_in_force_is_told(operator: Operator) -> None:
    words = ("purge", "--model", "small", "--model-revision", "r1", "--reason", "rolled back", "--json")
    rule = {"model": "small", "model_revision": "r1"}
    assert json.loads(operator.run(*words)) == {
        "object": "cache.purge",
        "rule": rule,
        "rules_in_force": 1,
    }
    shown = json.loads(operator.run("rules", "--json"))
    assert [made["rule"] for made in shown["rules"]] == [rule]
    assert "model small and model_revision r1" in operator.run("rules")


def test_a_barred_pair_is_not_answered_and_the_answer_stays(operator: Operator) -> None:
    asyncio.run(put_and_asked(operator))
    operator.run("bar", "--org", "demo", "--question", ASKED, "--entry", ONE.upper(), "--reason", "wrong")
    assert asyncio.run(answered(operator, ONE)) and not asyncio.run(answered(operator, ASKED))
    operator.run("bar", "--org", "demo", "--question", ONE, "--entry", ONE, "--reason", "wrong")
    assert not asyncio.run(answered(operator, ONE))


def test_a_report_without_a_request_has_all_its_keys(operator: Operator) -> None:
    found = json.loads(operator.run("report", "--json"))
    assert (found["hits"], found["hit_share"], found["buckets"], found["switched_off"]) == ({}, None, [], [])


def test_refusals_are_one_line(operator: Operator) -> None:
    assert "no org 'dmeo': there are demo" in operator.refusal("purge", "--tenant", "dmeo", "--reason", "x")
    with pytest.raises(SystemExit):
        main(["cache", "purge", "--reason", "x"])
    assert operator.capsys.readouterr().err.startswith("tidegate: nothing to purge is named")
    operator.cache.kill()
    assert "the cache does not answer" in operator.refusal("rules")
    operator.layout.learnt.mkdir()
    (operator.layout.learnt / "truth.json").write_text("[]")
    operator.cache.start()
    assert "truth.json is damaged" in operator.refusal("report")
