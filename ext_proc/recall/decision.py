"""Which of the nearest stored questions may answer the one that is asked. Pure.

No cosine is safe by itself: it only says which questions are worth comparing. What is served is decided by
comparing the texts (ext_proc.cache.question): a guard refuses whatever the cosine, and one stored question
refused leaves the next one its chance.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Final, Protocol

from ext_proc.cache.policy import Profile
from ext_proc.cache.question import Comparison, Level
from ext_proc.recall.partition_rows import Match
from ext_proc.recall.truth import State
from ext_proc.recall.words import CANDIDATES_MAX, Ask, Candidate, Reply

NEIGHBOURS: Final = 8
"""Stored questions that are compared, at 0.1 to 0.3 ms each."""
FLOOR: Final = 0.80
"""Least cosine of a question with the same content words, and of one that a judge is asked about. The texts
decide; the floor keeps away what the embedder, which sees the whole sentence, holds for unrelated."""
BANDS_PER_ONE: Final = 50
"""A bucket's band of similarity is 0.02 wide."""

Compare = Callable[[str], Comparison]
"""The stored text, compared with the question asked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Near:
    """A stored question that a judge may be asked about."""

    entry: str
    text: str
    similarity: float
    bucket: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """``near``: the best near miss, where nothing is served and the profile wants a judge."""

    reply: Reply
    near: Near | None = None


class Trust(Protocol):
    """What is known of a bucket's false hits; asked from any thread."""

    def state(self, bucket: str, slo: float) -> State:
        """Whether its hits are served."""

    def share(self, bucket: str, slo: float, usual: float) -> float:
        """Of its hits, those to be verified; ``usual``: the policy's."""


def bucket_of(ask: Ask, level: Level, similarity: float) -> str:
    """``<org>/<model>/<level>/<band>``: where right and wrong hits are counted together. Canonical and judged
    hits are found without a cosine as well, so theirs have one band, ``-``."""
    if level is not Level.WORDS:
        return f"{ask.org}/{ask.model}/{level.value}/-"
    # The millionth: 0.84 must not fall into the band below for how a float writes it.
    band = int(similarity * BANDS_PER_ONE + 1e-6) / BANDS_PER_ONE
    return f"{ask.org}/{ask.model}/{level.value}/{band:.2f}"


def decide(ask: Ask, matches: Iterable[Match], compare: Compare, trust: Trust) -> Decision:
    """``matches`` best first."""
    found: list[Candidate] = []
    tried: Candidate | None = None
    near: Near | None = None
    reason, steps = "", []
    for match in matches:
        if match.row.entry == ask.asked:
            # Its answer was looked up already, and is gone.
            steps.append("same_question")
            continue
        text = match.row.text.decode()
        compared = compare(text)
        bucket = bucket_of(ask, compared.level, match.similarity)
        verdict = _verdict(ask.profile, compared, match.similarity, trust.state(bucket, ask.slo))
        steps.append(f"{match.similarity:.3f} {compared.level.value} {verdict}")
        reason = reason or verdict
        if verdict == "found":
            found.append(_candidate(ask, match, compared.level, bucket, trust))
            if len(found) == CANDIDATES_MAX:
                break
        elif verdict == "probation" and tried is None:
            tried = replace(_candidate(ask, match, compared.level, bucket, trust), probation=True)
        elif verdict == "near" and near is None:
            near = Near(entry=match.row.entry, text=text, similarity=match.similarity, bucket=bucket)
    if tried is not None and not found:
        return Decision(reply=Reply(candidates=(tried,), reason="probation", steps=tuple(steps)))
    said = "found" if found else reason or "no_candidate"
    reply = Reply(candidates=tuple(found), reason=said, steps=tuple(steps))
    return Decision(reply=reply, near=None if found else near)


def _candidate(ask: Ask, match: Match, level: Level, bucket: str, trust: Trust) -> Candidate:
    return Candidate(
        entry=match.row.entry,
        similarity=match.similarity,
        level=level,
        bucket=bucket,
        share=trust.share(bucket, ask.slo, ask.verify_share),
    )


def _verdict(profile: Profile, compared: Comparison, similarity: float, state: State) -> str:
    if compared.guard is not None:
        return f"guard.{compared.guard.value}"
    if profile is Profile.OFF or compared.level is Level.FAR:
        return "far" if compared.level is Level.FAR else "off"
    if compared.level is not Level.CANONICAL and similarity < FLOOR:
        return "below_floor"
    if compared.level is Level.NEAR and profile is not Profile.VERIFIED:
        return "differs"
    if state is not State.ON:
        return "probation" if state is State.PROBATION else "bucket_off"
    return "near" if compared.level is Level.NEAR else "found"
