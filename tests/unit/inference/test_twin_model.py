"""The twin's pure parts: words and counts, prefix cache, request reading, script."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.twin import words
from inference.twin.errors import EngineError, parsed
from inference.twin.http import BadHttp, dechunked, parsed_head
from inference.twin.prefixes import PrefixCache
from inference.twin.prompt import Prompt, chat_prompt, keyed
from inference.twin.request import LOWEST_PRIORITY, job
from inference.twin.script import NO_FAULT, BadScript, Script, rules

CHAT = "/v1/chat/completions"
STOPS = st.lists(st.text("abet .", min_size=1, max_size=3), max_size=2)


@given(identity=st.binary(), limit=st.integers(0, 90), endless=st.booleans(), stop=STOPS)
def test_a_plan_is_repeatable_bounded_and_shows_its_tokens(
    identity: bytes, limit: int, endless: bool, stop: list[str]
) -> None:
    def planned() -> words.Plan:
        return words.plan(identity, natural=(8, 64), max_tokens=limit, stop=stop, endless=endless)

    plan = planned()
    assert plan == planned()
    assert len(plan.tokens) == len(plan.pieces) <= limit
    assert "".join(plan.tokens).startswith(plan.text)
    assert not any(text in plan.text for text in stop)
    if plan.matched in stop:
        assert plan.finish == "stop"
    else:
        assert plan.text == "".join(plan.tokens)
    if endless and not stop:
        assert (len(plan.tokens), plan.finish) == (limit, "length")


def test_counts_follow_the_stated_rule() -> None:
    assert Prompt(keyed(b"")).tokens == 0
    assert Prompt(keyed(b"abcde")).tokens == len(Prompt(keyed(b"abcde")).ids()) == 2
    messages = [{"role": "system", "content": "abcd"}, {"role": "user", "content": "abcde"}]
    assert chat_prompt(messages, ()).tokens == 4 + 1 + 4 + 2 + 3
    assert chat_prompt(messages, ["1234567"]).tokens == 4 + 1 + 4 + 2 + 3 + 4 + 3


def test_the_next_turn_begins_with_the_last_ones_answer() -> None:
    turn = [{"role": "user", "content": "hi"}]
    answered = chat_prompt(turn, ()).continued("hello there")
    longer = chat_prompt(
        [*turn, {"role": "assistant", "content": "hello there"}, {"role": "user", "content": "more"}], ()
    )
    assert longer.key.startswith(answered)
    assert Prompt(keyed(b"Once"), "Once").continued(" upon") == keyed(b"Once upon")


KEYS = st.lists(st.sampled_from([b"aaaa", b"bbbb", b"cccc"]), min_size=1, max_size=40).map(b"".join)


@given(st.lists(st.tuples(KEYS, st.sampled_from(["", "salt"])), max_size=8))
def test_as_many_tokens_are_cached_as_a_known_prompt_begins_with(asked: list[tuple[bytes, str]]) -> None:
    cache = PrefixCache()
    for place, (key, salt) in enumerate(asked):
        known = [one for one, other in asked[:place] if other == salt]
        longest = max((_shared_tokens(key, one) for one in known), default=0)
        assert cache.admit(key, salt) == min(longest, len(key) // 4 - 1)


def _shared_tokens(one: bytes, other: bytes) -> int:
    count = 0
    while len(one) > 4 * count < len(other) and one[: 4 * count + 4] == other[: 4 * count + 4]:
        count += 1
    return count


def test_prefixes_forget_the_oldest() -> None:
    cache = PrefixCache(blocks_max=4)
    cache.admit(b"a" * 32, "")
    for number in range(4):
        cache.admit(bytes([number]) * 32, "")
    assert len(cache) == 4
    assert cache.admit(b"a" * 32, "") == 0


def chat(**fields: Any) -> dict[str, Any]:
    return {"model": "m", "messages": [{"role": "user", "content": "hello"}], **fields}


def test_a_job_has_what_the_body_asks() -> None:
    asked = job(
        CHAT,
        chat(rid="r", n=2, max_tokens=9, stop="x", stream=True, stream_options={"include_usage": True}),
        context=100,
    )
    assert (asked.rid, asked.n, asked.max_tokens, asked.stop) == ("r", 2, 9, ("x",))
    assert (asked.stream, asked.include_usage, asked.continuous_usage) == (True, True, False)
    assert asked.priority == LOWEST_PRIORITY
    assert asked.prompt_tokens == (4 + 2 + 3,)


def test_defaults_of_length() -> None:
    assert job(CHAT, chat(), context=100).max_tokens == 100 - 9
    assert job("/v1/completions", {"prompt": "hello"}, context=100).max_tokens == 16
    assert job(CHAT, chat(max_tokens=5, max_completion_tokens=7), context=100).max_tokens == 7


@pytest.mark.parametrize(
    ("fields", "words_"),
    [
        ({"messages": []}, "cannot be empty"),
        ({"max_tokens": -1}, "at least 0"),
        ({"max_tokens": 1000}, "maximum context length"),
        ({"temperature": -1}, "non-negative"),
        ({"top_p": 0}, "top_p"),
        ({"model": "m:adapter"}, "LoRA"),
        ({"priority": "high"}, "int_parsing"),
        ({"n": 0}, "range()"),
    ],
)
def test_wrong_values_are_refused_in_the_engines_words(fields: dict[str, Any], words_: str) -> None:
    with pytest.raises(EngineError) as refused:
        job(CHAT, chat(**fields), context=100)
    assert words_ in refused.value.message
    assert refused.value.status == 400


@given(st.binary())
def test_any_body_is_an_object_or_an_engine_error(body: bytes) -> None:
    try:
        document = parsed(CHAT, body)
    except EngineError:
        return
    assert isinstance(document, dict)


def test_a_script_counts_and_matches() -> None:
    [rule, other] = rules([{"contains": "a", "skip": 1, "times": 2, "status": 503}, {"stream": True}])
    script = Script([rule, other])

    def chosen(text: str, stream: bool = False) -> object:
        return script.choose(path=CHAT, model="m", stream=stream, text=text)

    assert [chosen("a") for _ in range(5)] == [NO_FAULT, rule, rule, NO_FAULT, NO_FAULT]
    assert chosen("b") is NO_FAULT
    assert chosen("b", stream=True) is other


@pytest.mark.parametrize("bad", [{}, ["x"], [{"statsu": 1}], [{"usage": "gone"}]])
def test_bad_scripts_are_named(bad: object) -> None:
    with pytest.raises(BadScript):
        rules(bad)


def test_heads() -> None:
    method, path, query, headers = parsed_head(b"GET /x?y=1 HTTP/1.1\r\nHost: a\r\nA:  b ")
    assert (method, path, query, headers) == ("GET", "/x", "y=1", {"host": "a", "a": "b"})
    for bad in (
        b"GET /x",
        b"GET /x HTTP/2",
        b"GET / HTTP/1.1\r\nnocolon",
        b"GET / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2",
        b"GET / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked",
    ):
        with pytest.raises(BadHttp):
            parsed_head(bad)


@given(parts=st.lists(st.binary(min_size=1, max_size=20), max_size=5), cut=st.integers(0, 200))
def test_chunks_come_whole_or_not_at_all(parts: list[bytes], cut: int) -> None:
    wire = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"
    assert dechunked(bytearray(wire + b"next")) == (b"".join(parts), len(wire))
    if cut < len(wire):
        assert dechunked(bytearray(wire[:cut])) is None
