"""What an engine says when it fails, as our error tree: OpenAI's shape, safe text.

SGLang's errors are flat, and its validation messages name the server's own files; HTTP 200 with an
error frame is how it reports overload on a stream. Source: recordings of SGLang 0.5.23.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from gateway.contract.errors import (
    BadGateway,
    ContentTooLarge,
    ContextLengthExceeded,
    EngineUnavailable,
    GatewayError,
    GatewayTimeout,
    InvalidRequest,
)
from gateway.openai.answers import error_frame, read_json
from gateway.openai.terms import Endpoint

OVERLOADED_RETRY_S: Final = 1
UNAVAILABLE_RETRY_S: Final = 2
_MESSAGE_CHARS_MAX: Final = 400
_TELLS: Final = re.compile(
    r"[/\\]\w|\.py\b|\bline \d|Traceback|\bFile \"|0x[0-9a-fA-F]{4,}|://|\bsglang\b|validation error|[^ -~]"
)
"""Signs of a path, a stack, an address or text that is not a plain sentence: not shown to clients."""
_CONTEXT: Final = re.compile(r"context length", re.IGNORECASE)
_LIMIT: Final = re.compile(r"context length(?: of)?[^0-9]{0,4}\(?(\d{1,9}) tokens?", re.IGNORECASE)
_ASKED: Final = re.compile(r"(?:input \((\d{1,9})|a total of (\d{1,9})) tokens", re.IGNORECASE)
_OVERLOAD: Final = re.compile(
    r"queue is full|waiting timeout|higher priority|too many|overload", re.IGNORECASE
)
_REPEATED: Final = re.compile(r"Duplicate request ID detected")
"""A try that came back to an engine that has not noticed yet that nobody waits for the one before."""
_LOADING: Final = re.compile(r"loading|starting|not ready|warm", re.IGNORECASE)
_CONTENT: Final = {
    Endpoint.CHAT.value: "messages",
    Endpoint.COMPLETIONS.value: "prompt",
    Endpoint.EMBEDDINGS.value: "input",
    Endpoint.TOKENIZE.value: "prompt",
}
"""Which field holds what is too long."""
_PLACE: Final = re.compile(
    r"'loc': \('body', ('[A-Za-z_]\w{0,63}'(?:, (?:'[A-Za-z_]\w{0,63}'|\d{1,6})){0,7})"
)
_FAULT: Final = re.compile(r"'msg': '([^']{1,200})'")
_SUBJECT: Final = re.compile(r"([a-z][a-z_]{0,40}) must be")
_KNOWN: Final = (
    (
        re.compile(r"Failed to compile json grammar"),
        "response_format",
        "The engine cannot follow this JSON schema.",
    ),
    (
        re.compile(r"Failed to compile regex grammar"),
        "regex",
        "The engine cannot read this regular expression.",
    ),
    (re.compile(r"Failed to compile ebnf grammar"), "ebnf", "The engine cannot read this grammar."),
    (re.compile(r"Model only supports text input"), "messages", "This model takes text only."),
    (re.compile(r"Assistant tool call function"), "messages", "A tool call's arguments must be valid JSON."),
    (re.compile(r"Tool \d+ function has invalid"), "tools", "A tool's parameters must be a JSON schema."),
    (re.compile(r"Tools cannot be empty"), "tools", "tool_choice asks for a call: there must be tools."),
    (re.compile(r"Tool '.*' not found"), "tool_choice", "tool_choice must name a function that is in tools."),
    (
        re.compile(r"tool_choice .* cannot be combined"),
        "tool_choice",
        "tool_choice cannot ask for a call together with a response_format, regex or ebnf.",
    ),
)
"""SGLang's refusals of what only it can judge: how they begin, the field, and our words for them."""
_EMPTY: Final = frozenset({"Messages cannot be empty.", "Prompt cannot be empty"})
_CLIENTS_NAMES: Final = {"max_new_tokens": "max_tokens", "min_new_tokens": "min_tokens"}
"""SGLang's inner names of what clients send under others."""
_SAMPLING: Final = frozenset(
    {
        "temperature",
        "top_p",
        "top_k",
        "min_p",
        "frequency_penalty",
        "presence_penalty",
        "repetition_penalty",
        "max_tokens",
        "min_tokens",
        "n",
        "stop",
        "logit_bias",
        "seed",
    }
)
"""What SGLang's refusals of a value begin with, in clients' words."""


def engine_error(status: int, body: bytes, *, endpoint: str = Endpoint.CHAT.value) -> GatewayError:
    """An engine's answer of ``status`` >= 400 as the error its client should see. ``endpoint``: an Endpoint's
    value, for ``param``."""
    answer = read_json(body[:65_536]) or {}
    frame = error_frame(answer)
    return frame_error(frame if frame is not None else {}, status=status, endpoint=endpoint)


def not_an_answer() -> EngineUnavailable:
    """A 200 that is no answer of the endpoint. Another engine may know better, so it is tried again."""
    return EngineUnavailable(
        "The model's engine gave an answer that is none; try again.", retry_after_s=UNAVAILABLE_RETRY_S
    )


def stopped() -> EngineUnavailable:
    """An engine that ended in the middle of its answer: aborted, cut off, killed."""
    return EngineUnavailable(
        "The model's engine stopped before its answer was complete; try again.",
        retry_after_s=UNAVAILABLE_RETRY_S,
    )


def frame_error(
    frame: Mapping[str, Any], *, status: int = 500, endpoint: str = Endpoint.CHAT.value
) -> GatewayError:
    """An error frame (``error_frame``'s result) as our error; its own integer ``code`` is the status."""
    code = frame.get("code")
    if isinstance(code, int) and not isinstance(code, bool) and 400 <= code <= 599:
        status = code
    message = frame.get("message")
    text = message if isinstance(message, str) else ""
    if status in (400, 422):
        return _overloaded() if _REPEATED.match(text) else _refusal(text, frame, endpoint)
    if status == 413:
        return ContentTooLarge("The request is too large for the model's engine.")
    if status in (408, 504):
        return GatewayTimeout("The model's engine did not answer in time; try again.")
    if status in (429, 503):
        return _unavailable(text)
    # 401, 403, 404, 405: the engine is not the one the catalogue describes; no fault of the client.
    return BadGateway("The model's engine failed to answer this request; try again.")


def _refusal(text: str, frame: Mapping[str, Any], endpoint: str) -> InvalidRequest:
    content = _CONTENT.get(endpoint, "messages")
    if _CONTEXT.search(text):
        return _too_long(text, content)
    if place := _PLACE.search(text):
        return _invalid_field(text, place[1])
    param = frame.get("param")
    shown = param if isinstance(param, str) and re.fullmatch(r"[A-Za-z_][\w.\[\]]{0,63}", param) else None
    said = ""
    if subject := _SUBJECT.match(text):
        name = _CLIENTS_NAMES.get(subject[1], subject[1])
        if name in _SAMPLING:
            said, shown = name + text[subject.end(1) :], shown or name
    elif text in _EMPTY:
        said, shown = f"The {content} must not be empty.", shown or content
    else:
        said, shown = next(
            ((words, shown or field) for begin, field, words in _KNOWN if begin.match(text)), ("", shown)
        )
    # Only sentences that are known: any other may quote the prompt, a tool or a schema.
    if not said or len(said) > _MESSAGE_CHARS_MAX or _TELLS.search(said):
        said = "The model's engine refused the request: a parameter has a value it does not take."
    return InvalidRequest(said, param=shown)


def _too_long(text: str, content: str) -> ContextLengthExceeded:
    limit, asked = _LIMIT.search(text), _ASKED.search(text)
    needs = next((group for group in asked.groups() if group), "") if asked else ""
    sentence = f"This model's maximum context length is {limit[1]} tokens." if limit else ""
    sentence += f" Your request needs {needs} tokens." if needs else ""
    sentence = sentence.strip() or "The request does not fit the model's context."
    return ContextLengthExceeded(f"{sentence} Shorten the {content} or lower max_tokens.", param=content)


def _invalid_field(text: str, place: str) -> InvalidRequest:
    """From the validation error of SGLang's request model: where, and what is wrong; never the value, and
    nothing of the rest, which names the server's files."""
    steps = [step.strip("'") for step in place.split(", ")]
    param = steps[0] + "".join(f"[{step}]" if step.isdigit() else f".{step}" for step in steps[1:])
    fault = _FAULT.search(text)
    said = fault[1] if fault is not None and not _TELLS.search(fault[1]) else "the engine does not take it"
    return InvalidRequest(f"Invalid {param!r}: {said}.", param=param)


def _overloaded() -> EngineUnavailable:
    return EngineUnavailable(
        "The model is overloaded; try again shortly.",
        code="engine_overloaded",
        retry_after_s=OVERLOADED_RETRY_S,
    )


def _unavailable(text: str) -> EngineUnavailable:
    if _OVERLOAD.search(text):
        return _overloaded()
    if _LOADING.search(text):
        return EngineUnavailable(
            "The model is loading; try again shortly.",
            code="engine_loading",
            retry_after_s=UNAVAILABLE_RETRY_S,
        )
    return EngineUnavailable(
        "No engine could take the request; try again shortly.", retry_after_s=UNAVAILABLE_RETRY_S
    )
