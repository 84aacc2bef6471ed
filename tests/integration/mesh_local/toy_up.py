"""``toy_up.py STATE PORT [WORD...]``: ``tidegate up`` with small parts: a real Valkey, two toys, and one
for Envoy's admin socket.

The words are the second toy's, see toy_server.py.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from pathlib import Path

from rich.console import Console

from gateway.contract.clock import SystemClock
from mesh.local.engine import TwinEngine
from mesh.local.part import Part
from mesh.local.refusal import Refusal
from mesh.local.region import Region
from mesh.local.screen import PlainScreen
from mesh.local.up import Up, UpOptions
from tests.integration.mesh_local.toys import toy, valkey

STOP_S = 30.0
"""Grace of the second toy: far longer than it takes to stop without it, also on a slow machine."""


class NoPolicy:
    """Toys read no policy."""

    def __init__(self, region: Region, mesh: Path) -> None:
        pass

    def write(self) -> None:
        pass

    async def run(self, say: Callable[[str], None]) -> None:
        await asyncio.Event().wait()


def main(state: str, port: str, *words: str) -> int:
    def parts(region: Region) -> list[Part]:
        layout = region.layout
        one, two = toy(layout, "one", after=("ledger",)), toy(layout, "two", *words, stop_s=STOP_S)
        return [valkey(layout), one, two, toy(layout, "envoy-admin")]

    options = UpOptions(
        engine=TwinEngine(),
        engine_text="twin",
        port=int(port),
        state=Path(state),
        mesh=Path(),
        concurrency=1,
        log_level="info",
    )
    clock = SystemClock()
    try:
        return Up(options, PlainScreen(Console(), clock), clock, parts=parts, policy=NoPolicy).run()
    except Refusal as refusal:
        sys.stderr.write(f"{refusal.detail}\ntidegate: {refusal}\n")
        return 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
