"""Messages: the order of calls and answers, and the form in which the engine gets them."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.contract.errors import InvalidRequest
from gateway.openai.terms import Capabilities
from tests.unit.openai.asking import CALL, HELLO, TOOL, Terms, chat, complete, engine, tokenize

CALLS = {"role": "assistant", "tool_calls": [CALL, {**CALL, "id": "c2"}]}
ONE = {"role": "tool", "tool_call_id": "c1", "content": "1"}
TWO = {"role": "tool", "tool_call_id": "c2", "content": "2"}


def sent(*messages: dict[str, Any], terms: Terms | None = None) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = engine(chat(terms, messages=list(messages)))["messages"]
    return found


def test_answers_follow_their_calls_in_any_order() -> None:
    assert len(sent(HELLO, CALLS, TWO, ONE, HELLO)) == 5


@pytest.mark.parametrize(
    ("messages", "param"),
    [
        ([HELLO, ONE], "messages[1].tool_call_id"),
        ([CALLS, ONE, ONE, TWO], "messages[2].tool_call_id"),
        ([CALLS, ONE, TWO, HELLO, ONE], "messages[4].tool_call_id"),
        ([CALLS, {**ONE, "tool_call_id": "other"}, TWO], "messages[1].tool_call_id"),
        ([CALLS, ONE, HELLO], "messages"),
        ([CALLS, ONE], "messages"),
        ([CALLS], "messages"),
    ],
)
def test_answers_without_calls_and_calls_without_answers(messages: list[Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        chat(messages=messages)
    assert caught.value.param == param


@pytest.mark.parametrize(
    ("said", "content"),
    [
        ({"content": None, "refusal": "no"}, "no"),
        (
            {"content": "yes", "refusal": "no"},
            [{"type": "text", "text": "yes"}, {"type": "text", "text": "no"}],
        ),
        ({"content": [{"type": "refusal", "refusal": "no"}]}, [{"type": "text", "text": "no"}]),
        ({"content": ""}, ""),
    ],
)
def test_refusals_become_text(said: dict[str, Any], content: Any) -> None:
    assert sent({"role": "assistant", **said}) == [{"role": "assistant", "content": content}]


def test_an_answer_of_an_sdk_can_be_sent_back_as_it_came() -> None:
    answer = {
        "role": "assistant",
        "content": None,
        "refusal": None,
        "annotations": [],
        "audio": None,
        "function_call": None,
        "reasoning_content": None,
        "tool_calls": [{**CALL, "index": 0, "function": {"name": "add", "arguments": ""}}],
    }
    call = {**CALL, "function": {"name": "add", "arguments": "{}"}}
    assert sent(answer, ONE)[0] == {"role": "assistant", "tool_calls": [call]}


def test_thoughts_have_one_name() -> None:
    thought = {"role": "assistant", "content": "4", "reasoning": "2+2"}
    assert sent(thought) == [{"role": "assistant", "content": "4", "reasoning_content": "2+2"}]
    with pytest.raises(InvalidRequest) as caught:
        chat(messages=[{**thought, "reasoning_content": "3+1"}])
    assert caught.value.param == "messages[0].reasoning"


def test_a_developer_speaks_as_system_unless_the_template_knows_the_role() -> None:
    said = {"role": "developer", "content": "be brief"}
    assert sent(said)[0]["role"] == "system"
    assert engine(tokenize(messages=[said]))["messages"][0]["role"] == "system"
    assert sent(said, terms=Terms(capabilities=Capabilities(developer_role=True)))[0]["role"] == "developer"
    assert chat(messages=[said]).cache_fields() == chat(messages=[{**said, "role": "system"}]).cache_fields()


@pytest.mark.parametrize("text", ["[1]", "1", "{", "nothing", '"x"', "{}" * 2])
def test_arguments_must_be_the_text_of_an_object(text: str) -> None:
    call = {**CALL, "function": {"name": "add", "arguments": text}}
    with pytest.raises(InvalidRequest) as caught:
        chat(messages=[{"role": "assistant", "tool_calls": [call]}, ONE])
    assert caught.value.param == "messages[0].tool_calls[0].function.arguments"


@pytest.mark.parametrize("name", ["two words", "a<b", "", "a" * 65, "a/b"])
def test_names_are_of_openais_pattern(name: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        chat(messages=[{**HELLO, "name": name}])
    assert caught.value.param == "messages[0].name"
    assert sent({**HELLO, "name": "Zoë.O'Neil"})[0]["name"] == "Zoë.O'Neil"


FORM = {"type": "json_schema", "json_schema": {"name": "s", "schema": {"type": "object"}}}


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"response_format": FORM, "regex": "a"}, "regex"),
        ({"regex": "a", "ebnf": "b"}, "ebnf"),
        ({"response_format": FORM, "tools": [TOOL]}, "response_format"),
        ({"regex": "a", "tools": [TOOL], "tool_choice": "required"}, "regex"),
        ({"min_tokens": 6, "max_tokens": 5}, "min_tokens"),
        ({"top_k": 0}, "top_k"),
        ({"continue_final_message": True}, "continue_final_message"),
        (
            {"stream": True, "stream_options": {"include_obfuscation": True}},
            "stream_options.include_obfuscation",
        ),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "s"}}},
            "response_format.json_schema.schema",
        ),
        ({"tools": [{"type": "custom", "custom": {"name": "a"}}]}, "tools[0].type"),
        ({"tools": [TOOL], "tool_choice": {"type": "allowed_tools"}}, "tool_choice.type"),
        ({"logit_bias": {"07": 1}}, "logit_bias"),
        ({"reasoning_effort": "huge"}, "reasoning_effort"),
        ({"reasoning_effort": 1.5}, "reasoning_effort"),
        ({"safety_identifier": "a" * 129}, "safety_identifier"),
    ],
)
def test_what_cannot_be_together(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        chat(**fields)
    assert caught.value.param == param


def test_what_can_be_together() -> None:
    assert engine(chat(response_format=FORM, tools=[TOOL], tool_choice="none"))["response_format"] == FORM
    continued = chat(messages=[HELLO, {"role": "assistant", "content": "a"}], continue_final_message=True)
    assert engine(continued)["continue_final_message"]
    loose = chat(response_format={"type": "text"}, tools=[TOOL], stop=[], reasoning_effort=0.5)
    assert (engine(loose)["stop"], engine(loose)["reasoning_effort"]) == ([], 0.5)
    plain = chat(stream=True, stream_options={"include_obfuscation": False})
    assert engine(plain)["stream_options"] == {"include_usage": True, "continuous_usage_stats": True}


def test_a_suffix_where_the_model_has_a_template_for_it() -> None:
    assert engine(complete(suffix="after"))["suffix"] == "after"
    assert engine(complete())["suffix"] == ""
    plain = Terms(capabilities=Capabilities())
    assert "suffix" not in engine(complete(plain, suffix=""))
    with pytest.raises(InvalidRequest) as caught:
        complete(plain, suffix="after")
    assert caught.value.param == "suffix"
