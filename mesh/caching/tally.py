"""What the running processes have counted of the cache, and what is known of its wrong hits. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from ext_proc.recall.truth import Truth
from gateway.telemetry import names


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """Since the gateway's start. ``hits`` by kind; ``misses`` and ``bypassed`` (not looked up) by reason;
    the others by result."""

    hits: Mapping[str, int]
    misses: Mapping[str, int]
    bypassed: Mapping[str, int]
    stored: Mapping[str, int]
    verified: Mapping[str, int]
    judged: Mapping[str, int]

    @property
    def hit_share(self) -> float | None:
        """Of the requests that were looked up; None for none."""
        hits, misses = sum(self.hits.values()), sum(self.misses.values())
        return hits / (hits + misses) if hits + misses else None


@dataclass(frozen=True, slots=True, kw_only=True)
class BucketTruth:
    """``bound``: the rate of wrong answers is at most that, at 95 %. ``right``, ``wrong``: verified samples,
    weighted by age."""

    bucket: str
    slo: float
    state: str
    bound: float
    right: float
    wrong: float
    until_ms: int | None


def tally_of(exposition: bytes) -> Tally:
    """``exposition``: metrics in Prometheus' text form."""
    found: dict[str, list[tuple[Mapping[str, str], int]]] = {}
    for family in text_string_to_metric_families(exposition.decode()):
        for sample in family.samples:
            if sample.value:
                found.setdefault(sample.name, []).append((sample.labels, int(sample.value)))

    def by(name: str, label: str, **wanted: str) -> Mapping[str, int]:
        counts: Counter[str] = Counter()
        for labels, value in found.get(f"{name}_total", ()):
            if wanted.items() <= labels.items():
                counts[labels.get(label, "")] += value
        return dict(counts.most_common())

    lookups = names.CACHE_LOOKUPS
    unavailable = by(lookups, "reason", result="unavailable")
    return Tally(
        hits=by(lookups, "reason", result="hit"),
        misses=by(lookups, "reason", result="miss"),
        bypassed={**by(lookups, "reason", result="bypass"), **unavailable},
        stored=by(names.CACHE_STORES, "result"),
        verified=by(names.CACHE_VERIFIED, "result"),
        judged=by(names.CACHE_JUDGED, "result"),
    )


def truth_of(data: bytes) -> Sequence[BucketTruth]:
    """``data``: what the recall process keeps; the worst bound first. Raises ValueError for anything else."""
    known = [
        BucketTruth(
            bucket=bucket,
            slo=slo,
            state=standing.state.value,
            bound=standing.bound,
            right=standing.right,
            wrong=standing.wrong,
            until_ms=standing.until or None,
        )
        for bucket, slo, standing in Truth.from_json(data).standings()
    ]
    return sorted(known, key=lambda one: (-one.bound, one.bucket))


def report_object(tally: Tally, truth: Sequence[BucketTruth], off: Sequence[str]) -> dict[str, Any]:
    """JSON-ready; the keys stay from release to release."""
    return {
        "object": "cache.report",
        "hit_share": tally.hit_share,
        **asdict(tally),
        "buckets": [asdict(one) for one in truth],
        "switched_off": list(off),
    }
