"""The subset of SGLang's Prometheus text that a gateway reads, with its names and labels.

Scheduler gauges come once with ``priority=""`` (the total) and once per priority value in sight;
request counters count each request once, under its own priority (0.5.23, ``GET /metrics``).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from inference.twin.request import LOWEST_PRIORITY
from inference.twin.scheduler import Run

_RANKS: Final = 'moe_ep_rank="0",pp_rank="0"'
Key = tuple[bool, int]
"""is_streaming and priority."""


@dataclass(slots=True)
class Counters:
    """What is counted since the start."""

    prompt_tokens: Counter[Key] = field(default_factory=Counter)
    generated_tokens: Counter[Key] = field(default_factory=Counter)
    cached_tokens: Counter[Key] = field(default_factory=Counter)
    requests: Counter[Key] = field(default_factory=Counter)
    aborted: Counter[Key] = field(default_factory=Counter)
    http_requests: Counter[tuple[str, str]] = field(default_factory=Counter)
    http_responses: Counter[tuple[str, str, int]] = field(default_factory=Counter)
    first_token_s: list[float] = field(default_factory=lambda: [0.0, 0.0])
    """Sum and count."""


def _labelled(priority: int) -> str:
    return "" if priority == LOWEST_PRIORITY else str(priority)


def text(
    counters: Counters,
    *,
    model: str,
    running: Iterable[Run],
    waiting: Iterable[Run],
    used_tokens: int,
    capacity_tokens: int,
) -> bytes:
    """The exposition."""
    base = f'engine_type="unified",model_name="{model}"'
    lines: list[str] = []

    def gauge(name: str, values: dict[str, float]) -> None:
        lines.append(f"# TYPE sglang:{name} gauge")
        lines.extend(
            f'sglang:{name}{{{base},{_RANKS},priority="{priority}",tp_rank="0"}} {float(value)}'
            for priority, value in values.items()
        )

    def counter(name: str, values: Counter[Key]) -> None:
        lines.append(f"# TYPE sglang:{name} counter")
        for (streaming, priority), value in sorted(values.items()):
            shown = "true" if streaming else "false"
            labels = f'{base},is_streaming="{shown}",priority="{_labelled(priority)}"'
            lines.append(f"sglang:{name}{{{labels}}} {float(value)}")

    def counter_by_priority(name: str, values: Counter[Key], more: str = "") -> None:
        lines.append(f"# TYPE sglang:{name} counter")
        summed: Counter[int] = Counter()
        for (_, priority), value in values.items():
            summed[priority] += value
        for priority, value in sorted(summed.items()):
            lines.append(f'sglang:{name}{{{more}{base},priority="{_labelled(priority)}"}} {float(value)}')

    for name, runs in (("num_running_reqs", list(running)), ("num_queue_reqs", list(waiting))):
        by_priority = Counter(str(run.priority) for run in runs)
        gauge(name, {"": len(runs), **by_priority})
    gauge("num_used_tokens", {"": used_tokens})
    gauge("token_usage", {"": used_tokens / capacity_tokens})
    gauge("max_total_num_tokens", {"": capacity_tokens})
    counter("prompt_tokens_total", counters.prompt_tokens)
    counter("generation_tokens_total", counters.generated_tokens)
    counter_by_priority("cached_tokens_total", counters.cached_tokens, 'cache_source="device",')
    counter("num_requests_total", counters.requests)
    counter_by_priority("num_aborted_requests_total", counters.aborted)
    total, count = counters.first_token_s
    lines.append("# TYPE sglang:time_to_first_token_seconds summary")
    lines.append(f"sglang:time_to_first_token_seconds_sum{{{base}}} {total}")
    lines.append(f"sglang:time_to_first_token_seconds_count{{{base}}} {count}")
    lines.append("# TYPE sglang:http_requests_total counter")
    for (endpoint, method), value in sorted(counters.http_requests.items()):
        lines.append(f'sglang:http_requests_total{{endpoint="{endpoint}",method="{method}"}} {float(value)}')
    lines.append("# TYPE sglang:http_responses_total counter")
    for (endpoint, method, status), value in sorted(counters.http_responses.items()):
        labels = f'endpoint="{endpoint}",method="{method}",status_code="{status}"'
        lines.append(f"sglang:http_responses_total{{{labels}}} {float(value)}")
    return ("\n".join(lines) + "\n").encode()
