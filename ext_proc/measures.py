"""The metrics of ext_proc: names from gateway.telemetry.names, labels from closed sets or the catalogue."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ext_proc.observations import ObserveAdmission, ObserveAnswer, ObserveLookup, ObserveWaste
from gateway.contract.clock import Clock
from gateway.contract.errors import LedgerUnavailable
from gateway.telemetry import names
from gateway.telemetry.metrics import TOKEN_BUCKETS, child, counter, histogram

_MODEL = "gen_ai_request_model"


class Measures:
    """One for each process."""

    def __init__(self, clock: Clock) -> None:
        """``clock`` for durations."""
        self._clock = clock
        self._admissions = counter(names.ADMISSIONS, "Verdicts of admit", ["verdict", "code"])
        self._admit_s = histogram(names.ADMIT_DURATION, "From the request's arrival in admit to its reply")
        self._lookups = counter(names.CACHE_LOOKUPS, "Cache look-ups", ["result", "reason"])
        self._stores = counter(names.CACHE_STORES, "Answers put into the cache", ["result"])
        self._ledger_s = histogram(names.LEDGER_DURATION, "Ledger calls", ["verb", "outcome"])
        self._conflicts = counter(names.LEDGER_POLICY_CONFLICTS, "Other limits under a known version")
        self._resolved = counter(names.HOLDS_RESOLVED, "Holds resolved", ["outcome", "by"])
        self._open = counter(names.FAIL_OPEN, "Requests that went on without a hop that fails open", ["hop"])
        self._usage = histogram(
            names.TOKEN_USAGE, "Tokens of an answer", ["gen_ai_token_type", _MODEL], buckets=TOKEN_BUCKETS
        )
        self._duration = histogram(names.OPERATION_DURATION, "From admission to the answer's end", [_MODEL])
        self._first = histogram(names.TIME_TO_FIRST_TOKEN, "From admission to the first content", [_MODEL])
        self._each = histogram(names.TIME_PER_OUTPUT_TOKEN, "Between output tokens", [_MODEL])
        self._wasted = counter(names.WASTED_TOKENS, "Tokens charged to nobody", [_MODEL, "cause"])
        self._finishes = counter(names.FINISH_REASONS, "How answers ended", [_MODEL, "reason"])

    def admission(self, seen: ObserveAdmission) -> None:
        """A decision of admit."""
        child(self._admissions, seen.verdict, seen.code).inc()
        self._admit_s.observe(max(0.0, self._clock.monotonic_s() - seen.began_s))

    def lookup(self, seen: ObserveLookup) -> None:
        """A look-up, or that there was none."""
        child(self._lookups, seen.result, seen.reason).inc()

    def answer(self, seen: ObserveAnswer) -> None:
        """An answer that has ended."""
        model = seen.model
        child(self._finishes, model, seen.finish_reason).inc()
        if seen.unmended:
            self.went_on_without("mending")
        tokens = {"input": seen.prompt, "output": seen.completion, "cached": seen.cached}
        for kind, amount in tokens.items():
            if amount:
                child(self._usage, kind, model).observe(amount)
        for metric, seconds in (
            (self._duration, seen.duration_s),
            (self._first, seen.first_token_s),
            (self._each, seen.seconds_per_output_token),
        ):
            if seconds is not None:
                child(metric, model).observe(max(0.0, seconds))

    def waste(self, seen: ObserveWaste) -> None:
        """Tokens that nobody is charged for."""
        child(self._wasted, seen.model, seen.cause).inc(seen.tokens)

    def stored(self, result: str) -> None:
        """``stored``, ``unavailable`` or ``too_large``."""
        child(self._stores, result).inc()

    def resolved(self, outcome: str, *, by: str) -> None:
        """A hold that this process resolved first, in the role ``by``."""
        child(self._resolved, outcome, by).inc()

    def policy_conflict(self) -> None:
        """The ledger has other limits under our policy version."""
        self._conflicts.inc()

    def went_on_without(self, hop: str) -> None:
        """A hop that fails open did."""
        child(self._open, hop).inc()

    @contextmanager
    def ledger_call(self, verb: str) -> Iterator[None]:
        """Time one call."""
        began = self._clock.monotonic_s()
        outcome = "ok"
        try:
            yield
        except LedgerUnavailable:
            outcome = "unavailable"
            raise
        finally:
            child(self._ledger_s, verb, outcome).observe(self._clock.monotonic_s() - began)
