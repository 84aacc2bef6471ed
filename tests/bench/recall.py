"""``./tidegate bench recall``: what a look-up by likeness costs.

``find``: a question through the socket of a real recall process (embedding, search, comparison), by length in
tokens, one after another and in bursts of 16; every text is a new one. ``search``: the index alone, by
entries and by how many partitions they are in. ``start``: 100,000 questions written to the table and read
again, and what one costs in memory and on disk. Vectors of the last two are clustered, as those of real
questions are.
"""

from __future__ import annotations

import asyncio
import gc
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table as Shown

from ext_proc.cache.store import Lineage
from ext_proc.recall.client import RecallClient
from ext_proc.recall.index import Index
from ext_proc.recall.partition_rows import Row
from ext_proc.recall.stored_question import StoredQuestion, TextSealer
from ext_proc.recall.table import Table
from ext_proc.recall.words import RecallUnavailable
from gateway.contract.clock import SystemClock
from gateway.contract.ids import OrgId
from gateway.contract.units import UnixMillis
from inference.embedders.minilm import open_minilm
from tests.harness.embedders import EMBEDDERS
from tests.integration.recall.process import ask, key, recall_process, remember

TOKENS: Final = (10, 17, 48, 64)
FINDS: Final = 300
AT_ONCE: Final = 16
PAUSE_S: Final = 0.1
"""After bursts and refusals: who is refused asks an engine next, and not again at once."""
DIMENSIONS: Final = 384
CLUSTERS: Final = 5000
SEARCHES: Final = 300
SIZES: Final = ((1_000, 1), (100_000, 1), (100_000, 1_000), (1_000_000, 1_000))
"""Entries and partitions. A partition holds at most 100,000, so that a million is never in one."""
STORED: Final = 100_000
BATCH: Final = 500
ORG: Final = OrgId("acme")
WORDS: Final = ("how", "can", "i", "change", "the", "address", "of", "my", "last", "order", "to", "another")


def percentiles(times_s: Sequence[float]) -> dict[str, float]:
    """p50 and p99 in milliseconds; nothing answered is no time at all."""
    if not times_s:
        return {"p50_ms": float("nan"), "p99_ms": float("nan")}
    ordered = sorted(times_s)
    return {
        "p50_ms": 1e3 * ordered[len(ordered) // 2],
        "p99_ms": 1e3 * ordered[min(len(ordered) - 1, int(0.99 * len(ordered)))],
    }


async def texts(tokens: int, count: int) -> list[str]:
    """``count`` different questions of exactly ``tokens`` tokens, the marks included."""
    embedder = open_minilm(EMBEDDERS)
    found = []
    for number in range(count):
        words = [WORDS[(number + place) % len(WORDS)] for place in range(tokens)]
        while embedder.count_tokens(f"{' '.join(words)} {number + 1000}") > tokens:
            words.pop()
        found.append(f"{' '.join(words)} {number + 1000}")
    await embedder.close()
    return found


async def timed(client: RecallClient, text: str, number: int) -> float | None:
    """Seconds; None for one that was refused."""
    began = time.perf_counter()
    try:
        await client.find(ask(text, number))
    except RecallUnavailable:
        return None
    return time.perf_counter() - began


async def finds() -> list[dict[str, Any]]:
    """By tokens, one after another and in bursts."""
    rows: list[dict[str, Any]] = []
    with recall_process() as process:
        await process.ready()
        client = RecallClient(process.socket)
        for number in range(500):
            await timed(client, f"What does article {number} cost?", number)
            await client.remember(remember(number))
        for tokens in TOKENS:
            asked = await texts(tokens, 2 * FINDS)
            for at_once, part in ((1, asked[:FINDS]), (AT_ONCE, asked[FINDS:])):
                took: list[float | None] = []
                for start in range(0, FINDS, at_once):
                    together = (timed(client, text, 10**9) for text in part[start : start + at_once])
                    took += await asyncio.gather(*together)
                    await asyncio.sleep(PAUSE_S if at_once > 1 or took[-1] is None else 0)
                answered = [seconds for seconds in took if seconds is not None]
                refused = len(took) - len(answered)
                rows.append(
                    {"tokens": tokens, "at_once": at_once, "refused": refused, **percentiles(answered)}
                )
        await client.aclose()
    return rows


def vectors(count: int, seed: int = 0) -> Iterator[NDArray[np.float32]]:
    """``count`` unit vectors around CLUSTERS centres, a thousand at a time."""
    draw = np.random.default_rng(seed)
    centres = np.random.default_rng(99).standard_normal((CLUSTERS, DIMENSIONS)).astype(np.float32)
    for start in range(0, count, 1000):
        of = draw.integers(0, CLUSTERS, min(1000, count - start))
        noise = draw.standard_normal((len(of), DIMENSIONS)).astype(np.float32)
        block = centres[of] + 0.7 * noise
        yield block / np.linalg.norm(block, axis=1, keepdims=True)


def resident_bytes() -> int:
    """Of this process."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def searches(entries: int, partitions: int) -> dict[str, Any]:
    """One index: adding, memory, searching, and how often the nearest is found."""
    before = resident_bytes()
    index = Index(DIMENSIONS, entries_max=entries)
    began, number = time.perf_counter(), 0
    for block in vectors(entries):
        for vector in block:
            row = Row(
                key(number),
                b"a question of some eighty bytes, as they are asked by people all day long",
                2**60,
            )
            index.put(ORG, str(number % partitions), row, vector)
            number += 1
    added_s = time.perf_counter() - began
    bytes_each = (resident_bytes() - before) / entries
    asked = next(vectors(1000, seed=1))[:SEARCHES]
    took, found = [], []
    for place, vector in enumerate(asked):
        began = time.perf_counter()
        found.append(index.search(ORG, str(place % partitions), vector, 8, 0))
        took.append(time.perf_counter() - began)
    right = _nearest_found(entries, partitions, asked, [match[0].similarity for match in found])
    return {
        "entries": entries,
        "partitions": partitions,
        "add_ms": 1e3 * added_s / entries,
        "bytes_each": bytes_each,
        "nearest_found": right,
        **percentiles(took),
    }


def _nearest_found(
    entries: int, partitions: int, asked: NDArray[np.float32], similarities: Sequence[float]
) -> float:
    best = np.full(len(asked), -1.0)
    own = np.arange(len(asked)) % partitions
    number = 0
    for block in vectors(entries):
        products = block @ asked.T
        elsewhere = (np.arange(number, number + len(block)) % partitions)[:, None] != own[None, :]
        best = np.maximum(best, np.where(elsewhere, -1.0, products).max(axis=0))
        number += len(block)
    return float(np.mean(np.array(similarities) >= best - 2e-3))


def started() -> dict[str, Any]:
    """STORED questions written, compacted, and read into an index at a start."""
    clock, sealer = SystemClock(), TextSealer(b"k" * 32)
    with tempfile.TemporaryDirectory(prefix="tidegate-bench-") as directory:
        table = Table(directory, "bench", DIMENSIONS, sealer, clock)
        table.open()
        now, number, began = clock.unix_ms(), 0, time.perf_counter()
        for block in vectors(STORED):
            for start in range(0, len(block), BATCH):
                table.append(
                    [_stored(number + place, now, block[place]) for place in range(start, start + BATCH)]
                )
            number += len(block)
        written_s = time.perf_counter() - began
        began = time.perf_counter()
        table.tend()
        tended_s = time.perf_counter() - began
        disk = sum(file.stat().st_size for file in Path(directory).rglob("*") if file.is_file())
        index, before, began = Index(DIMENSIONS), resident_bytes(), time.perf_counter()
        for batch in table.load():
            for question in batch:
                row = Row(question.entry, question.text.encode(), question.expires_at)
                index.put(question.org, question.partition, row, question.vector)
        read_s = time.perf_counter() - began
        table.close()
        return {
            "entries": len(index),
            "written_per_s": STORED / written_s,
            "tended_s": tended_s,
            "disk_bytes_each": disk / STORED,
            "read_s": read_s,
            "memory_bytes_each": (resident_bytes() - before) / STORED,
        }


def _stored(number: int, now: int, vector: NDArray[np.float32]) -> StoredQuestion:
    return StoredQuestion(
        org=ORG,
        partition=key(number % 1000),
        entry=key(number),
        text=f"Question number {number}, of some eighty bytes, as they are asked by people all day",
        vector=vector.astype(np.float16),
        expires_at=UnixMillis(now + 3_600_000),
        stored_at=UnixMillis(now),
        lineage=Lineage(
            request_id=f"{number:032x}", model="chat", revision="r1", admitted_at=UnixMillis(now)
        ),
    )


def figures() -> dict[str, Any]:
    """All three, as JSON has them."""
    found = asyncio.run(finds())
    return {
        "find": found,
        "search": [searches(entries, partitions) for entries, partitions in SIZES],
        "start": started(),
    }


def print_finds(console: Console, rows: Sequence[dict[str, Any]]) -> None:
    """What ``finds`` found."""
    shown = Shown(title="find through the socket (ms)")
    for column in ("tokens", "at once", "p50", "p99", f"refused of {FINDS}"):
        shown.add_column(column, justify="right")
    for row in rows:
        values = (f"{row['p50_ms']:.2f}", f"{row['p99_ms']:.2f}", str(row["refused"]))
        shown.add_row(str(row["tokens"]), str(row["at_once"]), *values)
    console.print(shown)


def print_recall_report(report: dict[str, Any]) -> int:
    """Always 0: a figure is not a failure."""
    console = Console(width=120)
    print_finds(console, report["find"])
    shown = Shown(title="search alone (ms)")
    for column in ("entries", "partitions", "p50", "p99", "nearest found", "add", "bytes each"):
        shown.add_column(column, justify="right")
    for row in report["search"]:
        shown.add_row(
            f"{row['entries']:,}",
            f"{row['partitions']:,}",
            f"{row['p50_ms']:.3f}",
            f"{row['p99_ms']:.3f}",
            f"{row['nearest_found']:.3f}",
            f"{row['add_ms']:.3f}",
            f"{row['bytes_each']:.0f}",
        )
    console.print(shown)
    start = report["start"]
    console.print(
        f"{start['entries']:,} questions: index read from the table in {start['read_s']:.1f} s; each"
        f" {start['memory_bytes_each']:.0f} bytes in memory and {start['disk_bytes_each']:.0f} on disk;"
        f" {start['written_per_s']:.0f} rows/s written, compacted in {start['tended_s']:.1f} s"
    )
    return 0


if __name__ == "__main__":
    print_recall_report(figures())
