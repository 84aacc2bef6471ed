"""What is never kept: answers with personal data or secrets, cut ones; and no question with personal data."""

from __future__ import annotations

import pytest

from tests.dataplane.cache.served import Cached


@pytest.mark.parametrize(
    "said",
    [
        "Write to jane.roe@garden-club.org for that.",
        "Use the key AKIAIOSFODNN7EXAMPLE for it.",
    ],
    ids=["email", "secret"],
)
def test_an_answer_with_personal_data_is_not_kept(cached: Cached, said: str) -> None:
    question = f"Whom does club {len(said)} name?"
    cached.engine.script({"contains": question, "text": said})
    for stream in (False, True):
        answer = cached.ask(question, stream=stream)
        assert (answer.status, answer.cache.split()[0]) == (200, "miss")
    cached.kept(f"Whom does society {len(said)} name?")
    assert cached.peek(question).status == 504


def test_a_truncated_answer_is_not_kept(cached: Cached) -> None:
    cached.engine.script({"contains": "long tale", "length": 50}, {"contains": "short tale", "length": 3})
    for stream in (False, True):
        answer = cached.ask("Is there a long tale of Ulm?", max_tokens=5, stream=stream)
        assert '"finish_reason":"length"' in answer.text.replace('": "', '":"')
    cached.kept("Is there a short tale of Ulm?", max_tokens=5)
    assert cached.peek("Is there a long tale of Ulm?", max_tokens=5).status == 504


def test_a_question_with_personal_data_is_repeated_but_not_compared(cached: Cached) -> None:
    question = "Is jane.roe@garden-club.org a valid address?"
    cached.kept(question)
    said = cached.peek(f"please tell me: {question}")
    assert said.cache == "miss absent"
    assert "similar=personal_data" in said.headers["x-tidegate-cache-trace"]
    assert "recall=" not in said.headers["x-tidegate-cache-trace"]
