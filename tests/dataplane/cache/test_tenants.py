"""Two orgs with two users each who ask the same questions in every form: nobody gets what another one was
answered, and neither prompts nor answers are found outside the store."""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Final

import httpx
import pytest

from gateway.contract.ids import KeyId, OrgId, TeamId, Tier, UserId
from gateway.contract.principal import Principal
from gateway.keys.key_file import create_api_key
from tests.dataplane.cache.served import Cached
from tests.harness.api_keys import KNOWN, verdicts
from tests.harness.canary import books, places_of
from tests.harness.gateway import until
from tests.harness.patience import patient

ROUNDS: Final = 3
ASKED: Final = 40
"""Of each caller in each round."""
AT_A_TIME: Final = 4
BEASTS: Final = ("wobbegong", "axolotl", "numbat", "okapi", "pangolin", "quokka", "tarsier", "zorilla")
FORMS: Final = (
    "Where can I find the {}?",
    "where can i find the {}",
    "Hello, where can I find the {}? Thanks!",
)
CANARY: Final = re.compile(r"cnry-[a-z]+-[a-z]+")
NAMED_ONE_IN: Final = 6
"""Questions in which the caller's canary stands."""


@dataclass(kw_only=True)
class Caller:
    """One user of one org. ``entries``: which have answered it."""

    org: str
    user: str
    secret: str = ""
    entries: set[str] = field(default_factory=set)

    @property
    def canary(self) -> str:
        """In all of its answers."""
        return f"cnry-{self.org[-1]}-{self.user}"


@pytest.fixture(scope="module")
def callers(cached: Cached) -> list[Caller]:
    found = [Caller(org=org, user=user) for org in ("walled-a", "walled-b") for user in ("ann", "ben")]
    file = cached.gateway.state / "secrets" / "api_keys.json"
    for caller in found:
        who = Principal(
            org=OrgId(caller.org),
            team=TeamId("t"),
            user=UserId(caller.user),
            key=KeyId(f"k-{caller.org}-{caller.user}"),
            tier=Tier("standard"),
        )
        caller.secret = create_api_key(file, who)
    until(lambda: verdicts(cached.gateway, found[-1].secret) == {KNOWN}, "the keys are known")
    return found


def questions(rng: random.Random, caller: Caller) -> Iterator[str]:
    for _ in range(ASKED):
        text = rng.choice(FORMS).format(rng.choice(BEASTS))
        yield text if rng.randrange(NAMED_ONE_IN) else f"{text} I am {caller.canary}."


def round_of(cached: Cached, caller: Caller, rng: random.Random) -> list[httpx.Response]:
    """Whatever an engine says meanwhile bears the caller's canary."""
    cached.engine.script({"text": f"{caller.canary} says: over there."})
    headers = {"authorization": f"Bearer {caller.secret}"}
    with (
        patient(base_url=cached.gateway.base_url, headers=headers) as client,
        ThreadPoolExecutor(AT_A_TIME) as pool,
    ):

        def ask(text: str) -> httpx.Response:
            body = {
                "model": "smollm2-135m",
                "messages": [{"role": "user", "content": text}],
                "max_tokens": 50,
            }
            return client.post("/chat/completions", json=body)

        return list(pool.map(ask, questions(rng, caller)))


def test_answers_stay_with_those_they_were_made_for(cached: Cached, callers: list[Caller]) -> None:
    rng, kinds = random.Random(17), Counter[str]()
    try:
        for _ in range(ROUNDS):
            for caller in callers:
                for answer in round_of(cached, caller, rng):
                    assert answer.status_code == 200, answer.text
                    assert set(CANARY.findall(answer.text)) == {caller.canary}
                    assert not CANARY.search(str(answer.headers))
                    kinds[answer.headers.get("x-tidegate-cache-kind", "miss")] += 1
                    caller.entries.add(answer.headers.get("x-tidegate-cache-entry", ""))
    finally:
        cached.engine.script()
    assert kinds.total() == ROUNDS * len(callers) * ASKED
    assert kinds["exact"] > kinds.total() // 4 and kinds["canonical"] > 0, kinds
    for number, caller in enumerate(callers):
        for other in callers[:number]:
            assert not (caller.entries & other.entries) - {""}


def test_neither_prompts_nor_answers_are_written_down(cached: Cached, callers: list[Caller]) -> None:
    rng, caller = random.Random(18), callers[0]
    try:
        last = round_of(cached, caller, rng)[-1].headers["x-request-id"]
    finally:
        cached.engine.script()
    until(lambda: last in books(cached.gateway.state), "the last is in the books")
    wanted = {word: word for word in BEASTS} | {caller.canary: caller.canary for caller in callers}
    assert places_of(cached.gateway, {**wanted, "an answer": "says: over there"}) == []
    assert places_of(cached.gateway, {"the request": last}), "the look finds what is there"
