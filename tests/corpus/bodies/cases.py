"""The corpus of request bodies: one JSON file for each, most of them bad.

about     what is wrong, and who says so
endpoint  chat.completions, completions, embeddings or tokenize
set       parameters put into a good body of that endpoint
drop      parameters left out of it
bytes     in place of both: the whole body in pieces, each a string (its characters as bytes, Latin-1) or
          ``{"repeat": [text, n]}``
expect    status, and code and param of a refusal; param null where none is at fault
planned   true where the request is well formed and the plan for it is refused
engine    of an accepted one: fields as the engine gets them; null for one that it does not get

Values in ``set`` may be ``{"$repeat": [text, n]}`` (a long string), ``{"$copies": [value, n]}`` (an array),
``{"$keys": n}`` (an object of n pairs) or ``{"$nest": n}`` (arrays in arrays), so that files stay small.
The models are those of models.yaml beside this file: ``everything`` generates with all there is, ``plain``
with nothing that it need not, ``vectors`` embeds.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

from gateway.openai.terms import Endpoint

DIRECTORY: Final = Path(__file__).parent
MODELS: Final = DIRECTORY / "models.yaml"
MODEL: Final = "everything"
_MEMBERS: Final = frozenset({"about", "endpoint", "set", "drop", "bytes", "expect", "planned", "engine"})
GOOD: Final[dict[Endpoint, dict[str, Any]]] = {
    Endpoint.CHAT: {"model": MODEL, "messages": [{"role": "user", "content": "hello"}], "max_tokens": 1},
    Endpoint.COMPLETIONS: {"model": MODEL, "prompt": "hello", "max_tokens": 1},
    Endpoint.EMBEDDINGS: {"model": "vectors", "input": "hello"},
    Endpoint.TOKENIZE: {"model": MODEL, "prompt": "hello"},
}
"""What ``set`` and ``drop`` change."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """Of the answer; code and param are empty for a 200."""

    status: int
    code: str = ""
    param: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One body."""

    name: str
    spec: dict[str, Any]

    @property
    def endpoint(self) -> Endpoint:
        """Where it is sent."""
        return Endpoint(self.spec["endpoint"])

    @property
    def expect(self) -> Expected:
        """What comes of it."""
        return Expected(**self.spec["expect"])

    @property
    def planned(self) -> bool:
        """Refused only after it was understood."""
        return bool(self.spec.get("planned", False))

    @property
    def engine(self) -> dict[str, Any]:
        """What the engine gets."""
        return dict(self.spec.get("engine", {}))

    @property
    def body(self) -> bytes:
        """As it is sent."""
        if "bytes" in self.spec:
            return b"".join(map(_piece, self.spec["bytes"]))
        fields = {name: value for name, value in GOOD[self.endpoint].items() if name not in self._dropped}
        fields |= {name: _value(value) for name, value in self.spec.get("set", {}).items()}
        return json.dumps(fields).encode()

    @property
    def _dropped(self) -> list[str]:
        return list(self.spec.get("drop", []))


def _piece(piece: str | dict[str, Any]) -> bytes:
    if isinstance(piece, str):
        return piece.encode("latin-1")
    text, times = piece["repeat"]
    return str(text).encode("latin-1") * int(times)


def _value(value: Any) -> Any:
    if isinstance(value, list):
        return [_value(entry) for entry in value]
    if not isinstance(value, dict):
        return value
    match value:
        case {"$repeat": [text, times]}:
            return text * times
        case {"$copies": [entry, times]}:
            return [_value(entry)] * times
        case {"$keys": count}:
            return {f"k{number}": "v" for number in range(count)}
        case {"$nest": depth}:
            nested: list[Any] = []
            for _ in range(depth - 1):
                nested = [nested]
            return nested
        case _:
            return {name: _value(entry) for name, entry in value.items()}


@cache
def cases() -> tuple[Case, ...]:
    """Every case, by name. Raises AssertionError for a file that is none."""
    found = []
    for file in sorted(DIRECTORY.glob("*.json")):
        spec = json.loads(file.read_text(encoding="utf-8"))
        assert spec.keys() <= _MEMBERS, f"{file.name}: unknown {sorted(spec.keys() - _MEMBERS)}"
        assert spec["about"] and ("bytes" in spec) != ("set" in spec or "drop" in spec), file.name
        case = Case(name=file.stem, spec=spec)
        assert (case.expect.status == 200) != bool(case.expect.code), file.name
        found.append(case)
    return tuple(found)
