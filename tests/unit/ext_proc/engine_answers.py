"""What SGLang sends, in small, and a meter to feed it to."""

from __future__ import annotations

from typing import Any

import orjson

from ext_proc.charge import Bounds, Charge, Tariff
from ext_proc.metering import Meter
from gateway.contract.units import Tokens
from gateway.openai.answers import Usage
from gateway.openai.mending import Mender
from gateway.openai.sse import SseParser

STREAM = "text/event-stream; charset=utf-8"
JSON = "application/json"
DONE = b"data: [DONE]\n\n"


def bounds(*, prompt: int = 1000, completion: int = 1000, choices: int = 1, price: str = "") -> Bounds:
    """Of a hold that nothing in these tests reaches, unless it says so. ``price`` as in the record."""
    tariff = Tariff.of(price)
    held = tariff.cost(Usage(prompt=Tokens(prompt), completion=Tokens(completion * choices)))
    return Bounds(
        prompt=Tokens(prompt),
        completion=Tokens(completion),
        choices=choices,
        micro_usd=held,
        tariff=tariff,
        price=price,
    )


def meter(content_type: str = STREAM, **changed: Any) -> Meter:
    """``changed``: of the meter, or of its ``bounds``."""
    endpoint = changed.pop("endpoint", "chat.completions")
    names = ("prompt", "completion", "choices", "price")
    held = bounds(**{name: changed.pop(name) for name in names if name in changed})
    plain: dict[str, Any] = {
        "endpoint": endpoint,
        "mender": Mender(endpoint=endpoint, request_id="r-1", model="m", revision="r1", created_s=7),
        "bounds": held,
        "stream": content_type.startswith(STREAM[:17]),
        "usage_asked": False,
        "continuous_usage_asked": False,
        "started_s": 100.0,
    }
    return Meter(content_type=content_type, **{**plain, **changed})


def usage(prompt: Any, completion: Any, cached: int = 0) -> dict[str, Any]:
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": 0,
        "prompt_tokens_details": {"cached_tokens": cached},
    }


def event(
    delta: dict[str, Any] | None, used: Any = None, *, index: int = 0, finish: str | None = None
) -> bytes:
    choices = (
        [] if delta is None else [{"index": index, "delta": delta, "logprobs": None, "finish_reason": finish}]
    )
    chunk = {"id": "r", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": choices}
    return b"data: " + orjson.dumps({**chunk, "usage": used}) + b"\n\n"


def words(*texts: str, prompt: int = 14) -> bytes:
    """A role chunk and a content chunk for each text, two tokens each, with continuous usage."""
    role = event({"role": "assistant", "content": ""}, usage(prompt, 0))
    return role + b"".join(
        event({"content": text}, usage(prompt, 2 * (position + 1))) for position, text in enumerate(texts)
    )


FINISH = event({}, usage(14, 4), finish="stop")
WHOLE = words("hel", "lo") + FINISH + event(None, usage(14, 4, 13)) + DONE


def run(stream: bytes, subject: Meter | None = None, *, cut: bool = False) -> tuple[Meter, bytes]:
    subject = subject or meter()
    forward = subject.feed(stream, at_s=101.0).forward
    if cut:
        subject.cut(at_s=102.0)
    else:
        forward += subject.end(at_s=102.0).forward
    return subject, forward


def shown(forward: bytes) -> list[Any]:
    data = [item.data for item in SseParser().feed(forward)]
    return [None if item is None or item == b"[DONE]" else orjson.loads(item) for item in data]


def figures(charge: Charge) -> tuple[int, bool, bool]:
    return charge.used.tokens, charge.unknown, charge.estimated


FULL = {"object": "error", "message": "The request queue is full.", "type": "X", "param": None, "code": 503}
FRAME = b"data: " + orjson.dumps({"error": FULL}) + b"\n\n"


def completion(finish: str = "stop", used: Any = None, choices: int = 1) -> bytes:
    message = {"role": "assistant", "content": "hi"}
    return orjson.dumps(
        {
            "id": "r",
            "object": "chat.completion",
            "created": 1,
            "model": "engine/m",
            "choices": [
                {"index": index, "message": message, "finish_reason": finish} for index in range(choices)
            ],
            "usage": usage(14, 4, 3) if used is None else used,
        }
    )
