"""The operators' desk of a running gateway's cache."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

from ext_proc.cache.entry import Sealer
from ext_proc.cache.redis_store import RedisStore
from ext_proc.cache.store import CacheUnavailable
from ext_proc.recall.kept_state import TRUTH_FILE
from ext_proc.settings import load_secrets
from gateway.contract.clock import Clock
from gateway.telemetry.metrics import exposition
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


def learnt(layout: Layout) -> bytes | None:
    """What recall has kept of wrong hits; None where it has kept nothing yet. Raises OSError."""
    try:
        return (layout.recall / TRUTH_FILE).read_bytes()
    except FileNotFoundError:
        return None
