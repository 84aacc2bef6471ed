"""Requests whose answers the real SGLang and its twin are compared by: one of each kind and quirk."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

RUNNING_MAX: Final = 2
QUEUED_MAX: Final = 2
"""The limits that the cases of overload count on."""
Body = dict[str, Any]
CHAT: Final = "/v1/chat/completions"
TEXT: Final = "/v1/completions"


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One request. ``raw`` is sent as the body as it is.

    ``before`` are streams that run or wait when it is sent, and until it is answered; ``after`` are
    streams sent once it has produced something, one by one, each when the one before runs or waits, or,
    if its priority is above 0, has begun to answer. ``abort``: once it runs it is ended by
    ``/abort_request`` with its ``rid``.
    """

    name: str
    method: str = "POST"
    path: str = CHAT
    body: Body | None = None
    raw: str | None = None
    content_type: str = "application/json"
    before: tuple[Body, ...] = ()
    after: tuple[Body, ...] = field(default=())
    abort: bool = False


def chat(text: str = "What is the capital of France?", **fields: Any) -> Body:
    """A chat of one question, greedy, four tokens."""
    return {
        "model": "m",
        "messages": [{"role": "user", "content": text}],
        "temperature": 0,
        "max_tokens": 4,
        **fields,
    }


def completion(prompt: object = "Once upon", **fields: Any) -> Body:
    """A completion, greedy, three tokens."""
    return {
        "model": "m",
        "prompt": prompt,
        "temperature": 0,
        "max_tokens": 3,
        "ignore_eos": True,
        **fields,
    }


def tool(name: str, **properties: Any) -> Body:
    """A function of which every property is required."""
    parameters = {
        "type": "object",
        "properties": properties,
        "required": [*properties],
        "additionalProperties": False,
    }
    described = {"name": name, "description": f"Does {name}.", "parameters": parameters}
    return {"type": "function", "function": described}


USAGE: Final = {"include_usage": True}
CONTINUOUS: Final = {"include_usage": True, "continuous_usage_stats": True}
WEATHER: Final = tool("get_weather", city={"type": "string"}, unit={"type": "string", "enum": ["c", "f"]})
SUM: Final = tool("add", a={"type": "integer"}, b={"type": "integer"})
SCHEMA: Final = {
    "type": "object",
    "properties": {"capital": {"type": "string", "maxLength": 12}, "big": {"type": "boolean"}},
    "required": ["capital", "big"],
    "additionalProperties": False,
}
JSON_SCHEMA: Final = {"type": "json_schema", "json_schema": {"name": "place", "schema": SCHEMA}}
LONG: Final = chat("Write a story.", max_tokens=600, ignore_eos=True, stream=True)
FULL: Final = (LONG,) * (RUNNING_MAX + QUEUED_MAX)
LOW: Final = {**LONG, "priority": 0}
HIGH: Final = {**LONG, "priority": 100}
MIDDLE: Final = {**LONG, "priority": 5}
"""Above LOW, but not by so much that it would take a running one's place."""
HISTORY: Final[list[Body]] = [
    {"role": "user", "content": "Add 2 and 3."},
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [
            {"id": "call_1", "type": "function", "function": {"name": "add", "arguments": '{"a": 2, "b": 3}'}}
        ],
    },
    {"role": "tool", "tool_call_id": "call_1", "content": "5"},
]

_CALLED: Final = chat("What is the weather in Paris?", max_tokens=150, tool_choice="required")
_TOOLS: Final[Body] = {"tools": [WEATHER, SUM]}

PLAIN: Final = (
    Case(name="chat-length", body=chat(rid="rid-chat", ignore_eos=True)),
    Case(name="chat-stop", body=chat(max_tokens=100)),
    Case(name="chat-stop-sequence", body=chat(max_tokens=200, stop=["e", "a"])),
    Case(name="chat-two-choices", body=chat(n=2, ignore_eos=True)),
    Case(name="chat-no-tokens", body=chat(max_tokens=0)),
    Case(name="chat-max-completion-tokens", body=chat(max_completion_tokens=2, ignore_eos=True)),
    Case(name="chat-model-missing", body={k: v for k, v in chat(ignore_eos=True).items() if k != "model"}),
    Case(name="chat-seed", body=chat(seed=7, ignore_eos=True)),
    Case(name="chat-developer", body=chat(messages=[{"role": "developer", "content": "Be brief."}])),
    Case(
        name="chat-parts",
        body=chat(
            messages=[{"role": "user", "content": [{"type": "text", "text": t} for t in ("Say", "hello.")]}],
            ignore_eos=True,
        ),
    ),
    Case(name="chat-stream", body=chat(stream=True, ignore_eos=True)),
    Case(name="chat-stream-stop", body=chat(stream=True, max_tokens=100)),
    Case(name="chat-stream-usage", body=chat(stream=True, ignore_eos=True, stream_options=USAGE)),
    Case(
        name="chat-stream-continuous",
        body=chat(stream=True, rid="rid-stream", ignore_eos=True, stream_options=CONTINUOUS),
    ),
    Case(
        name="chat-stream-two-choices",
        body=chat(stream=True, n=2, ignore_eos=True, stream_options=CONTINUOUS),
    ),
    Case(name="chat-logprobs", body=chat(logprobs=True, ignore_eos=True)),
    Case(name="chat-logprobs-top", body=chat(logprobs=True, top_logprobs=2, ignore_eos=True)),
    Case(
        name="chat-stream-logprobs",
        body=chat(logprobs=True, top_logprobs=2, ignore_eos=True, stream=True, stream_options=CONTINUOUS),
    ),
)
CALLS: Final = (
    Case(name="chat-tools-required", body={**_CALLED, **_TOOLS}),
    Case(
        name="chat-tools-named",
        body={
            **_CALLED,
            "tools": [WEATHER],
            "tool_choice": {"type": "function", "function": {"name": "get_weather"}},
        },
    ),
    Case(name="chat-tools-auto", body=chat(**_TOOLS, ignore_eos=True)),
    Case(name="chat-tools-none", body=chat(**_TOOLS, tool_choice="none", ignore_eos=True)),
    Case(name="chat-tools-two-choices", body={**_CALLED, **_TOOLS, "n": 2}),
    Case(name="chat-tools-length", body={**_CALLED, **_TOOLS, "max_tokens": 9}),
    Case(name="chat-tools-history", body=chat(messages=HISTORY, **_TOOLS, ignore_eos=True)),
    Case(name="chat-stream-tools", body={**_CALLED, **_TOOLS, "stream": True, "stream_options": USAGE}),
    Case(
        name="chat-stream-tools-continuous",
        body={**_CALLED, **_TOOLS, "stream": True, "stream_options": CONTINUOUS},
    ),
    Case(
        name="chat-stream-tools-logprobs",
        body={**_CALLED, **_TOOLS, "stream": True, "logprobs": True},
    ),
    Case(
        name="chat-stream-tools-auto",
        body=chat(**_TOOLS, ignore_eos=True, stream=True, stream_options=CONTINUOUS),
    ),
    Case(name="bad-tools-missing", body=chat(tool_choice="required")),
    Case(
        name="bad-tool-unknown",
        body=chat(**_TOOLS, tool_choice={"type": "function", "function": {"name": "nope"}}),
    ),
    Case(name="bad-tool-schema", body=chat(tools=[tool("f", x={"type": 5})])),
    Case(name="bad-tools-and-format", body={**_CALLED, **_TOOLS, "response_format": JSON_SCHEMA}),
    Case(
        name="bad-call-arguments",
        body=chat(
            messages=[
                HISTORY[0],
                {
                    **HISTORY[1],
                    "tool_calls": [
                        {"id": "c", "type": "function", "function": {"name": "add", "arguments": "{"}}
                    ],
                },
            ]
        ),
    ),
)
FORMS: Final = (
    Case(name="chat-json-schema", body=chat(response_format=JSON_SCHEMA, max_tokens=60)),
    Case(name="chat-stream-json-schema", body=chat(response_format=JSON_SCHEMA, max_tokens=60, stream=True)),
    Case(name="chat-json-object", body=chat(response_format={"type": "json_object"}, max_tokens=6)),
    Case(name="text-json-schema", path=TEXT, body=completion(response_format=JSON_SCHEMA, max_tokens=60)),
    Case(name="bad-json-schema-missing", body=chat(response_format={"type": "json_schema"})),
    Case(
        name="bad-json-schema-type",
        body=chat(
            response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "nope"}}}
        ),
    ),
    Case(name="bad-regex", body=chat(regex="(")),
)
COMPLETIONS: Final = (
    Case(name="text-length", path=TEXT, body=completion()),
    Case(name="text-two-prompts", path=TEXT, body=completion(["Once upon", "A quick"])),
    Case(name="text-two-choices", path=TEXT, body=completion(n=2)),
    Case(name="text-token-ids", path=TEXT, body=completion([504, 2365])),
    Case(name="text-token-id-prompts", path=TEXT, body=completion([[504, 2365], [504]])),
    Case(name="text-stop", path=TEXT, body=completion(stop=" a", ignore_eos=False, max_tokens=60)),
    Case(name="text-suffix", path=TEXT, body=completion(suffix=" The end.")),
    Case(name="text-best-of", path=TEXT, body=completion(best_of=2)),
    Case(name="text-echo", path=TEXT, body=completion(echo=True)),
    Case(name="text-echo-two-prompts", path=TEXT, body=completion(["Once upon", "A"], echo=True)),
    Case(name="text-echo-token-ids", path=TEXT, body=completion([504, 2365], echo=True)),
    Case(name="text-echo-logprobs", path=TEXT, body=completion(echo=True, logprobs=1)),
    Case(name="text-logprobs", path=TEXT, body=completion(logprobs=2)),
    Case(name="text-logprobs-zero", path=TEXT, body=completion(logprobs=0)),
    Case(name="text-stream", path=TEXT, body=completion(max_tokens=6, stream=True)),
    Case(
        name="text-stream-continuous",
        path=TEXT,
        body=completion(max_tokens=6, stream=True, stream_options=CONTINUOUS),
    ),
    Case(
        name="text-stream-two-prompts",
        path=TEXT,
        body=completion(["Once upon", "A quick"], stream=True, stream_options=CONTINUOUS),
    ),
    Case(name="text-stream-echo", path=TEXT, body=completion(echo=True, stream=True)),
    Case(name="text-stream-logprobs", path=TEXT, body=completion(logprobs=2, stream=True)),
    Case(name="text-stream-echo-logprobs", path=TEXT, body=completion(echo=True, logprobs=1, stream=True)),
    Case(name="bad-prompt-empty", path=TEXT, body=completion("")),
    Case(name="bad-prompt-missing", path=TEXT, body={"model": "m"}),
    Case(name="bad-echo-no-tokens", path=TEXT, body=completion(echo=True, max_tokens=0)),
)
ENDED: Final = (
    Case(
        name="chat-stream-aborted",
        body=chat(stream=True, rid="rid-abort", ignore_eos=True, max_tokens=900, stream_options=USAGE),
        abort=True,
    ),
    Case(name="chat-aborted", body=chat(rid="rid-abort-2", ignore_eos=True, max_tokens=900), abort=True),
    Case(name="text-aborted", path=TEXT, body=completion(rid="rid-abort-3", max_tokens=900), abort=True),
    Case(
        name="text-stream-aborted",
        path=TEXT,
        body=completion(rid="rid-abort-4", max_tokens=900, stream=True, stream_options=USAGE),
        abort=True,
    ),
    Case(name="chat-queue-full", body=chat(), before=FULL),
    Case(name="chat-stream-queue-full", body=chat(stream=True, stream_options=USAGE), before=FULL),
    Case(name="text-queue-full", path=TEXT, body=completion(), before=FULL),
    Case(name="text-stream-queue-full", path=TEXT, body=completion(stream=True), before=FULL),
    Case(
        name="chat-stream-preempted",
        body={**LOW, "stream_options": CONTINUOUS},
        before=(LOW,),
        after=(LOW, LOW, HIGH, MIDDLE),
    ),
    Case(
        name="text-stream-preempted",
        path=TEXT,
        body=completion(max_tokens=600, priority=0, stream=True, stream_options=CONTINUOUS),
        before=(LOW,),
        after=(LOW, LOW, HIGH, MIDDLE),
    ),
    Case(
        name="chat-preempted",
        body={**LOW, "stream": False},
        before=(LOW,),
        after=(LOW, LOW, HIGH, MIDDLE),
    ),
)
REFUSED: Final = (
    Case(name="bad-messages-empty", body={"model": "m", "messages": []}),
    Case(name="bad-messages-missing", body={"model": "m"}),
    Case(name="bad-role", body=chat(messages=[{"role": "wizard", "content": "x"}])),
    Case(
        name="bad-image",
        body=chat(
            messages=[{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:,x"}}]}]
        ),
    ),
    Case(name="bad-json", raw="{nope"),
    Case(name="bad-list", raw="[1]"),
    Case(name="bad-content-type", raw="{}", content_type="text/plain"),
    Case(name="bad-max-tokens-text", body=chat(max_tokens="abc")),
    Case(name="bad-max-tokens-negative", body=chat(max_tokens=-3)),
    Case(name="bad-context", body=chat(max_tokens=100_000)),
    Case(name="bad-context-stream", body=chat(max_tokens=100_000, stream=True)),
    Case(name="bad-prompt-too-long", body=chat("word " * 9000)),
    Case(name="bad-priority", body=chat(priority="high")),
    Case(name="bad-temperature", body=chat(temperature=-1)),
    Case(name="bad-top-p", body=chat(top_p=3)),
    Case(name="bad-n-zero", body=chat(n=0)),
    Case(name="bad-adapter", body=chat(model="m:nope")),
    Case(name="bad-embeddings", path="/v1/embeddings", body={"model": "m", "input": "x"}),
)
OTHER_PATHS: Final = (
    Case(name="models", method="GET", path="/v1/models"),
    Case(name="model-unknown", method="GET", path="/v1/models/nope"),
    Case(name="tokenize", path="/tokenize", body={"prompt": "hello world"}),
    Case(name="tokenize-list", path="/v1/tokenize", body={"model": "m", "prompt": ["hello", "world"]}),
    Case(name="tokenize-messages", path="/v1/tokenize", body={"model": "m", "messages": chat()["messages"]}),
    Case(
        name="tokenize-tools", path="/v1/tokenize", body={"model": "m", "messages": HISTORY, "tools": [SUM]}
    ),
    Case(name="tokenize-empty", path="/v1/tokenize", body={"model": "m", "prompt": ""}),
    Case(name="bad-tokenize", path="/v1/tokenize", body={"model": "m"}),
    Case(name="bad-tokenize-both", path="/v1/tokenize", body={"prompt": "x", "messages": HISTORY}),
    Case(name="abort-unknown", path="/abort_request", body={"rid": "nobody"}),
    Case(name="ready", method="GET", path="/ready"),
    Case(name="health", method="GET", path="/health"),
    Case(name="path-unknown", method="GET", path="/nope"),
    Case(name="method-wrong", method="GET", path=CHAT),
    Case(name="loads", method="GET", path="/v1/loads"),
    Case(name="metrics", method="GET", path="/metrics"),
)
CASES: Final = PLAIN + CALLS + FORMS + COMPLETIONS + REFUSED + ENDED + OTHER_PATHS
"""The metrics come last: they tell of all the others."""
DRAINING: Final = (
    Case(name="draining-ready", method="GET", path="/ready"),
    Case(name="draining-health", method="GET", path="/health"),
    Case(name="draining-models", method="GET", path="/v1/models"),
    Case(name="draining-chat", body=chat(ignore_eos=True)),
    Case(name="draining-stream", body=chat(stream=True, ignore_eos=True)),
)
"""Asked after SIGTERM, while a stream still runs."""


def embeddings(given: object, **fields: Any) -> Body:
    """A request for embeddings."""
    return {"model": "m", "input": given, **fields}


_EMBEDDED: Final = {
    "embeddings": embeddings("hello world"),
    "embeddings-list": embeddings(["hello world", "hello world", "quite another text"]),
    "embeddings-token-ids": embeddings([7592, 2088]),
    "embeddings-token-id-lists": embeddings([[7592, 2088], [7592]]),
    "embeddings-base64": embeddings("hello world", encoding_format="base64"),
    "embeddings-dimensions": embeddings("hello world", dimensions=8),
    "embeddings-empty": embeddings(""),
    "embeddings-blank": embeddings(["x", " "]),
    "embeddings-empty-list": embeddings([]),
    "embeddings-missing": {"model": "m"},
    "embeddings-format-unknown": embeddings("x", encoding_format="int8"),
    "embeddings-too-long": embeddings("word " * 900),
    "embeddings-negative-id": embeddings([-1]),
}
EMBEDDINGS: Final = tuple(
    Case(name=name, path="/v1/embeddings", body=body) for name, body in _EMBEDDED.items()
)
"""For an engine that was started for embeddings."""
