"""The token corpus: one JSON file for each credential, with how it is made and what must come of it.

about          what is wrong, and who says so
make           the JWT, for ``{token}``: see mint.py; absent where there is none
authorization  the Authorization headers, by default ["Bearer {token}"]
headers        further headers: pairs
expect         status, and code of a refusal
at_the_edge    the same, where Envoy itself refuses before anybody asks who it is
exact_clock    true: only right at the second it says, so not for a clock that runs
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

from tests.corpus.tokens.mint import Mint

DIRECTORY: Final = Path(__file__).parent
_MEMBERS: Final = frozenset(
    {"about", "make", "authorization", "headers", "expect", "at_the_edge", "exact_clock"}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """An HTTP status, and the error's code unless it is 200."""

    status: int
    code: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One credential."""

    name: str
    spec: dict[str, Any]

    @property
    def expect(self) -> Expected:
        """Of the decision."""
        return Expected(status=self.spec["expect"]["status"], code=self.spec["expect"].get("code", ""))

    @property
    def at_the_edge(self) -> Expected:
        """Of the answer over HTTP."""
        found = self.spec.get("at_the_edge", self.spec["expect"])
        return Expected(status=found["status"], code=found.get("code", ""))

    @property
    def exact_clock(self) -> bool:
        """Whether a clock that runs would change the answer."""
        return bool(self.spec.get("exact_clock", False))

    def authorizations(self, mint: Mint) -> list[str]:
        """The values of the Authorization headers."""
        token = mint.token(self.spec["make"]) if "make" in self.spec else ""
        return [mint.text(value, token) for value in self.spec.get("authorization", ["Bearer {token}"])]

    def headers(self, mint: Mint) -> list[tuple[str, str]]:
        """Further headers."""
        return [(name, mint.text(value)) for name, value in self.spec.get("headers", [])]


@cache
def cases() -> tuple[Case, ...]:
    """Every case, by name. Raises AssertionError for a file that is none."""
    found = []
    for file in sorted(DIRECTORY.glob("*.json")):
        spec = json.loads(file.read_text(encoding="utf-8"))
        assert spec.keys() <= _MEMBERS, f"{file.name}: unknown {sorted(spec.keys() - _MEMBERS)}"
        assert spec["about"] and (spec["expect"]["status"] == 200) == ("code" not in spec["expect"]), (
            file.name
        )
        assert "make" in spec or "authorization" in spec, file.name
        found.append(Case(name=file.stem, spec=spec))
    return tuple(found)
