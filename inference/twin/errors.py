"""SGLang's refusals in its own words. Pure.

Its validation errors tell its own file paths and quote the input; both are kept, because the gateway must
keep them from clients.
"""

from __future__ import annotations

from typing import Any, Final

import orjson

_SOURCE: Final = "/sgl-workspace/sglang/python/sglang/srt/entrypoints/http_server.py"


class EngineError(Exception):
    """An answer in SGLang's flat error shape: ``message``, ``type`` and ``status``."""

    def __init__(self, message: str, *, type_: str = "BadRequestError", status: int = 400) -> None:
        """``type_`` is SGLang's, not OpenAI's."""
        super().__init__(message)
        self.message, self.type, self.status = message, type_, status


def invalid(path: str, kind: str, loc: tuple[object, ...], message: str, value: object) -> EngineError:
    """What pydantic finds wrong with a field at ``loc``, as SGLang tells it."""
    detail = f"{{'type': {kind!r}, 'loc': {loc!r}, 'msg': {message!r}, 'input': {value!r}}}"
    return _validation(path, [detail])


def bad_role(path: str, index: int, role: object) -> EngineError:
    """A role that no message has: pydantic tells of both kinds of message it tried."""
    allowed = "'system', 'assistant', 'tool', 'function', 'developer', 'latest_reminder', 'root'"
    found = []
    for kind, message in (
        ("ChatCompletionMessageGenericParam", f"'role' must be one of {allowed} (case-insensitive)."),
        ("ChatCompletionMessageUserParam", "Input should be 'user'"),
    ):
        loc = ("body", "messages", index, f"function-after[validate_thinking_parts_role(), {kind}]", "role")
        found.append(f"{{'type': 'value_error', 'loc': {loc!r}, 'msg': {message!r}, 'input': {role!r}}}")
    return _validation(path, found)


def _validation(path: str, found: list[str]) -> EngineError:
    where = f'File "{_SOURCE}", line 1870, in handler'
    errors = "1 validation error" if len(found) == 1 else f"{len(found)} validation errors"
    lines = "\n".join(f"  {detail}" for detail in found)
    return EngineError(f"{errors}:\n{lines}\n\n  {where}\n    POST {path} {found}", type_="Bad Request")


def parsed(path: str, body: bytes) -> dict[str, Any]:
    """The JSON object of ``body``. Raises EngineError: 400, or 500 for a list, as SGLang does."""
    try:
        document = orjson.loads(body)
    except ValueError as error:
        raise invalid(path, "json_invalid", ("body", 0), f"JSON decode error: {error}", {}) from None
    if not isinstance(document, dict):
        raise EngineError("Internal Server Error", status=500)
    return document
