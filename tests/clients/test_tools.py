"""Tool calls by the official Python client: asked for, streamed, answered."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI, OpenAI
from pydantic import BaseModel

from tests.clients.served import PLAIN_MODEL, ask

WEATHER: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Weather of a city.",
        "strict": True,
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}
SCHEMA: dict[str, Any] = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}}}
QUESTION = "What is the weather in Paris?"


def asked(question: str = QUESTION, **more: Any) -> dict[str, Any]:
    """A question whose answer must be a call of WEATHER."""
    forced: dict[str, Any] = {"type": "function", "function": {"name": "get_weather"}}
    tools = {"tools": [WEATHER], "tool_choice": forced, "temperature": 0}
    return {**ask(question, max_tokens=100), **tools, **more}


def test_a_tool_is_called_and_its_result_is_answered(either: OpenAI) -> None:
    first = either.chat.completions.create(**asked())
    [call] = first.choices[0].message.tool_calls or []
    assert first.choices[0].finish_reason in ("tool_calls", "stop")
    assert call.type == "function"
    assert call.id
    assert call.function.name == "get_weather"
    assert set(json.loads(call.function.arguments)) == {"city"}
    messages: list[Any] = [
        {"role": "user", "content": QUESTION},
        first.choices[0].message.model_dump(exclude_none=True),
        {"role": "tool", "tool_call_id": call.id, "content": '{"celsius": 21}'},
    ]
    second = either.chat.completions.create(**asked(messages=messages, tool_choice="none"))
    assert second.choices[0].message.content
    assert not second.choices[0].message.tool_calls


async def test_async_tool_calls(async_sdk: AsyncOpenAI) -> None:
    answer = await async_sdk.chat.completions.create(**asked("And in Rome?", tool_choice="required"))
    [call] = answer.choices[0].message.tool_calls or []
    assert call.type == "function"
    assert call.function.name == "get_weather"


def test_a_streamed_call_is_assembled_by_the_helper(either: OpenAI) -> None:
    with either.chat.completions.stream(**asked("And in Oslo?")) as stream:
        kinds = {event.type for event in stream}
        final = stream.get_final_completion()
    assert "tool_calls.function.arguments.done" in kinds
    [call] = final.choices[0].message.tool_calls or []
    assert set(json.loads(call.function.arguments)) == {"city"}


def test_parse_reads_the_arguments(either: OpenAI) -> None:
    class GetWeather(BaseModel):
        """Weather of a city."""

        city: str

    tool = openai.pydantic_function_tool(GetWeather)
    forced: Any = {"type": "function", "function": {"name": "GetWeather"}}
    answer = either.chat.completions.parse(**asked("And in Bern?", tools=[tool], tool_choice=forced))
    [call] = answer.choices[0].message.tool_calls or []
    assert isinstance(call.function.parsed_arguments, GetWeather)


def test_a_model_without_tools_says_so(sdk: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        sdk.chat.completions.create(**asked(model=PLAIN_MODEL))
    assert (caught.value.param, caught.value.code) == ("tools", "unsupported_parameter")


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"logprobs": True}, "logprobs"),
        ({"n": 2}, "n"),
        ({"response_format": SCHEMA}, "response_format"),
    ],
    ids=["logprobs", "n", "json_schema"],
)
def test_what_a_model_cannot_do_is_refused_by_name(sdk: OpenAI, change: dict[str, Any], param: str) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        sdk.chat.completions.create(**{**ask("hello", **change), "model": PLAIN_MODEL})
    assert caught.value.param == param
