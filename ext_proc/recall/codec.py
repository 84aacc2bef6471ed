"""Words to bytes and back, for the way through the Unix socket: JSON with a version, bounded, checked.

A worker and a recall process of two versions meet during an update: what one does not understand is
BadMessage there, and a miss to the request.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Final

import orjson

from ext_proc.cache.policy import Profile
from ext_proc.cache.question import Level
from ext_proc.cache.store import Lineage, is_key
from ext_proc.recall.words import (
    CANDIDATES_MAX,
    SERVED_BYTES_MAX,
    TEXT_BYTES_MAX,
    Ask,
    Candidate,
    Forget,
    RecallUnavailable,
    Remember,
    Reply,
    Served,
)
from gateway.contract.ids import ModelName, OrgId, is_identifier
from gateway.contract.units import UnixMillis

FIND: Final = "/tidegate.recall.v1.Recall/Find"
EXPECT: Final = "/tidegate.recall.v1.Recall/Expect"
REMEMBER: Final = "/tidegate.recall.v1.Recall/Remember"
FORGET: Final = "/tidegate.recall.v1.Recall/Forget"
SERVED: Final = "/tidegate.recall.v1.Recall/Served"
VERSION: Final = 1
BYTES_MAX: Final = 3 * SERVED_BYTES_MAX
"""Of a message: both bodies of Served as base64, a third longer, and the rest."""
DONE: Final = orjson.dumps({"v": VERSION})
"""The answer of all calls but Find."""
_NAME_CHARS_MAX: Final = 256
_TAGS_MAX: Final = 64


class BadMessage(ValueError):
    """Not a message of this version, too large, or a field is missing or of another kind. Its text names the
    field, never its value."""


def ask_to_bytes(ask: Ask) -> bytes:
    """Raises BadMessage."""
    return _dumped(asdict(ask))


def ask_of(data: bytes) -> Ask:
    """Raises BadMessage."""
    read = _loaded(data)
    return Ask(
        org=_org(read),
        model=ModelName(_text(read, "model")),
        partition=_key(read, "partition"),
        asked=_key(read, "asked"),
        text=_text(read, "text", TEXT_BYTES_MAX),
        profile=_profile(read),
        keep_s=_number(read, "keep_s"),
        rule=_text(read, "rule"),
        slo=_share(read, "slo"),
        verify_share=_share(read, "verify_share"),
        judge_per_minute=_number(read, "judge_per_minute"),
    )


def reply_to_bytes(reply: Reply | RecallUnavailable) -> bytes:
    """Raises BadMessage."""
    if isinstance(reply, RecallUnavailable):
        return _dumped({"unavailable": str(reply)})
    return _dumped(asdict(reply))


def reply_of(data: bytes) -> Reply:
    """Raises BadMessage, RecallUnavailable where that is what was said."""
    read = _loaded(data)
    if "unavailable" in read:
        raise RecallUnavailable(_text(read, "unavailable"))
    candidates, steps = read.get("candidates"), read.get("steps")
    if not isinstance(candidates, list) or len(candidates) > CANDIDATES_MAX:
        raise BadMessage("candidates")
    if not isinstance(steps, list) or not all(isinstance(step, str) for step in steps):
        raise BadMessage("steps")
    return Reply(
        candidates=tuple(_candidate(candidate) for candidate in candidates),
        reason=_text(read, "reason"),
        steps=tuple(steps),
    )


def done_of(data: bytes) -> None:
    """Raises BadMessage, RecallUnavailable where that is what was said."""
    read = _loaded(data)
    if "unavailable" in read:
        raise RecallUnavailable(_text(read, "unavailable"))


def remember_to_bytes(remember: Remember) -> bytes:
    """Raises BadMessage."""
    return _dumped(asdict(remember))


def remember_of(data: bytes) -> Remember:
    """Raises BadMessage."""
    read = _loaded(data)
    return Remember(
        org=_org(read),
        partition=_key(read, "partition"),
        entry=_key(read, "entry"),
        expires_at=UnixMillis(_number(read, "expires_at")),
        lineage=_lineage(read.get("lineage")),
    )


def forget_to_bytes(forget: Forget) -> bytes:
    """Raises BadMessage."""
    return _dumped(asdict(forget))


def forget_of(data: bytes) -> Forget:
    """Raises BadMessage."""
    read = _loaded(data)
    return Forget(org=_org(read), entry=_key(read, "entry"))


def served_to_bytes(served: Served) -> bytes:
    """Raises BadMessage: a body is larger than SERVED_BYTES_MAX."""
    if max(len(served.request), len(served.answer)) > SERVED_BYTES_MAX:
        raise BadMessage("too large")
    bodies = {name: b64encode(getattr(served, name)).decode() for name in ("request", "answer")}
    return _dumped(asdict(served) | bodies)


def served_of(data: bytes) -> Served:
    """Raises BadMessage."""
    read = _loaded(data)
    return Served(
        org=_org(read),
        model=ModelName(_text(read, "model")),
        bucket=_text(read, "bucket"),
        asked=_key(read, "asked"),
        entry=_key(read, "entry"),
        request=_body(read, "request"),
        answer=_body(read, "answer"),
        slo=_share(read, "slo"),
    )


def _dumped(fields: dict[str, Any]) -> bytes:
    try:
        data = orjson.dumps({"v": VERSION, **fields})
    except TypeError as error:  # half a surrogate pair, which no UTF-8 can carry
        raise BadMessage("a text is not Unicode") from error
    if len(data) > BYTES_MAX:
        raise BadMessage("too large")
    return data


def _loaded(data: bytes) -> dict[str, Any]:
    if len(data) > BYTES_MAX:
        raise BadMessage("too large")
    try:
        read = orjson.loads(data)
    except ValueError:
        raise BadMessage("not JSON") from None
    if not isinstance(read, dict) or read.get("v") != VERSION:
        raise BadMessage("of another version")
    return read


def _text(read: dict[str, Any], name: str, most: int = _NAME_CHARS_MAX) -> str:
    value = read.get(name)
    if not isinstance(value, str) or len(value) > most:
        raise BadMessage(name)
    return value


def _number(read: dict[str, Any], name: str) -> int:
    value = read.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise BadMessage(name)
    return value


def _key(read: dict[str, Any], name: str) -> str:
    value = read.get(name)
    if not isinstance(value, str) or not is_key(value):
        raise BadMessage(name)
    return value


def _org(read: dict[str, Any]) -> OrgId:
    value = read.get("org")
    if not is_identifier(value):
        raise BadMessage("org")
    return OrgId(str(value))


def _profile(read: dict[str, Any]) -> Profile:
    try:
        return Profile(_text(read, "profile"))
    except ValueError:
        raise BadMessage("profile") from None


def _body(read: dict[str, Any], name: str) -> bytes:
    try:
        body = b64decode(_text(read, name, BYTES_MAX), validate=True)
    except ValueError:
        raise BadMessage(name) from None
    if len(body) > SERVED_BYTES_MAX:
        raise BadMessage(name)
    return body


def _candidate(read: object) -> Candidate:
    if not isinstance(read, dict) or not isinstance(read.get("similarity"), float | int):
        raise BadMessage("candidates")
    try:
        level = Level(_text(read, "level"))
    except ValueError:
        raise BadMessage("candidates") from None
    return Candidate(
        entry=_key(read, "entry"),
        similarity=float(read["similarity"]),
        share=_share(read, "share"),
        probation=read.get("probation") is True,
        level=level,
        bucket=_text(read, "bucket"),
    )


def _lineage(read: object) -> Lineage:
    if not isinstance(read, dict):
        raise BadMessage("lineage")
    tags = read.get("tags")
    if not isinstance(tags, list) or len(tags) > _TAGS_MAX or not all(isinstance(tag, str) for tag in tags):
        raise BadMessage("lineage.tags")
    return Lineage(
        request_id=_text(read, "request_id"),
        model=_text(read, "model"),
        revision=_text(read, "revision"),
        template=_text(read, "template"),
        policy_version=_text(read, "policy_version"),
        tags=tuple(tags),
        admitted_at=UnixMillis(_number(read, "admitted_at")),
    )


def _share(read: Mapping[str, Any], name: str) -> float:
    value = read.get(name)
    if not isinstance(value, float | int) or not 0 <= value <= 1:
        raise BadMessage(name)
    return value
