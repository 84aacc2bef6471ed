"""The stream corpus: one JSON file for each answer an engine may give to a stream, and what must come of it.

about     what is odd
body      what is sent, in order: texts with the pieces of ``pieces.py`` in braces, {"hex": BYTES},
          {"chunk": MEMBERS} (a chunk with these over a good one's), {"repeat": TEXT, "times": N},
          {"split": true} (what stands before it arrives on its own)
status, headers, framing   of the HTTP answer: 200, an event stream, "chunked" ("length", "close")
before    raw bytes in front of the answer
end       "end" (properly), "close" (TCP ends first), "reset", "stay" (nothing more comes)
wire      true: about HTTP itself, so not for the meter alone
expect    client: whole | error (an error event, then [DONE]) | refused (a status and an error body) |
          broken (the transfer ends without [DONE]); text: the content shown; code, status: of an error;
          charge: exact | estimated | unknown | zero; used: tokens. A list: any one of these
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

from tests.corpus.streams.pieces import filled, with_chunk

DIRECTORY: Final = Path(__file__).parent
EVENT_STREAM: Final = "text/event-stream; charset=utf-8"
_MEMBERS: Final = frozenset(
    {"about", "body", "status", "headers", "framing", "before", "end", "after", "wire", "expect"}
)
_CLIENTS: Final = frozenset({"whole", "error", "refused", "broken"})
_CHARGES: Final = frozenset({"exact", "estimated", "unknown", "zero"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """One thing that may come of a stream; None where it is open."""

    client: str
    charge: str
    text: str | None = None
    code: str | None = None
    status: int | None = None
    used: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamCase:
    """One answer."""

    name: str
    spec: dict[str, Any]

    @property
    def status(self) -> int:
        """Of the engine's answer."""
        return int(self.spec.get("status", 200))

    @property
    def headers(self) -> list[tuple[str, str]]:
        """Of the engine's answer, but those of the framing."""
        return [(name, value) for name, value in self.spec.get("headers", [["content-type", EVENT_STREAM]])]

    @property
    def end(self) -> str:
        """How the answer ends."""
        return str(self.spec.get("end", "end"))

    @property
    def after(self) -> bytes:
        """What the client must have before the end comes; empty: nothing."""
        return str(self.spec.get("after", "")).encode()

    @property
    def on_the_wire_only(self) -> bool:
        """Whether it is about HTTP itself."""
        return bool(self.spec.get("wire", False)) or self.end == "stay"

    @property
    def expected(self) -> tuple[Expected, ...]:
        """What may come of it."""
        found = self.spec["expect"]
        return tuple(Expected(**one) for one in (found if isinstance(found, list) else [found]))

    def writes(self) -> list[bytes]:
        """The body, in the pieces it arrives in."""
        writes = [b""]
        for part in self.spec["body"]:
            if isinstance(part, str):
                writes[-1] += filled(part)
            elif "hex" in part:
                writes[-1] += bytes.fromhex(part["hex"])
            elif "chunk" in part:
                writes[-1] += with_chunk(part["chunk"])
            elif "repeat" in part:
                writes[-1] += filled(part["repeat"]) * part["times"]
            else:
                assert part == {"split": True}, f"{self.name}: {part}"
                writes.append(b"")
        return [write for write in writes if write]


@cache
def stream_cases() -> tuple[StreamCase, ...]:
    """Every case, by name. Raises AssertionError for a file that is none."""
    found = []
    for file in sorted(DIRECTORY.glob("*.json")):
        case = StreamCase(name=file.stem, spec=json.loads(file.read_text(encoding="utf-8")))
        assert case.spec.keys() <= _MEMBERS, f"{file.name}: {sorted(case.spec.keys() - _MEMBERS)}"
        assert case.spec["about"], file.name
        for expected in case.expected:
            assert expected.client in _CLIENTS and expected.charge in _CHARGES, file.name
        found.append(case)
    return tuple(found)
