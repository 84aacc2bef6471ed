"""Parts of an engine's answer, each checked and mended in place: usage, log probabilities, tool calls.

Used by gateway/openai/mending.py. A part that is of another type than OpenAI's and cannot be made right
is NotAnAnswer.
"""

from __future__ import annotations

from typing import Any, Final

from gateway.contract.units import TOKENS_MAX
from gateway.openai.answers import InvalidUsage, Usage, read_usage, write_json

TEXT_FINISHES: Final = frozenset({"stop", "length", "content_filter"})
NUMBERS: Final = frozenset({int, float})
_INDEX_MAX: Final = 65_535
_UNCONDITIONED: Final = 0.0
"""For an echoed prompt's first token, which follows nothing and has no probability: OpenAI's reference
knows numbers only, and this one leaves sums over the text as they are."""
_UNLIKELY: Final = -9999.0
"""OpenAI's log probability of a token that has none."""


class NotAnAnswer(ValueError):
    """Not what the endpoint answers, and not to be made so. The message names the field, never its value."""


class Aborted(NotAnAnswer):
    """The engine gave up: ``finish_reason: abort``, which OpenAI does not know."""

    def __init__(self) -> None:
        """SGLang's word for a request that was cancelled, put out or timed out inside."""
        super().__init__("finish_reason: abort")


def mend_usage(holder: dict[str, Any]) -> None:
    """``usage`` as OpenAI writes it; absent if it cannot be true; null stays."""
    value = holder.get("usage")
    if value is None:
        return
    usage = usage_of(holder)
    if usage is None:
        del holder["usage"]
        return
    value["prompt_tokens"] = usage.prompt
    value["completion_tokens"] = usage.completion
    value["total_tokens"] = usage.total
    value["prompt_tokens_details"] = _counts(
        value.get("prompt_tokens_details"), "cached_tokens", usage.cached
    )
    reasoning = value.get("reasoning_tokens")
    value["completion_tokens_details"] = _counts(
        value.get("completion_tokens_details"), "reasoning_tokens", reasoning if is_count(reasoning) else 0
    )


def usage_of(holder: dict[str, Any]) -> Usage | None:
    """The usage in ``holder``, None where there is none that can be true."""
    try:
        return read_usage(holder)
    except InvalidUsage:
        return None


def _counts(details: object, name: str, count: int) -> dict[str, Any]:
    """The counts in ``details``, and ``name`` in any case: OpenAI's details are objects of whole numbers."""
    found = {key: value for key, value in details.items() if is_count(value)} if type(details) is dict else {}
    found.setdefault(name, count)
    return found


def is_count(value: object) -> bool:
    """A whole number from 0 to 2^53 - 1."""
    return type(value) is int and 0 <= value <= TOKENS_MAX


def mend_metadata(answer: dict[str, Any]) -> None:
    """OpenAI's ``metadata`` maps strings to strings; SGLang's has a list in it."""
    metadata = answer["metadata"]
    kept = metadata.items() if type(metadata) is dict else ()
    answer["metadata"] = {name: value for name, value in kept if type(value) is str} or None


def mend_index(holder: dict[str, Any]) -> None:
    """A missing index is the first. Raises NotAnAnswer."""
    index = holder.get("index")
    if index is None:
        holder["index"] = 0
    elif type(index) is not int or not 0 <= index <= _INDEX_MAX:
        raise NotAnAnswer("index")


def check_finish(choice: dict[str, Any], words: frozenset[str]) -> None:
    """``finish_reason`` is null or one of ``words``. Raises Aborted, NotAnAnswer."""
    reason = choice.setdefault("finish_reason", None)
    if reason is None:
        return
    if reason == "abort":
        raise Aborted
    if type(reason) is not str or reason not in words:
        raise NotAnAnswer("finish_reason")


def mend_text_choice(choice: dict[str, Any]) -> None:
    """A choice of a text completion, whole or of a stream. Raises Aborted, NotAnAnswer."""
    if type(choice.get("text")) is not str:
        raise NotAnAnswer("text")
    check_finish(choice, TEXT_FINISHES)
    logprobs = choice.setdefault("logprobs", None)
    if logprobs is None:
        return
    if type(logprobs) is not dict:
        raise NotAnAnswer("logprobs")
    drop_nulls(logprobs, "text_offset", "token_logprobs", "tokens", "top_logprobs")
    _items(logprobs, "text_offset", int)
    _items(logprobs, "tokens", str)
    _items(logprobs, "token_logprobs", float, int, type(None))
    if None in logprobs.get("token_logprobs", []):
        logprobs["token_logprobs"] = [
            _UNCONDITIONED if value is None else value for value in logprobs["token_logprobs"]
        ]
    top = logprobs.get("top_logprobs", [])
    if type(top) is not list:
        raise NotAnAnswer("logprobs.top_logprobs")
    for place, row in enumerate(top):
        if row is None:
            top[place] = {}
        elif type(row) is not dict or not NUMBERS.issuperset(map(type, row.values())):
            raise NotAnAnswer("logprobs.top_logprobs")


def _items(holder: dict[str, Any], name: str, *kinds: type) -> None:
    values = holder.get(name, [])
    if type(values) is not list or not set(kinds).issuperset(map(type, values)):
        raise NotAnAnswer(f"logprobs.{name}")


def mend_logprobs(choice: dict[str, Any]) -> None:
    """A chat choice's ``logprobs``: null, or lists of tokens under ``content`` and ``refusal``. Raises
    NotAnAnswer."""
    logprobs = choice.setdefault("logprobs", None)
    if logprobs is None:
        return
    if type(logprobs) is not dict:
        raise NotAnAnswer("logprobs")
    for name in ("content", "refusal"):
        if logprobs.setdefault(name, None) is not None:
            for token in objects(logprobs[name], f"logprobs.{name}"):
                _token(token)
                for other in objects(token.setdefault("top_logprobs", []), "logprobs.top_logprobs"):
                    _token(other)


def _token(token: dict[str, Any]) -> None:
    if type(token.get("token")) is not str:
        raise NotAnAnswer("logprobs.token")
    if token.get("logprob") is None:
        token["logprob"] = _UNLIKELY
    elif type(token["logprob"]) not in NUMBERS:
        raise NotAnAnswer("logprobs.logprob")
    if token.setdefault("bytes", None) is not None:
        _items(token, "bytes", int)


def mend_function(function: object) -> None:
    """A function's name and arguments, or a piece of them. Raises NotAnAnswer."""
    if type(function) is not dict:
        raise NotAnAnswer("function")
    drop_nulls(function, "name", "arguments")
    _arguments_as_text(function)
    if type(function.get("name", "")) is not str:
        raise NotAnAnswer("function.name")


def mend_call(function: object) -> None:
    """A whole call. Raises NotAnAnswer."""
    mend_function(function)
    if type(function) is dict:
        function.setdefault("arguments", "")
        if "name" not in function:
            raise NotAnAnswer("function.name")


def _arguments_as_text(function: dict[str, Any]) -> None:
    """SGLang's type allows an object here."""
    arguments = function.get("arguments", "")
    if type(arguments) is dict:
        written = write_json(arguments)
        if written is None:
            raise NotAnAnswer("function.arguments")
        function["arguments"] = written.decode()
    elif type(arguments) is not str:
        raise NotAnAnswer("function.arguments")


def check_tokens(answer: dict[str, Any]) -> None:
    """SGLang's ``{"tokens", "count", "max_model_len"}``, lists of both for several prompts. OpenAI has no
    such endpoint, so that nothing is to be mended. Raises NotAnAnswer."""
    if type(answer.get("tokens")) is not list or type(answer.get("count")) not in (int, list):
        raise NotAnAnswer("tokens")


def objects(values: object, name: str) -> list[dict[str, Any]]:
    """``values`` if it is a list of objects. Raises NotAnAnswer."""
    if type(values) is not list or any(type(value) is not dict for value in values):
        raise NotAnAnswer(name)
    return values


def drop_nulls(holder: dict[str, Any], *names: str) -> None:
    """OpenAI leaves these out; null is not of their type."""
    for name in names:
        if name in holder and holder[name] is None:
            del holder[name]


def is_text_or_null(value: object) -> bool:
    """Whether OpenAI would write it where a text may be absent."""
    return value is None or type(value) is str
