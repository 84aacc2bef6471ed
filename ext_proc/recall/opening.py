"""Makes a recaller of the settings: embedder, index, table and what keeps them; and ends them in order.

Everything that is large is imported here, when it is wanted: a process whose policy has no use for similar
answers stays small.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ext_proc.cache.redis_store import RedisStore
from ext_proc.recall.settings import RecallSettings
from ext_proc.recall.words import Recall
from ext_proc.rules import Secrets
from gateway.config.environment import BadSetting
from gateway.contract.clock import Clock
from gateway.telemetry import names
from gateway.telemetry.log import EventLog
from gateway.telemetry.metrics import gauge

if TYPE_CHECKING:
    from ext_proc.recall.checks import Checks
    from ext_proc.recall.index import Index
    from inference.embedders.embedder import Embedder

MINILM: Final = "minilm"
KEY_FILE: Final = "embedder.key"
"""In the secrets' directory, where an engine wants one."""
COUNT_S: Final = 5.0
"""Between two times that the entries are counted for the gauge."""


def check(settings: RecallSettings) -> None:
    """Raises BadSetting for an embedder that cannot be meant."""
    chosen = settings.embedder
    if chosen.startswith(("http://", "https://")):
        if not settings.embedder_model:
            raise BadSetting("TIDEGATE_EMBEDDER_MODEL: is required where the embedder is a URL")
    elif chosen != MINILM and not chosen.endswith(".onnx"):
        raise BadSetting("TIDEGATE_EMBEDDER: must be minilm, an .onnx file or an http(s) URL")
    if not 1 <= settings.embedder_dimensions <= 8192:
        raise BadSetting("TIDEGATE_EMBEDDER_DIMENSIONS: must be 1 to 8192")


def open_embedder(settings: RecallSettings) -> Embedder:
    """Blocks, for seconds where a model has to be prepared first. Raises SourceUnusable, ValueError,
    OSError."""
    languages = frozenset(code for code in settings.embedder_languages.split(",") if code)
    if settings.embedder == MINILM:
        from inference.embedders.minilm import open_minilm

        return open_minilm(settings.models_dir)
    if "://" in settings.embedder:
        from inference.embedders.openai_embeddings import OpenAIEmbedder, RemoteModel

        key = settings.secrets_dir / KEY_FILE
        return OpenAIEmbedder(
            RemoteModel(
                name=settings.embedder_model,
                revision=settings.embedder_revision,
                dimensions=settings.embedder_dimensions,
                languages=languages,
                prefix=settings.embedder_prefix,
            ),
            base_url=settings.embedder,
            api_key=key.read_text(encoding="ascii").strip() if key.exists() else None,
        )
    return _onnx(settings, languages)


def _onnx(settings: RecallSettings, languages: frozenset[str]) -> Embedder:
    from inference.embedders.onnx_embedder import open_embedder as open_onnx
    from inference.embedders.source import Form, ModelSource, Pooling, sha256_of

    model = Path(settings.embedder)
    tokenizer = model.with_name("tokenizer.json")
    source = ModelSource(
        name=model.stem.lower(),
        model=model,
        model_sha256=sha256_of(model),
        tokenizer=tokenizer,
        tokenizer_sha256=sha256_of(tokenizer),
        form=Form(
            pooling=Pooling.MEAN, dimensions=settings.embedder_dimensions, prefix=settings.embedder_prefix
        ),
        languages=languages,
        requantise=True,
    )
    return open_onnx(source, settings.models_dir)


@asynccontextmanager
async def opened(
    settings: RecallSettings,
    secrets: Secrets,
    store: RedisStore,
    checks: Checks | None,
    clock: Clock,
    log: EventLog,
) -> AsyncIterator[Recall]:
    """The recaller, which finds at once and fills from the table meanwhile. ``checks`` None: there is no
    operator's key, and nothing is checked. Raises what ``open_embedder`` does."""
    embedder = await asyncio.to_thread(open_embedder, settings)
    try:
        from ext_proc.recall.index import Index
        from ext_proc.recall.partition_rows import Row, search_module
        from ext_proc.recall.purges import Purges, Unverified
        from ext_proc.recall.recaller import Recaller
        from ext_proc.recall.stored_question import StoredQuestion, TextSealer
        from ext_proc.recall.table import Ends, Table
        from ext_proc.recall.table_writer import TableWriter

        await asyncio.to_thread(search_module)
        index = Index(embedder.dimensions)

        def take(question: StoredQuestion) -> None:
            row = Row(question.entry, question.text.encode(), question.expires_at)
            index.put(question.org, question.partition, row, question.vector)

        sealer = TextSealer(secrets.recall_key())
        table = Table(settings.table_url, embedder.identity, embedder.dimensions, sealer, clock)
        writer = TableWriter(table, take, log)
        purges = Purges(store, clock)
        watched: dict[str, Any] = {"trust": Unverified(purges)}
        if checks is not None:
            watched = {
                "trust": checks.trust(purges),
                "on_near_miss": checks.judge.offer,
                "on_served": checks.verification.served,
            }
        recaller = Recaller(embedder, index, clock, writer=writer, **watched)

        async def drop(ends: Ends) -> None:
            await writer.loaded.wait()
            await recaller.drop(ends)

        try:
            async with asyncio.TaskGroup() as tasks:
                running = [
                    tasks.create_task(work) for work in (writer.run(), purges.run(drop), _keep(index, clock))
                ]
                try:
                    yield recaller
                finally:
                    for task in running:
                        task.cancel()
        finally:
            await recaller.aclose()
            await writer.aclose()
    finally:
        await embedder.close()


async def _keep(index: Index, clock: Clock) -> None:
    entries = gauge(names.RECALL_ENTRIES, "Questions in memory")
    while True:
        await asyncio.to_thread(index.prune, clock.unix_ms())
        entries.set(len(index))
        await asyncio.sleep(COUNT_S)
