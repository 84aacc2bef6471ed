"""The part of SGLang's Prometheus text that tells of load and work, with its names and labels.

Scheduler gauges come once with ``priority=""`` (the total), and those of requests once per priority that was
seen besides; request counters count each request once, under its own priority; aborts are not told apart
(0.5.23, ``GET /metrics``).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from inference.twin.request import LOWEST_PRIORITY
from inference.twin.scheduler import Run

_RANKS: Final = 'moe_ep_rank="0",pp_rank="0"'
Key = tuple[bool, int]
"""is_streaming and priority."""


@dataclass(slots=True)
class Sum:
    """A histogram without buckets."""

    total: float = 0.0
    count: int = 0

    def add(self, value: float) -> None:
        """One more."""
        self.total += value
        self.count += 1


@dataclass(slots=True)
class Counters:
    """What is counted since the start."""

    prompt_tokens: Counter[Key] = field(default_factory=Counter)
    generated_tokens: Counter[Key] = field(default_factory=Counter)
    cached_tokens: Counter[Key] = field(default_factory=Counter)
    requests: Counter[Key] = field(default_factory=Counter)
    aborted: int = 0
    prefilled: int = 0
    """Prompt tokens that no cache had, of health checks too."""
    http_requests: Counter[tuple[str, str]] = field(default_factory=Counter)
    http_responses: Counter[tuple[str, str, int]] = field(default_factory=Counter)
    first_token_s: defaultdict[Key, Sum] = field(default_factory=lambda: defaultdict(Sum))
    whole_s: defaultdict[Key, Sum] = field(default_factory=lambda: defaultdict(Sum))
    prompt_sizes: defaultdict[int, Sum] = field(default_factory=lambda: defaultdict(Sum))
    answer_sizes: defaultdict[int, Sum] = field(default_factory=lambda: defaultdict(Sum))

    def begun(self, key: Key, prompt: int, cached: int) -> None:
        """A request with so many tokens of prompt."""
        self.requests[key] += 1
        self.prompt_tokens[key] += prompt
        self.cached_tokens[key] += cached
        self.prefilled += prompt - cached

    def answered(self, key: Key, took_s: float, prompt: int, completion: int) -> None:
        """A request came to its end."""
        self.whole_s[key].add(took_s)
        self.prompt_sizes[key[1]].add(prompt)
        self.answer_sizes[key[1]].add(completion)


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """The scheduler's state at this moment, in requests and tokens."""

    running: Iterable[Run]
    waiting: Iterable[Run]
    priorities: Iterable[int]
    used_tokens: int
    capacity_tokens: int
    context: int
    max_running: int


def _labelled(priority: int) -> str:
    return "" if priority == LOWEST_PRIORITY else str(priority)


def _told(streaming: bool) -> str:
    return "true" if streaming else "false"


class _Text:
    """The exposition, line by line."""

    def __init__(self, model: str) -> None:
        self.base = f'engine_type="unified",model_name="{model}"'
        self.lines: list[str] = []

    def gauge(self, name: str, values: Mapping[str, float]) -> None:
        self.lines.append(f"# TYPE sglang:{name} gauge")
        self.lines += (
            f'sglang:{name}{{{self.base},{_RANKS},priority="{priority}",tp_rank="0"}} {float(value)}'
            for priority, value in values.items()
        )

    def counter(self, name: str, values: Mapping[Key, float]) -> None:
        self.lines.append(f"# TYPE sglang:{name} counter")
        self.lines += (
            f"sglang:{name}{{{self._by(streaming, priority)}}} {float(value)}"
            for (streaming, priority), value in sorted(values.items())
        )

    def _by(self, streaming: bool, priority: int) -> str:
        engine, model = self.base.split(",", 1)
        return f'{engine},is_streaming="{_told(streaming)}",{model},priority="{_labelled(priority)}"'

    def line(self, name: str, kind: str, labels: str, value: float) -> None:
        self.lines += (f"# TYPE sglang:{name} {kind}", f"sglang:{name}{{{labels}}} {float(value)}")

    def histogram(self, name: str, values: Mapping[str, Sum]) -> None:
        self.lines.append(f"# TYPE sglang:{name} histogram")
        for labels, found in values.items():
            self.lines += (
                f'sglang:{name}_bucket{{{labels},le="+Inf"}} {float(found.count)}',
                f"sglang:{name}_sum{{{labels}}} {found.total}",
                f"sglang:{name}_count{{{labels}}} {float(found.count)}",
            )

    def histogram_by_key(self, name: str, values: Mapping[Key, Sum]) -> None:
        self.histogram(name, {self._by(*key): found for key, found in values.items()})

    def histogram_by_priority(self, name: str, values: Mapping[int, Sum]) -> None:
        shown = {f'{self.base},priority="{_labelled(key)}"': found for key, found in values.items()}
        self.histogram(name, shown)


def text(counters: Counters, engine: Engine, *, model: str) -> bytes:
    """The exposition."""
    found = _Text(model)
    for name, runs in (("num_running_reqs", list(engine.running)), ("num_queue_reqs", list(engine.waiting))):
        by_priority = Counter(run.priority for run in runs)
        seen = {str(priority): by_priority[priority] for priority in sorted(engine.priorities)}
        found.gauge(name, {"": len(runs), **seen})
    used, capacity = engine.used_tokens, engine.capacity_tokens
    for name, value in (
        ("num_grammar_queue_reqs", 0.0),
        ("num_used_tokens", used),
        ("token_usage", used / capacity),
        ("kv_available_tokens", capacity - used),
        ("kv_used_tokens", used),
        ("max_total_num_tokens", capacity),
        ("context_len", engine.context),
        ("page_size", 1),
        ("utilization", len(list(engine.running)) / engine.max_running),
    ):
        found.gauge(name, {"": value})
    _counted(found, counters)
    for (endpoint, method), count in sorted(counters.http_requests.items()):
        labels = f'endpoint="{endpoint}",method="{method}"'
        found.lines.append(f"sglang:http_requests_total{{{labels}}} {float(count)}")
    for (endpoint, method, status), count in sorted(counters.http_responses.items()):
        labels = f'endpoint="{endpoint}",method="{method}",status_code="{status}"'
        found.lines.append(f"sglang:http_responses_total{{{labels}}} {float(count)}")
    return ("\n".join(found.lines) + "\n").encode()


def _counted(found: _Text, counters: Counters) -> None:
    found.counter("prompt_tokens_total", counters.prompt_tokens)
    found.counter("generation_tokens_total", counters.generated_tokens)
    found.counter("num_requests_total", counters.requests)
    engine, model = found.base.split(",", 1)
    cached: Counter[int] = Counter()
    for (_, priority), tokens in counters.cached_tokens.items():
        cached[priority] += tokens
    found.lines.append("# TYPE sglang:cached_tokens_total counter")
    for priority, tokens in sorted(cached.items()):
        labels = f'cache_source="device",{found.base},priority="{_labelled(priority)}"'
        found.lines.append(f"sglang:cached_tokens_total{{{labels}}} {float(tokens)}")
    if counters.aborted:
        labels = f'{found.base},priority=""'
        found.line("num_aborted_requests_total", "counter", labels, counters.aborted)
    labels = f'{engine},mode="input",{model},{_RANKS},priority="",tp_rank="0"'
    found.line("prefill_effective_tokens_total", "counter", labels, counters.prefilled)
    found.histogram_by_key("time_to_first_token_seconds", counters.first_token_s)
    found.histogram_by_key("e2e_request_latency_seconds", counters.whole_s)
    found.histogram_by_priority("prompt_tokens_histogram", counters.prompt_sizes)
    found.histogram_by_priority("generation_tokens_histogram", counters.answer_sizes)
