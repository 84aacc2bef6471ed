"""An attempt at the tap, and what became of it."""

from __future__ import annotations

from typing import Any

import orjson

from ext_proc.phases.tap import Tap
from ext_proc.vocabulary import (
    Continue,
    Effect,
    Phase,
)

HEADERS_GO = Continue(phase=Phase.RESPONSE_HEADERS, remove_headers=("content-length",))
UNTOUCHED = Continue(phase=Phase.RESPONSE_HEADERS)
EMPTY = Continue(phase=Phase.RESPONSE_BODY, body=b"")
JSON = "application/json"


def tap_after(*events: object, keeps_headers: bool = True) -> tuple[Tap, list[Effect]]:
    machine = Tap(keeps_headers=keeps_headers)
    effects: list[Effect] = []
    for item in events:
        effects += machine.receive(item)  # type: ignore[arg-type]  # tests pass events only
    return machine, effects


def bodies(effects: list[Effect], *sent: bytes) -> bytes:
    """What the client sees, given what the engine ``sent`` chunk by chunk."""
    replies = [
        effect for effect in effects if isinstance(effect, Continue) and effect.phase is Phase.RESPONSE_BODY
    ]
    return b"".join(
        data if reply.body is None else reply.body for reply, data in zip(replies, sent, strict=True)
    )


def shown(effects: list[Effect]) -> tuple[str, dict[str, Any]]:
    """The status written over the engine's, and the error's fields ({} where there is no body)."""
    replies = [effect for effect in effects if isinstance(effect, Continue)]
    assert replies[0].phase is Phase.RESPONSE_HEADERS
    assert "content-length" in replies[0].remove_headers
    assert replies[0].set_headers["content-type"] == "application/json"
    texts = b"".join(reply.body or b"" for reply in replies[1:])
    return replies[0].set_headers[":status"], orjson.loads(texts)["error"] if texts else {}


def place(effects: list[Effect], kind: type[Effect]) -> int:
    return next(index for index, effect in enumerate(effects) if isinstance(effect, kind))
