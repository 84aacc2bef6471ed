"""An attempt at the tap, and what became of it."""

from __future__ import annotations

from typing import Any

import orjson

from ext_proc.cache.place import Place
from ext_proc.cache.store import Keys
from ext_proc.phases.tap import Tap
from ext_proc.vocabulary import (
    Continue,
    Effect,
    Phase,
    ResponseBodyArrived,
    ResponseHeadersArrived,
)
from gateway.budget.admission import AdmissionRecord, Verdict
from gateway.budget.measure import Amounts
from gateway.contract.ids import HoldId, KeyId, OrgId, RequestId
from gateway.contract.units import Tokens
from tests.unit.ext_proc.asked import NOW

HEADERS_GO = Continue(phase=Phase.RESPONSE_HEADERS, remove_headers=("content-length",))
UNTOUCHED = Continue(phase=Phase.RESPONSE_HEADERS)
EMPTY = Continue(phase=Phase.RESPONSE_BODY, body=b"")
JSON = "application/json"
ENGINE = "127.0.0.1:30000"
PLACE = Place(keys=Keys(exact="a" * 64), epoch="e1", ttl_seconds=60, flight=True)


def record(**changed: Any) -> AdmissionRecord:
    """Of a chat with 40 tokens held for its prompt and 60 for its completion."""
    plain: dict[str, Any] = {
        "decision": Verdict.METERED,
        "request_id": RequestId("r-1"),
        "org": OrgId("acme"),
        "key": KeyId("k1"),
        "hold": HoldId("r-1"),
        "held": Amounts.of(40, 60),
        "prompt_bound": Tokens(40),
        "completion_max": Tokens(60),
        "endpoint": "chat.completions",
        "model": "chat",
        "revision": "r1",
        "stream": True,
        "cache_key": PLACE.to_text(),
        "event_context": '{"team":"red","request_id":"r-1"}',
    }
    return AdmissionRecord(**{**plain, **changed})


def answer_headers(
    status: int = 200,
    kind: str = "text/event-stream",
    *,
    of: AdmissionRecord | None = None,
    end: bool = False,
    **changed: str,
) -> ResponseHeadersArrived:
    found = {":status": str(status), "content-type": kind}
    found |= {name.replace("_", "-"): value for name, value in changed.items()}
    return ResponseHeadersArrived(
        headers=found,
        record=(of or record(stream=kind.startswith("text/event-stream"))).to_fields(),
        end_of_stream=end,
        at_ms=NOW,
        at_s=1.0,
        upstream=ENGINE,
    )


def chunk(data: bytes = b"", *, end: bool = False, at_s: float = 2.0) -> ResponseBodyArrived:
    return ResponseBodyArrived(body=data, end_of_stream=end, at_s=at_s)


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
