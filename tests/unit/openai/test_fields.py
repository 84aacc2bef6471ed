"""The table of fields: current, complete against the installed SDK, and true of every request."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, Union, get_args, get_origin

import pytest
from openai.types import (
    Completion,
    CompletionCreateParams,
    CreateEmbeddingResponse,
    EmbeddingCreateParams,
    Model,
)
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.chat import CompletionCreateParams as ChatParams
from openai.types.shared import ErrorObject
from pydantic import BaseModel
from typing_extensions import get_type_hints, is_typeddict

from gateway.contract.errors import InvalidRequest
from gateway.openai.answer_fields import ANSWERS, State
from gateway.openai.fields import FILE, as_markdown, request_rows
from gateway.openai.terms import Endpoint
from tests.unit.openai.asking import parse
from tests.unit.openai.field_cases import Case, all_cases, in_request

REQUESTS = [
    (Endpoint.CHAT, ChatParams),
    (Endpoint.COMPLETIONS, CompletionCreateParams),
    (Endpoint.EMBEDDINGS, EmbeddingCreateParams),
]
ANSWER_TYPES: list[tuple[str, type[BaseModel]]] = [
    ("chat.completion", ChatCompletion),
    ("chat.completion.chunk", ChatCompletionChunk),
    ("text_completion", Completion),
    ("list of embeddings", CreateEmbeddingResponse),
    ("list of models", Model),
    ("error", ErrorObject),
]


def members(kind: Any) -> Mapping[str, Any]:
    """Field names and types of a TypedDict or a pydantic model; none of anything else."""
    if is_typeddict(kind):
        return get_type_hints(kind)
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return {field.alias or name: field.annotation for name, field in kind.model_fields.items()}
    return {}


def objects(kind: Any, listed: bool = False) -> Iterator[tuple[Any, bool]]:
    """The object types in ``kind``, and whether they stand in a list."""
    if members(kind):
        yield kind, listed
        return
    inside = get_origin(kind) in (list, Iterable, Sequence)
    for inner in get_args(kind) if get_origin(kind) not in (dict, Literal) else ():
        yield from objects(inner, listed or inside)


def constants(kind: Any) -> tuple[str, ...]:
    return tuple(get_args(kind)) if get_origin(kind) is Literal else ()


def tag_of(kinds: list[Any]) -> str | None:
    """The field that tells several object types apart."""
    for name in ("role", "type"):
        if all(len(constants(members(kind).get(name))) == 1 for kind in kinds):
            return name
    return None


def places(kind: Any, place: str) -> Iterator[str]:
    """Every field of the object type ``kind``, spelled as in the table."""
    for name, inner in members(kind).items():
        here = f"{place}.{name}" if place else name
        yield here
        found = list(objects(inner))
        kinds = [one for one, _ in found]
        tag = tag_of(kinds) if len(kinds) > 1 else None
        for one, listed in found:
            if tag:
                below = f"{here}[{tag}={constants(members(one)[tag])[0]}]"
            else:
                below = f"{here}[]" if listed else here
            yield from places(one, below)


def uncovered(kind: Any, states: Mapping[str, State]) -> list[str]:
    """Fields without a row, unless what they lie in is not served at all."""
    unserved = (State.REFUSED, State.ABSENT, State.NULL)
    closed = tuple(place for place, state in states.items() if state in unserved)
    return sorted(
        place
        for place in set(places(kind, ""))
        if place not in states and not any(place.startswith((f"{one}.", f"{one}[")) for one in closed)
    )


def test_the_document_is_current() -> None:
    assert FILE.read_text() == as_markdown(), "run: .venv/bin/python -m gateway.openai.fields"


@pytest.mark.parametrize(("endpoint", "kinds"), REQUESTS)
def test_every_field_of_the_sdks_requests_has_a_row(endpoint: Endpoint, kinds: Any) -> None:
    states = {row.place: row.state for row in request_rows(endpoint)}
    # One function tool, one text part: a single type in a list has no tag in the walk.
    states |= {place.replace("[type=function]", "[]"): state for place, state in states.items()}
    states |= {place.replace("[type=text]", "[]"): state for place, state in states.items()}
    for kind in get_args(kinds) if get_origin(kinds) is Union else [kinds]:
        assert uncovered(kind, states) == []


@pytest.mark.parametrize(("name", "kind"), ANSWER_TYPES)
def test_every_field_of_the_sdks_answers_has_a_row(name: str, kind: type[BaseModel]) -> None:
    assert uncovered(kind, {place: state for place, (state, _) in ANSWERS[name].items()}) == []


def test_a_field_without_a_row_is_found() -> None:
    states = {row.place: row.state for row in request_rows(Endpoint.CHAT)}
    chat_params = get_args(ChatParams)[0]
    known = "messages[role=user].content[type=text].prompt_cache_breakpoint"
    assert known in set(places(chat_params, ""))
    del states[known]
    assert known in uncovered(chat_params, states)


CASES = [(endpoint, name, case) for endpoint in Endpoint for name, case in all_cases(endpoint)]


@pytest.mark.parametrize(
    ("endpoint", "name", "case"),
    CASES,
    ids=[f"{one.value}-{case.place}-{case.param}" for one, _, case in CASES],
)
def test_what_the_table_says_is_what_happens(endpoint: Endpoint, name: str, case: Case) -> None:
    fields, param = in_request(endpoint, name, case)
    if param is None:
        parse(endpoint, fields)
        return
    with pytest.raises(InvalidRequest) as caught:
        parse(endpoint, fields)
    assert (caught.value.code, caught.value.param) == ("unsupported_parameter", param)


@pytest.mark.parametrize("endpoint", Endpoint)
def test_every_row_has_a_case_and_refused_rows_a_refusal(endpoint: Endpoint) -> None:
    refused = {case.place for _, case in all_cases(endpoint) if case.param}
    accepted = {case.place for _, case in all_cases(endpoint) if not case.param}
    for row in request_rows(endpoint):
        assert row.place in (refused if row.state is State.REFUSED else accepted), row.place
