"""The recaller with an embedder that is told when to answer: one embedding for one text, questions wait for
their answer, nothing waits beyond the deadline."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from dataclasses import replace

import numpy as np
import pytest

from ext_proc.cache.policy import Profile
from ext_proc.cache.question import Comparison, Level
from ext_proc.cache.store import Lineage
from ext_proc.recall import pending, recaller
from ext_proc.recall.index import Index
from ext_proc.recall.pending import PendingQuestions
from ext_proc.recall.recaller import Recaller
from ext_proc.recall.truth import State
from ext_proc.recall.words import Ask, Forget, NearMiss, RecallUnavailable, Remember, Reply, Served
from gateway.contract.clock import ManualClock
from gateway.contract.ids import ModelName, OrgId
from gateway.contract.units import UnixMillis
from inference.embedders.embedder import EmbedderUnavailable, NotEmbedded, Overloaded, TooLong, Vector

PARTITION = "a" * 64
QUESTION = "How do I reset my password?"
SAME = "how do I reset my password"


class ToyEmbedder:
    """A vector for each word's letters; ``gate`` holds answers back, ``fails`` replaces them."""

    identity, dimensions, tokens_max = "toy:0", 26, 64
    languages = frozenset({"en"})

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.fails: NotEmbedded | None = None
        self.wanted, self.reached = 1, asyncio.Event()
        self.cancelled = 0

    async def embed(self, text: str) -> Vector:
        self.texts.append(text)
        if len(self.texts) >= self.wanted:
            self.reached.set()
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if self.fails is not None:
            raise self.fails
        letters = np.array([1 + text.lower().count(chr(97 + number)) for number in range(26)], np.float32)
        return letters / np.linalg.norm(letters)

    async def close(self) -> None:
        """Nothing is held."""


def ask(text: str = QUESTION, number: int = 1, profile: Profile = Profile.STRICT, org: str = "acme") -> Ask:
    return Ask(
        org=OrgId(org),
        model=ModelName("chat"),
        partition=PARTITION,
        asked=f"{number:064x}",
        text=text,
        profile=profile,
        keep_s=60,
    )


def remember(number: int = 1) -> Remember:
    return Remember(
        org=OrgId("acme"),
        partition=PARTITION,
        entry=f"{number:064x}",
        expires_at=UnixMillis(ManualClock().now_ms + 1000),
        lineage=Lineage(),
    )


@pytest.fixture
def embedder() -> ToyEmbedder:
    return ToyEmbedder()


@pytest.fixture
async def made(embedder: ToyEmbedder) -> AsyncIterator[Recaller]:
    made = Recaller(embedder, Index(embedder.dimensions), ManualClock(), deadline_s=5)
    yield made
    await made.aclose()


async def test_an_answer_that_is_stored_makes_its_question_found(made: Recaller) -> None:
    assert (await made.find(ask())).reason == "no_candidate"
    assert (await made.find(ask(SAME, 2))).reason == "no_candidate"
    await made.remember(remember())
    assert [candidate.entry for candidate in (await made.find(ask(SAME, 2))).candidates] == [f"{1:064x}"]
    await made.forget(Forget(org=OrgId("acme"), entry=f"{1:064x}"))
    assert (await made.find(ask(SAME, 2))).reason == "no_candidate"
    await made.remember(remember(3))
    assert (await made.find(ask(SAME, 2))).reason == "no_candidate"


async def test_a_question_that_is_only_expected_is_found_once_its_answer_is_stored(
    made: Recaller, embedder: ToyEmbedder
) -> None:
    await made.expect(ask())
    assert embedder.texts == [], "nobody waits for it yet"
    await made.remember(remember())
    assert [candidate.entry for candidate in (await made.find(ask(SAME, 2))).candidates] == [f"{1:064x}"]
    await made.expect(ask(SAME, 2))
    await made.remember(remember(2))
    assert embedder.texts == [QUESTION, SAME], "the vector of a question just asked is kept"
    for never in (ask("x" * 3000, 3), ask(QUESTION, 3, Profile.OFF)):
        await made.expect(never)
        await made.remember(remember(3))
    assert len(embedder.texts) == 2
    await made.expect(ask("Wie kann ich mein Passwort zurücksetzen, wenn ich es vergessen habe?", 3))
    await made.remember(remember(3))
    assert len(embedder.texts) == 2, "nor one of a language that the embedder has not learnt"


async def test_a_question_of_another_partition_is_not_remembered(made: Recaller) -> None:
    await made.find(ask())
    await made.remember(replace(remember(), partition="b" * 64))
    for partition in (PARTITION, "b" * 64):
        assert (await made.find(replace(ask(SAME, 2), partition=partition))).reason == "no_candidate"


async def test_the_same_text_is_embedded_once_for_all_who_wait(made: Recaller, embedder: ToyEmbedder) -> None:
    embedder.gate.clear()
    asking = [asyncio.create_task(made.find(ask(QUESTION, number))) for number in range(5)]
    await embedder.reached.wait()
    embedder.gate.set()
    assert {reply.reason for reply in await asyncio.gather(*asking)} == {"no_candidate"}
    assert embedder.texts == [QUESTION]


async def test_a_late_question_is_refused_and_still_remembered(embedder: ToyEmbedder) -> None:
    made = Recaller(embedder, Index(embedder.dimensions), ManualClock(), deadline_s=0.01)
    embedder.gate.clear()
    with pytest.raises(RecallUnavailable, match="late"):
        await made.find(ask())
    embedder.gate.set()
    await made.remember(remember())
    assert embedder.texts == [QUESTION, QUESTION]
    patient = await _patient(made, ask(SAME, 2))
    assert len(patient.candidates) == 1
    await made.aclose()


async def _patient(made: Recaller, asked: Ask) -> Reply:
    made._deadline_s = 5
    return await made.find(asked)


async def test_no_queue_grows_beyond_its_bound(made: Recaller, embedder: ToyEmbedder) -> None:
    embedder.gate.clear()
    embedder.wanted = own = recaller.EMBEDDINGS_MAX - 1
    asking = [
        asyncio.create_task(made.find(ask(f"Question {number % own}?", number)))
        for number in range(recaller.FINDS_MAX - 2)
    ]
    await embedder.reached.wait()
    with pytest.raises(RecallUnavailable, match="full"):
        await made.find(ask("Another text?", 9999))
    asking.append(asyncio.create_task(made.find(ask("What others ask?", 9997, org="other"))))
    await asyncio.sleep(0)
    with pytest.raises(RecallUnavailable, match="full"):
        await made.find(ask("Another text?", 9999))
    asking.append(asyncio.create_task(made.find(ask("Question 1?", 9998))))
    await asyncio.sleep(0)
    with pytest.raises(RecallUnavailable, match="full"):
        await made.find(ask("Question 1?", 9999))
    embedder.gate.set()
    assert {reply.reason for reply in await asyncio.gather(*asking)} == {"no_candidate"}
    assert len(embedder.texts) == recaller.EMBEDDINGS_MAX
    assert (await made.find(ask("Another text?", 9999))).reason == "no_candidate"


async def test_late_answers_leave_fewer_in_and_those_in_time_more(embedder: ToyEmbedder) -> None:
    made = Recaller(embedder, Index(embedder.dimensions), ManualClock(), deadline_s=0.01)
    embedder.gate.clear()
    for _ in range(30):
        with pytest.raises(RecallUnavailable, match="late"):
            await made.find(ask())
    embedder.texts.clear()
    refused = await asyncio.gather(
        *(made.find(ask(f"Question {number}?", number)) for number in range(8)), return_exceptions=True
    )
    assert sorted(str(error) for error in refused) == ["full"] * 6 + ["late"] * 2
    embedder.gate.set()
    made._deadline_s = 5
    for number in range(100):
        await made.find(ask(f"Question {number}?", number))
    replies = await asyncio.gather(*(made.find(ask(f"Question {number}?", number)) for number in range(7)))
    assert len(replies) == 7
    await made.aclose()


async def test_what_nobody_waits_for_is_not_embedded(made: Recaller, embedder: ToyEmbedder) -> None:
    embedder.gate.clear()
    asking = [asyncio.create_task(made.find(ask(number=number))) for number in range(2)]
    await embedder.reached.wait()
    asking[0].cancel()
    await asyncio.wait(asking[:1])
    assert embedder.cancelled == 0
    asking[1].cancel()
    await asyncio.wait(asking)
    await asyncio.sleep(0)
    assert embedder.cancelled == 1


@pytest.mark.parametrize(
    ("failure", "code"), [(Overloaded("full"), "full"), (EmbedderUnavailable("gone"), "down")]
)
async def test_an_embedder_that_fails_is_no_answer(
    made: Recaller, embedder: ToyEmbedder, failure: NotEmbedded, code: str
) -> None:
    embedder.fails = failure
    with pytest.raises(RecallUnavailable, match=code):
        await made.find(ask())
    await made.remember(remember())
    embedder.fails = None
    assert (await made.find(ask(SAME, 2))).reason == "no_candidate"


async def test_what_is_never_embedded(made: Recaller, embedder: ToyEmbedder) -> None:
    assert (await made.find(ask("x" * 5000))).reason == "too_long"
    assert (await made.find(ask("é" * 1500))).reason == "too_long"
    assert (await made.find(ask(profile=Profile.OFF))).reason == "off"
    assert embedder.texts == []
    embedder.fails = TooLong("64")
    assert (await made.find(ask())).reason == "too_long"
    embedder.languages = frozenset({"tlh"})
    assert (await made.find(ask())).reason == "language"


async def test_near_misses_and_drawn_hits_are_handed_over(
    embedder: ToyEmbedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    near_always = Comparison(level=Level.NEAR, guard=None)
    monkeypatch.setattr(recaller, "compare", lambda asked, stored: near_always)
    near: list[NearMiss] = []
    served: list[Served] = []
    index = Index(embedder.dimensions)
    made = Recaller(
        embedder, index, ManualClock(), on_near_miss=near.append, on_served=served.append, deadline_s=5
    )
    await made.find(ask("How do I renew my passport?"))
    await made.remember(remember())
    asked = ask("How do I renew my password?", 2, Profile.VERIFIED)
    reply = await made.find(asked)
    assert reply.reason == "near"
    assert reply.candidates == ()
    (miss,) = near
    assert (miss.ask, miss.entry) == (asked, f"{1:064x}")
    assert miss.stored_text == "How do I renew my passport?"
    drawn = Served(
        org=OrgId("acme"),
        model=ModelName("chat"),
        bucket="b",
        asked="a" * 64,
        entry="b" * 64,
        request=b"{}",
        answer=b"{}",
    )
    await made.served(drawn)
    assert served == [drawn]
    await made.aclose()


async def test_a_bucket_that_is_off_is_asked_off_the_event_loop(embedder: ToyEmbedder) -> None:
    asked_in: list[str] = []

    class Off:
        def state(self, bucket: str, slo: float) -> State:
            asked_in.append(threading.current_thread().name)
            return State.OFF if bucket.startswith("acme/chat/canonical/") else State.ON

        def share(self, bucket: str, slo: float, usual: float) -> float:
            return usual

    made = Recaller(embedder, Index(embedder.dimensions), ManualClock(), trust=Off(), deadline_s=5)
    await made.find(ask())
    await made.remember(remember())
    assert (await made.find(ask(SAME, 2))).reason == "bucket_off"
    assert all(name.startswith("recall-search") for name in asked_in)
    await made.drop(lambda org, entry, lineage: False)
    assert (await made.find(ask(SAME, 2))).reason == "no_candidate"
    await made.aclose()


async def test_pending_questions_end_by_time_and_by_number() -> None:
    clock = ManualClock()
    kept = PendingQuestions(clock, pending_max=3)
    for number in range(4):
        kept.keep(ask(number=number))
    assert len(kept) == 3
    assert kept.take(OrgId("acme"), PARTITION, f"{0:064x}") is None
    assert kept.take(OrgId("other"), PARTITION, f"{1:064x}") is None
    found = kept.take(OrgId("acme"), PARTITION, f"{1:064x}")
    assert found is not None
    assert found.text == QUESTION
    assert kept.take(OrgId("acme"), PARTITION, f"{1:064x}") is None
    clock.advance_ms(60_001)
    assert kept.take(OrgId("acme"), PARTITION, f"{2:064x}") is None
    kept.keep(replace(ask(number=7), keep_s=10**9))
    clock.advance_ms(pending.KEEP_S_MAX * 1000 + 1)
    assert kept.take(OrgId("acme"), PARTITION, f"{7:064x}") is None
