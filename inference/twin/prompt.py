"""Prompts as the twin counts them: four bytes of ``key`` stand for a token. Pure.

Token counts have one rule so that tests can compute them by hand: a text has one token per started four
bytes of UTF-8; a chat has besides four tokens per message and three for the answer's opening; tools count
as a message of their JSON.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final
from zlib import crc32

import orjson

from inference.twin.errors import EngineError, bad_role, invalid
from inference.twin.words import BYTES_PER_TOKEN, VOCABULARY

_START: Final = b"<s>\0"
_NEWLINE: Final = b"\n\0\0\0"
_END: Final = b"</s>"
_ROLES: Final = frozenset(
    ("system", "assistant", "tool", "function", "developer", "latest_reminder", "root", "user")
)
_MEDIA: Final = ("image_url", "video_url", "audio_url")


@dataclass(frozen=True, slots=True)
class Prompt:
    """One prompt. ``text`` is what ``echo`` repeats; empty for a chat."""

    key: bytes
    text: str = ""

    @property
    def tokens(self) -> int:
        """How many it has."""
        return len(self.key) // BYTES_PER_TOKEN

    def ids(self) -> list[int]:
        """Stable ids, one per token, in [0, VOCABULARY)."""
        return [
            crc32(self.key[start : start + BYTES_PER_TOKEN]) % VOCABULARY
            for start in range(0, len(self.key), BYTES_PER_TOKEN)
        ]

    def pieces(self) -> list[str]:
        """The texts of its tokens."""
        raw = self.text.encode()
        return [
            raw[start : start + BYTES_PER_TOKEN].decode(errors="replace")
            for start in range(0, len(raw), BYTES_PER_TOKEN)
        ]

    def continued(self, answer: str) -> bytes:
        """The key of the prompt and its answer, as the next turn of a chat would begin with it."""
        if self.text:
            return keyed((self.text + answer).encode())
        return self.key + keyed(answer.encode()) + _END


def keyed(text: bytes) -> bytes:
    """The key of a text."""
    return text + bytes(-len(text) % BYTES_PER_TOKEN)


def content_text(content: object) -> str:
    """The text of a message's content: a string, or its text parts joined as SGLang does."""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        parts = (part.get("text") for part in content if isinstance(part, dict))
        return " ".join(text for text in parts if isinstance(text, str))
    return ""


@lru_cache(maxsize=len(_ROLES))
def _opening(role: str) -> bytes:
    return _START + crc32(role.encode()).to_bytes(BYTES_PER_TOKEN) + _NEWLINE


def checked_messages(path: str, body: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The messages of a chat request. Raises EngineError."""
    messages = body.get("messages")
    if messages is None:
        raise invalid(path, "missing", ("body", "messages"), "Field required", dict(body))
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
        raise invalid(path, "list_type", ("body", "messages"), "Input should be a valid list", messages)
    if not messages:
        raise EngineError("Messages cannot be empty.")
    for index, message in enumerate(messages):
        role = message.get("role")
        if not isinstance(role, str) or role.lower() not in _ROLES:
            raise bad_role(path, index, role)
        for call in message.get("tool_calls") or ():
            _checked_arguments(call)
        content = message.get("content")
        for part in content if isinstance(content, list) else ():
            if isinstance(part, dict) and part.get("type") in _MEDIA:
                kind = part["type"]
                raise EngineError(
                    f"Model only supports text input; received unsupported content type '{kind}'."
                )
    return messages


def _checked_arguments(call: Mapping[str, Any]) -> None:
    try:
        found = orjson.loads(call["function"]["arguments"])
    except ValueError:
        raise EngineError(
            "Assistant tool call function.arguments must be valid JSON.", type_="BadRequest"
        ) from None
    if not isinstance(found, dict):
        raise EngineError("Assistant tool call function.arguments must be a JSON object.", type_="BadRequest")


def chat_prompt(messages: Sequence[Mapping[str, Any]], tools: Sequence[object]) -> Prompt:
    """The prompt of a chat; a developer speaks as system."""
    rendered = []
    if tools:
        rendered += [_opening("root"), keyed(orjson.dumps(tools)), _END]
    for message in messages:
        role = message["role"].lower()
        rendered += [
            _opening("system" if role == "developer" else role),
            keyed(content_text(message.get("content")).encode()),
        ]
        if calls := message.get("tool_calls"):
            rendered.append(keyed(orjson.dumps(calls)))
        rendered.append(_END)
    rendered.append(_opening("assistant"))
    return Prompt(b"".join(rendered))


def text_prompts(path: str, body: Mapping[str, Any]) -> tuple[Prompt, ...]:
    """The prompts of a completion: a string, strings, token ids, or lists of them. Raises EngineError."""
    prompt = body.get("prompt")
    if prompt is None:
        raise invalid(path, "missing", ("body", "prompt"), "Field required", dict(body))
    if not prompt or (isinstance(prompt, list) and not any(prompt)):
        raise EngineError("Prompt cannot be empty")
    alone = isinstance(prompt, str) or (isinstance(prompt, list) and type(prompt[0]) is int)
    return tuple(_text_prompt(path, item) for item in ([prompt] if alone else prompt))


def _text_prompt(path: str, item: object) -> Prompt:
    if isinstance(item, str):
        return Prompt(keyed(item.encode()), item)
    if isinstance(item, list) and item and all(type(token) is int for token in item):
        key = b"".join((token & 0xFFFFFFFF).to_bytes(BYTES_PER_TOKEN) for token in item)
        return Prompt(key, " ".join(f"t{token}" for token in item))
    raise invalid(path, "string_type", ("body", "prompt"), "Input should be a valid string", item)
