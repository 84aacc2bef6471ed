"""Answers held against OpenAI's API reference (``answers.json``) and the strict models of its SDK."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from jsonschema import Draft202012Validator
from openai.types import Completion, CreateEmbeddingResponse, Model
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.shared import ErrorObject
from pydantic import BaseModel

_DOCUMENT: Final = json.loads((Path(__file__).parent / "answers.json").read_text())
KINDS: Final = tuple(name for name in _DOCUMENT["$defs"] if name.islower())
"""``chat.completion``, ``chat.completion.chunk``, ``text_completion``, ``text_completion.chunk``,
``embeddings``, ``model``, ``model_list``, ``error``."""
_SDK: Final[Mapping[str, type[BaseModel]]] = {
    "chat.completion": ChatCompletion,
    "chat.completion.chunk": ChatCompletionChunk,
    "text_completion": Completion,
    "text_completion.chunk": Completion,
    "embeddings": CreateEmbeddingResponse,
    "model": Model,
}


def validate(kind: str, value: object) -> None:
    """Pass if ``value`` is a ``kind``. Raises AssertionError with what is wrong and where, KeyError."""
    schema = {**_DOCUMENT, "$ref": f"#/$defs/{_known(kind)}"}
    found = sorted(Draft202012Validator(schema).iter_errors(value), key=lambda error: error.json_path)
    assert not found, [f"{error.json_path}: {error.message}" for error in found]
    if kind == "error":
        ErrorObject.model_validate(value["error"], strict=True)  # type: ignore[index]  # the schema says so
    elif kind in _SDK:
        _SDK[kind].model_validate(_as_the_sdk_models_it(kind, value), strict=True)


def _known(kind: str) -> str:
    if kind not in KINDS:
        raise KeyError(kind)
    return kind


def _as_the_sdk_models_it(kind: str, value: Any) -> Any:
    """The models know no null finish_reason in a text chunk and no base64; the SDK itself passes both."""
    if kind == "text_completion.chunk":
        value = copy.deepcopy(value)
        for choice in value["choices"]:
            choice["finish_reason"] = choice["finish_reason"] or "stop"
    elif kind == "embeddings":
        data = [
            {**item, "embedding": [0.0]} if isinstance(item["embedding"], str) else item
            for item in value["data"]
        ]
        value = {**value, "data": data}
    return value


def events_of(stream: bytes) -> list[Any]:
    """The data of a well-formed event stream in order, ``[DONE]`` as text; comments are passed over.
    AssertionError for an event cut off or a line that is neither data nor comment."""
    text = stream.decode()
    assert not text or text.endswith("\n\n"), "an event is cut off"
    found: list[Any] = []
    for block in text.split("\n\n"):
        lines = [line for line in block.split("\n") if line and not line.startswith(":")]
        assert all(line.startswith("data: ") for line in lines), block
        assert len(lines) <= 1, block
        found += [line[6:] if line == "data: [DONE]" else json.loads(line[6:]) for line in lines]
    return found


def validate_stream(kind: str, stream: bytes) -> list[Any]:
    """The events of a stream of ``kind`` chunks, each validated: one id, one ``created``, at most one error,
    which is the last before ``[DONE]``; nothing after ``[DONE]``, which must come. AssertionError."""
    events = events_of(stream)
    assert events.count("[DONE]") == 1, "[DONE] must come once"
    assert events[-1] == "[DONE]", "nothing follows [DONE]"
    chunks = events[:-1]
    for place, event in enumerate(chunks):
        if "error" in event:
            validate("error", event)
            assert place == len(chunks) - 1, "nothing follows an error but [DONE]"
        else:
            validate(kind, event)
    whole = [event for event in chunks if "error" not in event]
    for field in ("id", "created", "model", "system_fingerprint"):
        assert len({event.get(field) for event in whole}) <= 1, f"{field} changes in mid-stream"
    return events
