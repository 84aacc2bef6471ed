"""The operators' desk of a running gateway's cache."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from ext_proc.cache.entry import Sealer
from ext_proc.cache.redis_store import RedisStore
from ext_proc.cache.store import CacheUnavailable
from ext_proc.recall.checks import TRUTH_FILE
from ext_proc.settings import load_secrets
from gateway.contract.clock import Clock
from gateway.telemetry.metrics import exposition
from mesh.caching.tally import BucketTruth, truth_of
from mesh.caching.upkeep import Upkeep
from mesh.local.desk import Desk, at_desk
from mesh.local.layout import Layout
from mesh.local.record import running_supervisor
from mesh.local.refusal import Refusal

T = TypeVar("T")


def at_cache(layout: Layout, clock: Clock, work: Callable[[Upkeep], Awaitable[T]]) -> T:
    """What ``work`` makes at the cache of ``layout``. Raises Refusal, PolicyError, BadSetting, OSError."""
    if running_supervisor(layout) is None:
        raise Refusal(
            f"no gateway runs on {layout.state}, and its cache keeps nothing over a stop",
            "start one with './tidegate up'",
        )
    sealer = Sealer(load_secrets(layout.secrets).entry_key())

    async def run(desk: Desk) -> T:
        store = RedisStore.connect(f"unix://{layout.socket('cache')}", sealer, clock)
        try:
            return await work(Upkeep(store, desk.recorder, desk.accounts))
        except CacheUnavailable as error:
            raise Refusal("the cache does not answer", "see './tidegate status'") from error
        finally:
            await store.aclose()

    return at_desk(layout, clock, run)


def counted(layout: Layout) -> bytes:
    """The metrics of all processes of the gateway, as one would scrape them."""
    return exposition(str(layout.metrics))


def learnt(layout: Layout) -> Sequence[BucketTruth]:
    """What recall has kept of wrong hits; nothing where it has kept nothing yet. Raises Refusal, OSError."""
    file = layout.learnt / TRUTH_FILE
    try:
        return truth_of(file.read_bytes())
    except FileNotFoundError:
        return ()
    except ValueError as error:
        mend = "remove it, then start the gateway anew: what was learnt is lost"
        raise Refusal(f"{file} is damaged ({error})", mend) from error
