"""Tool calls by the official Python client: asked for, streamed, answered. On a model that takes tools."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI, OpenAI
from pydantic import BaseModel

from tests.clients.served import TOOLS_MODEL, ask

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
QUESTION = "What is the weather in Paris?"


def asked(question: str = QUESTION, **more: Any) -> dict[str, Any]:
    """A question whose answer must be a call of WEATHER."""
    forced: dict[str, Any] = {"type": "function", "function": {"name": "get_weather"}}
    tools = {"tools": [WEATHER], "tool_choice": forced, "model": TOOLS_MODEL, "temperature": 0}
    return {**ask(question, max_tokens=100), **tools, **more}


def test_a_tool_is_called_and_its_result_is_answered(sdk: OpenAI) -> None:
    first = sdk.chat.completions.create(**asked())
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
    second = sdk.chat.completions.create(**asked(messages=messages, tool_choice="none"))
    assert second.choices[0].message.content
    assert not second.choices[0].message.tool_calls


async def test_async_tool_calls(async_sdk: AsyncOpenAI) -> None:
    answer = await async_sdk.chat.completions.create(**asked("And in Rome?", tool_choice="required"))
    [call] = answer.choices[0].message.tool_calls or []
    assert call.type == "function"
    assert call.function.name == "get_weather"


def test_a_streamed_call_is_assembled_by_the_helper(sdk: OpenAI) -> None:
    with sdk.chat.completions.stream(**asked("And in Oslo?")) as stream:
        kinds = {event.type for event in stream}
        final = stream.get_final_completion()
    assert "tool_calls.function.arguments.done" in kinds
    [call] = final.choices[0].message.tool_calls or []
    assert set(json.loads(call.function.arguments)) == {"city"}


def test_parse_reads_the_arguments(sdk: OpenAI) -> None:
    class GetWeather(BaseModel):
        """Weather of a city."""

        city: str

    tool = openai.pydantic_function_tool(GetWeather)
    forced: Any = {"type": "function", "function": {"name": "GetWeather"}}
    answer = sdk.chat.completions.parse(**asked("And in Bern?", tools=[tool], tool_choice=forced))
    [call] = answer.choices[0].message.tool_calls or []
    assert isinstance(call.function.parsed_arguments, GetWeather)


def test_a_model_without_tools_says_so(sdk: OpenAI) -> None:
    catalogue = {model.id: model for model in sdk.models.list()}
    assert TOOLS_MODEL in catalogue
    with pytest.raises(openai.BadRequestError) as caught:
        sdk.chat.completions.create(**{**asked(), "tools": [{"type": "function"}]})
    assert caught.value.param is not None
    assert caught.value.param.startswith("tools")
