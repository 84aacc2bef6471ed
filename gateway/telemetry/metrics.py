"""Prometheus metrics, shared by worker processes.

With ``PROMETHEUS_MULTIPROC_DIR`` set (the supervisor does) each process writes its values to a
memory-mapped file there and gateway/api adds them up (prometheus_client, "Multiprocess Mode").
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Final, TypeVar

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Metric,
    generate_latest,
    multiprocess,
)
from prometheus_client.registry import Collector

SECONDS_BUCKETS: Final = (
    0.0005,
    0.001,
    0.0025,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1,
    2.5,
    5,
    10,
    30,
    60,
    120,
)
"""OTel's GenAI advice for durations, widened downwards for the filters' own times."""
TOKEN_BUCKETS: Final = (1, 4, 16, 64, 256, 1024, 4096, 16384, 65536, 262144, 1048576)
"""OTel's advice for gen_ai.client.token.usage."""

_Metric = TypeVar("_Metric", Counter, Gauge, Histogram)
CHILDREN_KEPT: Final = 4096
"""Far more than there are combinations of label values; labels are of closed sets."""

_made: Final[dict[str, Counter | Gauge | Histogram]] = {}


def counter(name: str, meaning: str, labels: Sequence[str] = ()) -> Counter:
    """The counter ``name`` (exposed as ``name_total``); the same object for the same name."""
    metric = _made.get(name)
    if not isinstance(metric, Counter):
        metric = _made[name] = Counter(name, meaning, labels)
    return metric


def gauge(name: str, meaning: str, labels: Sequence[str] = ()) -> Gauge:
    """The gauge ``name``; over processes the sum of the living."""
    metric = _made.get(name)
    if not isinstance(metric, Gauge):
        metric = _made[name] = Gauge(name, meaning, labels, multiprocess_mode="livesum")
    return metric


def histogram(
    name: str, meaning: str, labels: Sequence[str] = (), *, buckets: Sequence[float] = SECONDS_BUCKETS
) -> Histogram:
    """The histogram ``name`` in seconds, or in tokens with TOKEN_BUCKETS."""
    metric = _made.get(name)
    if not isinstance(metric, Histogram):
        metric = _made[name] = Histogram(name, meaning, labels, buckets=buckets)
    return metric


@lru_cache(maxsize=CHILDREN_KEPT)
def child(metric: _Metric, *values: str) -> _Metric:
    """``metric.labels(*values)``, looked up once: the client library's own look-up takes a lock and builds
    texts, and a request counts a dozen times."""
    return metric.labels(*values)


def exposition(directory: str) -> bytes:
    """All processes' metrics in Prometheus text form, from the multiprocess ``directory``."""
    registry = CollectorRegistry()
    registry.register(_AllProcesses(Path(directory)))
    return generate_latest(registry)


class _AllProcesses(Collector):
    """What MultiProcessCollector collects, but for files that were made a moment ago, or by a process that
    died just then: they are empty, and the client library would fail over one, and all metrics with it."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def collect(self) -> Iterable[Metric]:
        files = [str(file) for file in sorted(self._directory.glob("*.db")) if _size(file)]
        merged: Iterable[Metric] = multiprocess.MultiProcessCollector.merge(files)  # type: ignore[no-untyped-call]  # untyped upstream
        return merged


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except FileNotFoundError:  # a dead process's live gauges, removed since they were listed
        return 0


def forget_process(pid: int, directory: str) -> None:
    """Drop the live gauges of a dead process; its counters stay."""
    multiprocess.mark_process_dead(pid, path=directory)  # type: ignore[no-untyped-call]  # untyped upstream
