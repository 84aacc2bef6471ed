"""Whatever is accepted reaches the engine as it was understood; nothing but GatewayError is raised."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ext_proc.prompt_bound import completion_tokens_wanted, prompt_tokens_bound, prompt_tokens_least
from gateway.contract.errors import GatewayError
from gateway.contract.ids import ModelName
from gateway.contract.units import Tokens
from gateway.models.catalogue import Model
from gateway.openai.parameters import VENDOR
from gateway.openai.requests import WireRequest, parse_request
from gateway.openai.terms import Capabilities, Endpoint
from tests.unit.openai.field_cases import all_cases, in_request

MODEL = Model(
    name=ModelName("demo"),
    served_name="served",
    revision="1",
    context_tokens=1000,
    max_completion_tokens=800,
    vocabulary_size=50_000,
    template_tokens_base=10,
    template_tokens_per_message=5,
    endpoints=frozenset(Endpoint),
    capabilities=Capabilities(
        tools=True, logprobs=True, reasoning=True, suffix=True, dimensions=True, n_max=8, batch_max=64
    ),
    vendor_parameters=frozenset(VENDOR),
)
CASES = {endpoint: list(all_cases(endpoint)) for endpoint in Endpoint}
SWAPS = st.sampled_from(
    [None, True, 0, 1, -1, 2**63, 0.5, 1e308, "", "a", "tool", "text", [], ["a"], [1], {}, {"type": "text"}]
)
OUR_OWN = {"model", "stream", "stream_options", "max_tokens", "max_completion_tokens"}


def parse(endpoint: Endpoint, body: bytes) -> WireRequest:
    return parse_request(endpoint, body, lambda _: MODEL)


def swapped(value: Any, draw: st.DrawFn) -> Any:
    """``value`` with one thing in it changed, added or gone."""
    if isinstance(value, dict) and value and draw(st.booleans()):
        name = draw(st.sampled_from(sorted(value)))
        return {**value, name: swapped(value[name], draw)}
    if isinstance(value, list) and value and draw(st.booleans()):
        index = draw(st.integers(0, len(value) - 1))
        return [*value[:index], swapped(value[index], draw), *value[index : draw(st.integers(0, 1)) + index]]
    return draw(SWAPS)


@st.composite
def requests(draw: st.DrawFn) -> tuple[Endpoint, dict[str, Any]]:
    """Fields that are each accepted or refused alone, put together; some changed."""
    endpoint = draw(st.sampled_from(list(Endpoint)))
    fields: dict[str, Any] = {"model": "demo"}
    for name, case in draw(st.lists(st.sampled_from(CASES[endpoint]), max_size=6)):
        if case.param is None or draw(st.integers(0, 7)) == 0:
            fields |= in_request(endpoint, name, case)[0]
    if draw(st.integers(0, 2)) == 0:
        name = draw(st.sampled_from(sorted(fields)))
        fields[name] = swapped(fields[name], draw)
    return endpoint, fields


def function(name: str) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name}}


TWO_TOOLS = {
    "model": "demo",
    "messages": [{"role": "user", "content": "a"}],
    "tools": [function("tool"), function("a")],
    "tool_choice": function("a"),
}


@given(requests())
@example((Endpoint.CHAT, TWO_TOOLS))
@settings(max_examples=300)
def test_what_is_accepted_reads_the_same_at_the_engine(asked: tuple[Endpoint, dict[str, Any]]) -> None:
    endpoint, fields = asked
    try:
        request = parse(endpoint, orjson.dumps(fields))
    except GatewayError:
        return
    limit = request.max_tokens_asked or Tokens(9)
    body = request.engine_body(model="served", max_tokens=limit, rid="r-1", priority=5, cache_salt="salt")
    again = parse(endpoint, body)
    # What was lowered to the limit of the engine's request stays below it.
    lowered = {"min_tokens"} if request.fields.get("min_tokens", 0) > limit else set()
    wanted = dict(request.fields)
    if isinstance(chosen := wanted.get("tool_choice"), dict):  # the engine is told of no other function
        named = chosen["function"]["name"]
        wanted["tools"] = [tool for tool in wanted["tools"] if tool["function"]["name"] == named]
    for name in (wanted.keys() | again.fields.keys()) - OUR_OWN - lowered:
        assert again.fields[name] == wanted[name], name
    assert (again.model_asked, again.stream, again.choices) == ("served", request.stream, request.choices)
    assert again.sampling == request.sampling
    if endpoint.generates:
        assert again.max_tokens_asked == limit
    assert prompt_tokens_bound(again, MODEL) <= prompt_tokens_bound(request, MODEL)
    if wanted == request.fields:
        assert prompt_tokens_bound(again, MODEL) == prompt_tokens_bound(request, MODEL)
    assert prompt_tokens_least(request) <= prompt_tokens_bound(request, MODEL)
    assert completion_tokens_wanted(request, MODEL) >= endpoint.generates


@pytest.mark.parametrize("endpoint", Endpoint)
def test_each_accepted_field_reads_the_same_at_the_engine(endpoint: Endpoint) -> None:
    for name, case in CASES[endpoint]:
        if case.param is None:
            fields, _ = in_request(endpoint, name, case)
            request = parse(endpoint, orjson.dumps({"model": "demo", **fields}))
            body = request.engine_body(
                model="served", max_tokens=Tokens(9), rid="r", priority=5, cache_salt="s"
            )
            kept = parse(endpoint, body).fields
            for one in (request.fields.keys() | kept.keys()) - OUR_OWN:
                assert kept[one] == request.fields[one], case.place
