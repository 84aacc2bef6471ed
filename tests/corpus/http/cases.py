"""The corpus of odd and bad HTTP: one JSON file for each thing that a client may write on a connection.

about    what is wrong, and who says so
send     HTTP/1.1: the bytes, piece by piece. A string stands for its characters as bytes (Latin-1);
         ``{"repeat": [text, n]}`` for n times the text; ``{"pause_ms": n}`` sends what came so far and waits
frames   HTTP/2 in place of ``send``: see frames.py
expect   the answers in their order, each with
           status      of it
           code        of its error, when it is one
           logged      status and detail in the access log, where the answer's x-request-id does not lead to
                       the entry: Envoy refuses before the request has a name
           bodiless    true where HTTP forbids a body
           grpc        true where it is a refusal as gRPC has it, without a body
           allow       of the header Allow
           says        a text that the body must hold
         or, for HTTP/2, ``{"reset": CODE}`` or ``{"goaway": CODE}`` of RFC 9113 section 7
ends     ``closed``: after the answers, or without any, Envoy closes the connection;
         ``left``: the client goes away without waiting for an answer
logged   of what ended without an answer: status and detail in the access log
unlogged why no access entry is written, for what never became a request
engine   how many requests the engine sees of it; 0 if absent

In texts ``<key>``, ``<host>``, ``<port>``, ``<chat>`` (a good body), ``<length>`` (bytes after the first
empty line), ``<chat-size>`` and ``<chat-length>`` (its length, in hexadecimal) are filled in.
Whatever a client says in another's name holds the word "forged": no engine, book or answer may repeat it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

DIRECTORY: Final = Path(__file__).parent
FORGED: Final = b"forged"
_MEMBERS: Final = frozenset({"about", "send", "frames", "expect", "ends", "logged", "unlogged", "engine"})
_OF_AN_ANSWER: Final = frozenset(
    {"status", "code", "logged", "bodiless", "grpc", "allow", "says", "reset", "goaway"}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """One answer; see above. ``status`` 0 stands for a reset or a closed HTTP/2 connection."""

    status: int = 0
    code: str = ""
    logged: str = ""
    bodiless: bool = False
    grpc: bool = False
    allow: str = ""
    says: str = ""
    reset: str = ""
    goaway: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Filling:
    """What stands for the names in angle brackets."""

    key: str
    host: str
    port: int
    chat: str

    def fill(self, text: str, *, length: int = 0) -> bytes:
        """``text`` as the bytes to send."""
        for name, value in (
            ("<key>", self.key),
            ("<host>", self.host),
            ("<port>", str(self.port)),
            ("<chat>", self.chat),
            ("<chat-size>", str(len(self.chat))),
            ("<chat-length>", f"{len(self.chat):x}"),
            ("<length>", str(length)),
        ):
            text = text.replace(name, value)
        return text.encode("latin-1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """What one client does on one connection."""

    name: str
    spec: dict[str, Any]

    @property
    def expect(self) -> tuple[Expected, ...]:
        """The answers."""
        return tuple(Expected(**answer) for answer in self.spec["expect"])

    @property
    def ends(self) -> str:
        """``closed``, ``left`` or empty."""
        return str(self.spec.get("ends", ""))

    @property
    def logged(self) -> list[str]:
        """Status and detail of those entries of the access log that no request id leads to."""
        found = [one.logged for one in self.expect if one.logged]
        return [*found, self.spec["logged"]] if "logged" in self.spec else found

    @property
    def engine(self) -> int:
        """How many requests the engine sees."""
        return int(self.spec.get("engine", 0))

    @property
    def frames(self) -> list[dict[str, Any]]:
        """The HTTP/2 frames; none for HTTP/1.1."""
        return list(self.spec.get("frames", []))

    @property
    def entries(self) -> int:
        """How many entries of the access log it makes."""
        return 0 if "unlogged" in self.spec else max(1, len(self.spec["expect"]))

    def segments(self, filling: Filling) -> list[bytes | float]:
        """The bytes to send, and between them how many seconds to wait."""
        pieces = self.spec["send"]
        unfilled = b"".join(filling.fill(_text(piece)) for piece in pieces if "pause_ms" not in piece)
        length = len(unfilled.partition(b"\r\n\r\n")[2])
        found: list[bytes | float] = [b""]
        for piece in pieces:
            if isinstance(piece, dict) and "pause_ms" in piece:
                found += [piece["pause_ms"] / 1000, b""]
            else:
                last = found[-1]
                assert isinstance(last, bytes)
                found[-1] = last + filling.fill(_text(piece), length=length)
        return found


def _text(piece: str | dict[str, Any]) -> str:
    if isinstance(piece, str):
        return piece
    text, times = piece["repeat"]
    return str(text) * int(times)


@cache
def cases() -> tuple[Case, ...]:
    """Every case, by name. Raises AssertionError for a file that is none."""
    found = []
    for file in sorted(DIRECTORY.glob("*.json")):
        spec = json.loads(file.read_text(encoding="utf-8"))
        assert spec.keys() <= _MEMBERS, f"{file.name}: unknown {sorted(spec.keys() - _MEMBERS)}"
        assert spec["about"] and ("send" in spec) != ("frames" in spec), file.name
        assert spec.get("ends", "") in ("", "closed", "left"), file.name
        assert spec["expect"] or "ends" in spec, file.name
        assert (spec.get("ends") == "left") <= ("logged" in spec or "unlogged" in spec), file.name
        for answer in spec["expect"]:
            assert answer.keys() <= _OF_AN_ANSWER, f"{file.name}: {answer}"
        found.append(Case(name=file.stem, spec=spec))
    return tuple(found)
