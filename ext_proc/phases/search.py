"""The search for an answer that is known already: which question comes next, and what was found. Pure.

    AskCache -> AskRecall -> JoinFlight -> AskCache or AwaitLanding
Each step may end the search. Whatever fails or is late is a miss with its reason; a search never refuses.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, TypeAlias

from ext_proc.cache.place import Place
from ext_proc.cache.policy import Profile
from ext_proc.cache.store import CachedAnswer, HitKind, Keys, Lookup
from ext_proc.observations import ObserveLookup
from ext_proc.phases.plan import Plan
from ext_proc.recall.words import Ask, Candidate
from ext_proc.vocabulary import (
    AskCache,
    AskRecall,
    AwaitLanding,
    CacheAnswered,
    FlightJoined,
    JoinFlight,
    Landed,
    RecallAnswered,
)
from gateway.budget.admission import CacheStatus
from gateway.contract.units import UnixMillis
from gateway.path import HOLD_TTL, LANDING

_SIMILAR: Final = frozenset({HitKind.CANONICAL, HitKind.ALIAS, HitKind.SEMANTIC})


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A hit. ``bucket``: whose false hits it counts under; empty for an exact one, which cannot be false.
    ``share``: of such hits, those to be verified."""

    answer: CachedAnswer
    kind: HitKind
    similarity: float | None = None
    bucket: str = ""
    share: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Missed:
    """No hit. ``reason``: a code. ``looked``: whether there was anything to be found. ``tried``: what would
    have been one, were its bucket not in probation: it is verified, and not served."""

    reason: str
    looked: bool
    tried: Found | None = None

    @property
    def status(self) -> CacheStatus:
        """For the client."""
        return CacheStatus.MISS if self.looked else CacheStatus.BYPASS

    @property
    def observed(self) -> ObserveLookup:
        """For the metrics."""
        if self.reason == "unavailable":
            return ObserveLookup(result="unavailable", reason=self.reason)
        return ObserveLookup(result="miss" if self.looked else "bypass", reason=self.reason)


Question: TypeAlias = AskCache | AskRecall | JoinFlight | AwaitLanding
Answer: TypeAlias = CacheAnswered | RecallAnswered | FlightJoined | Landed
Step: TypeAlias = Question | Found | Missed


class Search:
    """Of one request. ``begin`` once, then ``receive`` for the answer of each question it returned."""

    def __init__(self, plan: Plan) -> None:
        """Nothing is asked yet."""
        self._plan = plan
        self._epoch = ""
        self._asked = False
        self._reason = "absent"
        self._trace: list[str] = []
        self._tried: Found | None = None
        self.leads = False
        """Others wait for this request's answer."""

    @property
    def key(self) -> str:
        """Of the flight."""
        return self._keys().exact

    @property
    def trace(self) -> str:
        """What each step said, for the one who asked: codes and numbers only."""
        return "; ".join(self._trace)

    def place(self) -> Place | None:
        """Where a new answer belongs; None where it must not be stored, or where that is not known."""
        plan = self._plan
        if plan.caching.sought is None or not self._epoch or not plan.caching.directives.write:
            return None
        return Place(
            keys=self._keys() if plan.caching.similar else self._exact_keys(),
            epoch=self._epoch,
            ttl_seconds=plan.caching.rule.ttl_seconds,
            partition=plan.caching.sought.partition if plan.caching.similar else "",
            flight=self.leads,
            template=plan.model.template,
            policy_version=plan.caching.version,
            tags=plan.caching.tags,
            detectors=tuple(sorted(plan.caching.rule.personal_data)),
        )

    def untold(self) -> Ask | None:
        """The question, where its answer may be stored and recall has not heard it: it was refused, or not
        asked because the cache was late or not to be read. None where recall knows it, or need not."""
        if self._asked or not self._plan.caching.similar:
            return None
        return self._ask() if self.place() is not None else None

    # --- steps ---

    def begin(self) -> Step:
        """The first question, or that there is nothing to ask."""
        plan = self._plan
        if plan.caching.sought is None:
            return self._missed(plan.caching.reason, looked=False)
        keys = self._keys()
        if not plan.caching.similar:
            self._note("similar", plan.caching.reason)
            keys = self._exact_keys()
        self._note("question", keys.exact)
        return AskCache(org=plan.principal.org, keys=keys)

    def receive(self, answer: Answer) -> Step:
        """What follows from ``answer``."""
        match answer:
            case CacheAnswered(lookup=lookup, at_ms=now):
                if lookup is None and not self.leads:
                    self._epoch = answer.epoch
                    return self._missed("unavailable", looked=False)
                if lookup is None:
                    return self._missed(self._reason, looked=True)
                return self._keys_answered(lookup, now)
            case RecallAnswered():
                return self._recall_answered(answer)
            case FlightJoined(leads=leads):
                self.leads = leads
                return self._once_more() if leads else self._wait()
            case Landed(lookup=lookup, at_ms=now):
                found = self._usable(lookup, now) if lookup is not None else None
                self._note("landed", "hit" if found else "miss")
                return self._over(found) if found else self._missed(self._reason, looked=True)

    def _keys_answered(self, lookup: Lookup, now: UnixMillis) -> Step:
        if self.leads:
            reason, found = self._reason, self._usable(lookup, now)
            return self._over(found) if found else self._missed(reason, looked=True)
        self._epoch = lookup.epoch
        directives = self._plan.caching.directives
        if not directives.read or directives.wrong_entry:
            return self._missed("no_cache", looked=False)
        found = self._usable(lookup, now)
        if found is not None:
            return self._over(found)
        self._note("keys", self._reason)
        if self._plan.caching.similar:
            self._asked = True
            return AskRecall(ask=self._ask())
        return self._join()

    def _recall_answered(self, answer: RecallAnswered) -> Step:
        for step in answer.steps:
            self._note("recall", step)
        self._asked = answer.reason != "recall_unavailable"
        if answer.lookup is not None and answer.candidate is not None:
            found = self._usable(answer.lookup, answer.at_ms, answer.candidate)
            if found is not None and not answer.candidate.probation:
                return self._over(found)
            if found is not None:
                self._tried, self._reason = found, "probation"
        elif self._reason == "absent":
            # What stands against an answer of this very question says more than that no other one has one.
            self._reason = answer.reason
        self._note("similar", answer.reason or self._reason)
        return self._join()

    def _join(self) -> Step:
        if self._plan.caching.directives.only_if_cached:
            return self._missed(self._reason, looked=True)
        return JoinFlight(org=self._plan.principal.org, key=self._keys().exact)

    def _once_more(self) -> Step:
        """Another flight may have landed between the first look and this one's start."""
        return AskCache(org=self._plan.principal.org, keys=self._exact_keys())

    def _wait(self) -> Step:
        return AwaitLanding(org=self._plan.principal.org, keys=self._exact_keys(), at_most=LANDING)

    # --- decisions ---

    def _usable(self, lookup: Lookup, now: UnixMillis, candidate: Candidate | None = None) -> Found | None:
        """The hit in ``lookup``, unless the client or the policy forbids it; then ``_reason`` says why."""
        answer, kind, directives = lookup.answer, lookup.kind, self._plan.caching.directives
        if answer is None or kind is None:
            self._reason = "absent" if candidate is None else "gone"
            return None
        if kind in _SIMILAR and not self._plan.caching.similar:
            self._reason = self._plan.caching.reason
        elif kind is HitKind.ALIAS and self._plan.caching.profile is not Profile.VERIFIED:
            self._reason = "judged"
        elif directives.max_age_s is not None and now - answer.stored_at > directives.max_age_s * 1000:
            self._reason = "too_old"
        else:
            return Found(
                answer=answer,
                kind=kind,
                similarity=None if candidate is None else candidate.similarity,
                bucket=self._bucket(kind, candidate),
                share=self._plan.caching.rule.verify_share if candidate is None else candidate.share,
            )
        return None

    def _bucket(self, kind: HitKind, candidate: Candidate | None) -> str:
        if candidate is not None:
            return candidate.bucket
        if kind is HitKind.EXACT:
            return ""
        level = "canonical" if kind is HitKind.CANONICAL else "near"
        return f"{self._plan.principal.org}/{self._plan.model.name}/{level}/-"

    def _ask(self) -> Ask:
        plan = self._plan
        if plan.caching.sought is None:
            raise AssertionError("only what may be cached is sought")
        return Ask(
            org=plan.principal.org,
            partition=plan.caching.sought.partition,
            asked=plan.caching.sought.keys.exact,
            text=plan.caching.sought.text,
            profile=plan.caching.profile,
            keep_s=HOLD_TTL // 1000,
            rule=plan.caching.rule.name,
            model=plan.model.name,
            slo=plan.caching.rule.false_hit_slo,
            verify_share=plan.caching.rule.verify_share,
            judge_per_minute=plan.caching.rule.judge_per_minute,
        )

    def _keys(self) -> Keys:
        if self._plan.caching.sought is None:
            raise AssertionError("only what may be cached is sought")
        return self._plan.caching.sought.keys

    def _exact_keys(self) -> Keys:
        return Keys(exact=self._keys().exact)

    def _over(self, found: Found) -> Found:
        self._note("hit", found.kind.value)
        return found

    def _missed(self, reason: str, *, looked: bool) -> Missed:
        self._note("miss", reason)
        return Missed(reason=reason, looked=looked, tried=self._tried)

    def _note(self, step: str, said: str) -> None:
        self._trace.append(f"{step}={said}")
