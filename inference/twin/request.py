"""A request body read the way SGLang reads it, its errors included. Pure.

SGLang serves an unknown model and unknown fields without a word, and its validation errors tell its
own file paths; both are kept, because the gateway must cope with them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

import orjson

from inference.twin.words import chat_tokens, text_tokens

LOWEST_PRIORITY: Final = -(2**63)
"""What SGLang gives a request that brings no ``priority``."""
COMPLETION_TOKENS_DEFAULT: Final = 16
_SOURCE: Final = "/sgl-workspace/sglang/python/sglang/srt/entrypoints/http_server.py"


class EngineError(Exception):
    """An answer in SGLang's flat error shape: ``message``, ``type`` and ``status``."""

    def __init__(self, message: str, *, type_: str = "BadRequestError", status: int = 400) -> None:
        """``type_`` is SGLang's, not OpenAI's."""
        super().__init__(message)
        self.message, self.type, self.status = message, type_, status


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One generation request; ``prompts`` has several only for ``/v1/completions`` with a list."""

    kind: Literal["chat", "text"]
    rid: str | None
    model: str
    prompts: tuple[bytes, ...]
    prompt_tokens: tuple[int, ...]
    last_user: str
    n: int
    max_tokens: int
    stop: tuple[str, ...]
    stream: bool
    include_usage: bool
    continuous_usage: bool
    priority: int
    seed: int
    salt: str
    endless: bool


def _invalid(path: str, kind: str, loc: tuple[object, ...], message: str, value: object) -> EngineError:
    detail = f"{{'type': {kind!r}, 'loc': {loc!r}, 'msg': {message!r}, 'input': {value!r}}}"
    where = f'File "{_SOURCE}", line 1870, in handler'
    return EngineError(
        f"1 validation error:\n  {detail}\n\n  {where}\n    POST {path} [{detail}]", type_="Bad Request"
    )


def parsed(path: str, body: bytes) -> dict[str, Any]:
    """The JSON object of ``body``. Raises EngineError: 400, or 500 for a list, as SGLang does."""
    try:
        document = orjson.loads(body)
    except ValueError as error:
        raise _invalid(path, "json_invalid", ("body", 0), f"JSON decode error: {error}", {}) from None
    if not isinstance(document, dict):
        raise EngineError("Internal Server Error", status=500)
    return document


def _whole(path: str, body: Mapping[str, Any], name: str, default: int) -> int:
    value = body.get(name)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int):
        try:
            if isinstance(value, bool | float) and value != int(value):
                raise ValueError
            return int(value)
        except (ValueError, TypeError):
            message = "Input should be a valid integer, unable to parse string as an integer"
            raise _invalid(path, "int_parsing", ("body", name), message, value) from None
    return value


def content_text(content: object) -> str:
    """The text of a message's content: a string, or its text parts joined."""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        parts = (part.get("text") for part in content if isinstance(part, dict))
        return "\n".join(text for text in parts if isinstance(text, str))
    return ""


def _chat_prompt(path: str, body: Mapping[str, Any]) -> tuple[tuple[bytes, ...], tuple[int, ...], str]:
    messages = body.get("messages")
    if messages is None:
        raise _invalid(path, "missing", ("body", "messages"), "Field required", dict(body))
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
        raise _invalid(path, "list_type", ("body", "messages"), "Input should be a valid list", messages)
    if not messages:
        raise EngineError("Messages cannot be empty.")
    texts = [content_text(message.get("content")) for message in messages]
    encoded = [text.encode() for text in texts]
    rendered = bytearray()
    last_user = ""
    for message, text, raw in zip(messages, texts, encoded, strict=True):
        role = str(message.get("role", ""))
        rendered += b"<|im_start|>" + role.encode() + b"\n" + raw + b"<|im_end|>\n"
        if role == "user":
            last_user = text
    if tools := body.get("tools"):
        encoded.append(orjson.dumps(tools))
        rendered += encoded[-1]
    rendered += b"<|im_start|>assistant\n"
    return (bytes(rendered),), (chat_tokens(encoded),), last_user


def _text_prompts(path: str, body: Mapping[str, Any]) -> tuple[tuple[bytes, ...], tuple[int, ...], str]:
    prompt = body.get("prompt")
    if prompt is None:
        raise _invalid(path, "missing", ("body", "prompt"), "Field required", dict(body))
    many = [prompt] if isinstance(prompt, str) else prompt
    if isinstance(many, list) and many and all(isinstance(item, int) for item in many):
        many = [many]
    if not isinstance(many, list) or not many:
        raise EngineError("Prompt cannot be empty")
    prompts, counts = [], []
    for item in many:
        if isinstance(item, str):
            prompts.append(item.encode())
            counts.append(max(1, text_tokens(prompts[-1])))
        elif isinstance(item, list) and item and all(isinstance(token, int) for token in item):
            prompts.append(orjson.dumps(item))
            counts.append(len(item))
        else:
            raise _invalid(path, "string_type", ("body", "prompt"), "Input should be a valid string", item)
    return tuple(prompts), tuple(counts), many[-1] if isinstance(many[-1], str) else ""


def _checked_sampling(body: Mapping[str, Any], max_tokens: int | None) -> None:
    temperature, top_p = body.get("temperature"), body.get("top_p")
    if isinstance(temperature, int | float) and temperature < 0:
        raise EngineError(f"temperature must be a non-negative finite number, got {float(temperature)}.")
    if isinstance(top_p, int | float) and not 0 < top_p <= 1:
        raise EngineError(f"top_p must be in (0, 1], got {float(top_p)}.")
    if max_tokens is not None and max_tokens < 0:
        raise EngineError(f"max_new_tokens must be at least 0, got {max_tokens}.")


def _bounded(prompt: int, asked: int | None, context: int) -> int:
    if prompt >= context:
        raise EngineError(
            f"The input ({prompt} tokens) is longer than the model's context length ({context} tokens)."
        )
    if asked is None:
        return context - prompt
    if prompt + asked > context:
        raise EngineError(
            f"Requested token count exceeds the model's maximum context length of {context} tokens. "
            f"You requested a total of {prompt + asked} tokens: {prompt} tokens from the input messages "
            f"and {asked} tokens for the completion. Please reduce the number of tokens in the input "
            "messages or the completion to fit within the limit."
        )
    return asked


def job(path: str, body: Mapping[str, Any], *, context: int) -> Job:
    """The job that ``body`` asks for on ``/v1/chat/completions`` or ``/v1/completions``.

    ``context`` is the model's length in tokens. Raises EngineError.
    """
    chat = path.endswith("/chat/completions")
    read: Callable[..., tuple[tuple[bytes, ...], tuple[int, ...], str]]
    read = _chat_prompt if chat else _text_prompts
    prompts, counts, last_user = read(path, body)
    limit = (
        "max_completion_tokens" if chat and body.get("max_completion_tokens") is not None else "max_tokens"
    )
    default = None if chat else COMPLETION_TOKENS_DEFAULT
    asked = _whole(path, body, limit, 0) if body.get(limit) is not None else default
    priority = _whole(path, body, "priority", LOWEST_PRIORITY)
    n = _whole(path, body, "n", 1)
    if n < 1:
        raise EngineError("range() arg 3 must not be zero")
    model = str(body.get("model") or "default")
    if ":" in model:
        raise EngineError(
            f"LoRA adapter {model.split(':', 1)[1]!r} was requested, but LoRA is not enabled. Please launch "
            "the server with --enable-lora flag and preload adapters using --lora-paths or "
            "/load_lora_adapter endpoint."
        )
    _checked_sampling(body, asked)
    stop = body.get("stop") or ()
    options = body.get("stream_options") or {}
    rid = body.get("rid")
    return Job(
        kind="chat" if chat else "text",
        rid=rid if isinstance(rid, str) and rid else None,
        model=model,
        prompts=prompts,
        prompt_tokens=counts,
        last_user=last_user,
        n=n,
        max_tokens=_bounded(max(counts), asked, context),
        stop=(stop,) if isinstance(stop, str) else tuple(str(text) for text in stop),
        stream=bool(body.get("stream")),
        include_usage=bool(options.get("include_usage")),
        continuous_usage=bool(options.get("continuous_usage_stats")),
        priority=priority,
        seed=_whole(path, body, "seed", 0),
        salt=str(body.get("cache_salt") or ""),
        endless=bool(body.get("ignore_eos")),
    )
