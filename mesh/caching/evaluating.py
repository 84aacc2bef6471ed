"""Runs an evaluation on this machine: the product's recall in this process, with its own embedder."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ext_proc.cache.policy import Profile
from ext_proc.recall.index import Index
from ext_proc.recall.partition_rows import search_module
from ext_proc.recall.recaller import Recaller
from gateway.contract.clock import Clock
from inference.embedders.embedder import Embedder
from inference.embedders.minilm import open_minilm
from inference.embedders.source import SourceUnusable
from mesh.caching.evaluation import Evaluation, NotEvaluated, Row
from mesh.caching.pairs import Pair
from mesh.local.refusal import Refusal

DEADLINE_S: Final = 60.0
"""Of one question to recall, in place of the path's 40 ms: there a late answer is a miss, here it would make
figures depend on how busy the machine is. Times are measured all the same."""
_FIRST: Final = "Is anybody there?"
"""What a fresh model is asked first, by nobody: the first text costs it several times what others do."""


def evaluated(
    pairs: Sequence[Pair], profile: Profile, *, file: Path, models: Path, clock: Clock
) -> list[Row]:
    """A row for each pair, with a bar on standard error where that is a terminal. ``file``: where they come
    from, for messages. ``models``: the directory of prepared embedders; one is made there on first use, in
    seconds. Raises Refusal."""
    try:
        embedder = open_minilm(models)
    except SourceUnusable as error:
        raise Refusal(error.what, error.mend) from error
    columns = (TextColumn("pairs"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("", total=len(pairs))
        work = _rows(embedder, pairs, profile, file, clock, lambda: progress.advance(task))
        return asyncio.run(work)


async def _rows(
    embedder: Embedder,
    pairs: Sequence[Pair],
    profile: Profile,
    file: Path,
    clock: Clock,
    done: Callable[[], None],
) -> list[Row]:
    search_module()
    recaller = Recaller(embedder, Index(embedder.dimensions), clock, deadline_s=DEADLINE_S)
    try:
        await embedder.embed(_FIRST)
        evaluation = Evaluation(recaller, clock, profile, pairs)
        rows: list[Row] = []
        for index, pair in enumerate(pairs):
            try:
                rows.append(await evaluation.row(index))
            except NotEvaluated as error:
                raise Refusal(f"{file}: line {pair.line}: {error}", "mend that pair") from error
            done()
        return rows
    finally:
        await recaller.aclose()
        await embedder.close()
