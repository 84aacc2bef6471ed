"""What the gateway said of a request that was asked with only-if-cached, step by step. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from gateway.contract import headers as names
from mesh.caching.reasons import GUARD_PREFIX, GUARDS, in_words

NOT_CACHED: Final = "not_cached"
"""The error's code of a miss."""
_STEPS: Final = {"keys": "keys", "recall": "search", "similar": "similarity"}
_LEVELS: Final = {
    "canonical": "the same canonical text",
    "words": "the same content words",
    "near": "one content word differs",
    "far": "other words",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """``name``: keys, search or similarity; ``said``: codes and numbers; ``meaning``: the same in words."""

    name: str
    said: str
    meaning: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """``code``: a hit's kind, else the reason of the miss. ``question``: the key of what was asked; empty
    where nothing may be cached. The others are a hit's, empty or None else."""

    hit: bool
    code: str
    question: str
    steps: Sequence[Step]
    request_id: str = ""
    entry: str = ""
    similarity: str = ""
    age_s: int | None = None

    @property
    def meaning(self) -> str:
        """Of ``code``."""
        return in_words(self.code)

    def to_object(self) -> dict[str, Any]:
        """JSON-ready; the keys stay from release to release."""
        return {
            "object": "cache.explanation",
            "hit": self.hit,
            "code": self.code,
            "meaning": self.meaning,
            "steps": [asdict(step) for step in self.steps],
            "question": self.question or None,
            "entry": self.entry or None,
            "similarity": float(self.similarity) if self.similarity else None,
            "age_s": self.age_s,
            "request_id": self.request_id,
        }


def explained(status: int, headers: Mapping[str, str]) -> Explanation | None:
    """``headers``: of the answer, names in lower case. None for one that is neither a hit nor a miss."""
    trace = [step.partition("=")[::2] for step in headers.get(names.CACHE_TRACE, "").split("; ")]
    question = next((said for name, said in trace if name == "question"), "")
    request_id = headers.get(names.REQUEST_ID, "")
    if status == 200 and headers.get(names.CACHE) == "hit":
        age = headers.get(names.CACHE_AGE, "")
        return Explanation(
            hit=True,
            code=headers.get(names.CACHE_KIND, ""),
            question=question,
            steps=tuple(_steps(trace)),
            request_id=request_id,
            entry=headers.get(names.CACHE_ENTRY, ""),
            similarity=headers.get(names.CACHE_SIMILARITY, ""),
            age_s=int(age) if age.isdigit() else None,
        )
    if headers.get(names.REFUSAL) != NOT_CACHED:
        return None
    return Explanation(
        hit=False,
        code=headers.get(names.CACHE_REASON, ""),
        question=question,
        steps=tuple(_steps(trace)),
        request_id=request_id,
    )


def _steps(trace: Sequence[Sequence[str]]) -> Iterator[Step]:
    for name, said in trace:
        if name in _STEPS:
            yield Step(name=_STEPS[name], said=said, meaning=_meaning(said))


def _meaning(said: str) -> str:
    """Of one step: a code, or what the search said of one stored question."""
    similarity, *rest = said.split(" ")
    if len(rest) != 2 or rest[0] not in _LEVELS:
        return in_words(said)
    level, verdict = rest
    seen = GUARDS.get(verdict.removeprefix(GUARD_PREFIX)) if verdict.startswith(GUARD_PREFIX) else None
    ending = "may be served" if verdict == "found" else f"the two {seen}" if seen else in_words(verdict)
    return f"a stored question with cosine {similarity} and {_LEVELS[level]}: {ending}"
