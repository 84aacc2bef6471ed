"""A request body read the way SGLang reads it, its errors included. Pure.

SGLang serves an unknown model and unknown fields without a word; ``suffix``, ``best_of`` and a false
``parallel_tool_calls`` it takes and does not follow.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from inference.twin.errors import EngineError, invalid
from inference.twin.instances import check_parameters, check_regex
from inference.twin.prompt import Prompt, chat_prompt, checked_messages, content_text, text_prompts

LOWEST_PRIORITY: Final = -(2**63)
"""What SGLang gives a request that brings no ``priority``."""
COMPLETION_TOKENS_DEFAULT: Final = 16
ANY_OBJECT: Final = {"type": "object"}
_BOUND: Final = (
    "tool_choice 'required' or a named tool cannot be combined with response_format, regex, or ebnf: the"
    " tool-call constraint and the output constraint cannot both be honored."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One generation request; ``prompts`` has several only for ``/v1/completions`` with a list.

    ``tools`` are those that the answer may call; ``must_call`` binds it to do so; ``schema`` binds it to a
    form; ``logprobs`` is how many others to list beside each token, None for no probabilities.
    """

    kind: Literal["chat", "text"]
    rid: str | None
    model: str
    prompts: tuple[Prompt, ...]
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
    echo: bool
    logprobs: int | None
    tools: tuple[Mapping[str, Any], ...]
    must_call: bool
    schema: object | None

    @property
    def choices(self) -> int:
        """How many answers it has."""
        return self.n * len(self.prompts)

    @property
    def prompt_tokens(self) -> tuple[int, ...]:
        """Of each prompt."""
        return tuple(prompt.tokens for prompt in self.prompts)


def whole(path: str, body: Mapping[str, Any], name: str, default: int) -> int:
    """A whole number, or text of one. Raises EngineError."""
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
            raise invalid(path, "int_parsing", ("body", name), message, value) from None
    return value


def _checked_sampling(path: str, body: Mapping[str, Any], max_tokens: int | None) -> None:
    temperature, top_p = body.get("temperature"), body.get("top_p")
    if not path.endswith("/chat/completions") and max_tokens is not None and max_tokens <= 0:
        message = "Value error, max_tokens must be positive"
        raise invalid(path, "value_error", ("body", "max_tokens"), message, max_tokens)
    if isinstance(temperature, int | float) and temperature < 0:
        raise EngineError(f"temperature must be a non-negative finite number, got {float(temperature)}.")
    if isinstance(top_p, int | float) and not 0 < top_p <= 1:
        raise EngineError(f"top_p must be in (0, 1], got {float(top_p)}.")
    if max_tokens is not None and max_tokens < 0:
        raise EngineError(f"max_new_tokens must be at least 0, got {max_tokens}.")
    if isinstance(body.get("regex"), str):
        check_regex(body["regex"])


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


def tools_shown(body: Mapping[str, Any]) -> tuple[Mapping[str, Any], ...]:
    """The tools that stand in the prompt: of a named choice only the one. Raises EngineError."""
    tools: Sequence[Mapping[str, Any]] = body.get("tools") or ()
    choice = body.get("tool_choice") or ("auto" if tools else "none")
    if choice == "required" and not tools:
        raise EngineError("Tools cannot be empty if tool choice is set to required.")
    name = None if isinstance(choice, str) else choice["function"]["name"]
    if name is not None:
        if not tools:
            raise EngineError("Tools cannot be empty if tool choice is set to a specific tool.")
        if all(tool["function"]["name"] != name for tool in tools):
            raise EngineError(f"Tool '{name}' not found in tools list.")
    for index, tool in enumerate(tools):
        check_parameters(index, tool["function"].get("parameters"))
    if choice == "none":
        return ()
    return tuple(tool for tool in tools if name in (None, tool["function"]["name"]))


def _schema(body: Mapping[str, Any]) -> object | None:
    wanted = body.get("response_format") or {}
    match wanted.get("type"):
        case "json_object":
            return ANY_OBJECT
        case "json_schema":
            schema = (wanted.get("json_schema") or {}).get("schema")
            if schema is None:
                raise EngineError("schema_ is required for json_schema response format request.")
            found: object = schema
            return found
        case _:
            return None


def _logprobs(chat: bool, body: Mapping[str, Any]) -> int | None:
    if chat:
        return int(body.get("top_logprobs") or 0) if body.get("logprobs") else None
    asked = body.get("logprobs")
    return None if asked is None else int(asked)


def _checked_model(body: Mapping[str, Any]) -> str:
    model = str(body.get("model") or "default")
    if ":" in model:
        raise EngineError(
            f"LoRA adapter {model.split(':', 1)[1]!r} was requested, but LoRA is not enabled. Please launch "
            "the server with --enable-lora flag and preload adapters using --lora-paths or "
            "/load_lora_adapter endpoint."
        )
    return model


def job(path: str, body: Mapping[str, Any], *, context: int) -> Job:
    """The job that ``body`` asks for on ``/v1/chat/completions`` or ``/v1/completions``.

    ``context`` is the model's length in tokens. Raises EngineError.
    """
    chat = path.endswith("/chat/completions")
    messages = checked_messages(path, body) if chat else []
    tools = tools_shown(body) if chat else ()
    schema, choice = _schema(body), body.get("tool_choice")
    must_call = bool(tools) and choice not in (None, "auto")
    if must_call and (schema is not None or body.get("regex")):
        raise EngineError(_BOUND, type_="BadRequest")
    prompts = (chat_prompt(messages, tools),) if chat else text_prompts(path, body)
    limit = (
        "max_completion_tokens" if chat and body.get("max_completion_tokens") is not None else "max_tokens"
    )
    default = None if chat else COMPLETION_TOKENS_DEFAULT
    asked = whole(path, body, limit, 0) if body.get(limit) is not None else default
    priority = whole(path, body, "priority", LOWEST_PRIORITY)
    n = whole(path, body, "n", 1)
    if n < 1:
        raise EngineError("range() arg 3 must not be zero", type_="BadRequest")
    model = _checked_model(body)
    _checked_sampling(path, body, asked)
    stop, options, rid = body.get("stop") or (), body.get("stream_options") or {}, body.get("rid")
    return Job(
        kind="chat" if chat else "text",
        rid=rid if isinstance(rid, str) and rid else None,
        model=model,
        prompts=prompts,
        last_user=_last_user(messages) if chat else prompts[-1].text,
        n=n,
        max_tokens=_bounded(max(prompt.tokens for prompt in prompts), asked, context),
        stop=(stop,) if isinstance(stop, str) else tuple(str(text) for text in stop),
        stream=bool(body.get("stream")),
        include_usage=bool(options.get("include_usage")),
        continuous_usage=bool(options.get("continuous_usage_stats")),
        priority=priority,
        seed=whole(path, body, "seed", 0),
        salt=str(body.get("cache_salt") or ""),
        endless=bool(body.get("ignore_eos")),
        echo=bool(body.get("echo")),
        logprobs=_logprobs(chat, body),
        # A named choice shows one tool and still lets the answer call any: see calls.py.
        tools=tuple(body["tools"]) if tools else (),
        must_call=must_call,
        schema=schema,
    )


def _last_user(messages: Sequence[Mapping[str, Any]]) -> str:
    spoken = [message for message in messages if message["role"].lower() == "user"]
    return content_text(spoken[-1].get("content")) if spoken else ""
