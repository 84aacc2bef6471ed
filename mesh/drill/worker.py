"""The drill's own worker: the product's ``main``, with crash points and planted bugs around the ledger, the
machines and the outbox. Nothing of this is in the product.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, Final

import ext_proc.main
import gateway.bookkeeper.main
from ext_proc.stream import Effects, Machine
from ext_proc.vocabulary import (
    Event,
    PeerGone,
    ResponseBodyArrived,
    ResponseHeadersArrived,
    Settle,
    Void,
)
from gateway.bookkeeper.keeping import Outbox
from gateway.budget.certainty import Certainty
from gateway.budget.leasing_ledger import LeasingLedger
from gateway.budget.ledger import BudgetLedger, Draw, Granted, HoldRequest, Refused, Resolved
from gateway.budget.measure import Amounts
from gateway.budget.redis_ledger import RedisLedger
from gateway.contract.ids import HoldId, OrgId, RegionName
from gateway.contract.units import Millis
from gateway.sidecar.server import run
from mesh.drill.crash import CrashPoints

USAGE: Final = b'"usage"'
TWICE: Final = 0.1
"""Share of settles that are told a second time, as after an answer of the ledger that was lost."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """What is wrong with this worker besides that it dies. ``ttl_ms``: how long its holds live, so that a
    drill of minutes sees the sweep. ``lua``: the ledger's functions with a planted bug."""

    lua: Path | None
    ttl_ms: int


def live(role: str, points: CrashPoints, fault: Fault) -> None:
    """One life. Returns after a SIGTERM. Raises SystemExit for settings that are refused."""
    if fault.lua is not None:
        # Every RedisLedger of this process brings the library with the planted bug.
        defaults = RedisLedger.__init__.__kwdefaults__
        assert defaults is not None and "test_library" in defaults
        defaults["test_library"] = fault.lua.read_text(encoding="utf-8")
    if role == "bookkeeper":
        run(lambda: gateway.bookkeeper.main.main(wrap_outbox=lambda outbox: DrilledOutbox(outbox, points)))
        return
    run(
        lambda: ext_proc.main.main(
            wrap_ledger=lambda ledger: DrilledLedger(ledger, points, fault),
            wrap_machine=lambda machine: DrilledMachine(machine, points),
        )
    )


class DrilledLedger:
    """The labels of reserve and settle, shorter lives of holds, and settles that are told twice. Everything
    else is the ledger's own."""

    def __init__(self, ledger: BudgetLedger, points: CrashPoints, fault: Fault) -> None:
        """Around ``ledger``."""
        self._ledger, self._points, self._fault = ledger, points, fault
        if isinstance(ledger, LeasingLedger):
            points.worker = ledger.worker
        self._random = Random(f"{points.seed}/settles")

    def __getattr__(self, name: str) -> Any:
        """What is not told here."""
        return getattr(self._ledger, name)

    async def reserve(self, request: HoldRequest) -> Granted | Refused:
        """See BudgetLedger."""
        self._points.reach("before_reserve")
        ttl = Millis(min(request.ttl, self._fault.ttl_ms))
        answer = await self._ledger.reserve(dataclasses.replace(request, ttl=ttl))
        if isinstance(answer, Granted) and answer.lease:
            self._points.drawn.add(request.hold)
        self._points.reach("after_reserve")
        return answer

    async def extend(self, org: OrgId, hold: HoldId, ttl: Millis) -> Resolved:
        """See BudgetLedger."""
        return await self._ledger.extend(org, hold, Millis(min(ttl, self._fault.ttl_ms)))

    async def void(self, org: OrgId, hold: HoldId, *, reason: str, draw: Draw | None = None) -> Resolved:
        """See BudgetLedger."""
        resolved = await self._ledger.void(org, hold, reason=reason, draw=draw)
        self._points.metering.discard(hold)
        return resolved

    async def settle(
        self,
        org: OrgId,
        hold: HoldId,
        used: Amounts,
        *,
        certainty: Certainty = Certainty.EXACT,
        detail: Mapping[str, str] | None = None,
        draw: Draw | None = None,
    ) -> Resolved:
        """See BudgetLedger."""
        self._points.reach("before_settle")
        again = self._random.random() < TWICE
        resolved = await self._ledger.settle(org, hold, used, certainty=certainty, detail=detail, draw=draw)
        self._points.reach("after_settle")
        self._points.metering.discard(hold)
        if again:
            await asyncio.sleep(self._random.random() / 10)
            await self._ledger.settle(org, hold, used, certainty=certainty, detail=detail, draw=draw)
        return resolved


class DrilledMachine(Machine[Any]):
    """The labels of an answer on its way: its first bytes, and each event with usage."""

    steps: Mapping[Any, Any] = {}  # type: ignore[misc]  # the machine inside has the steps

    def __init__(self, machine: Machine[Any], points: CrashPoints) -> None:
        """Around ``machine``."""
        super().__init__(machine.stage)
        self._machine, self._points = machine, points
        self._hold = HoldId("")
        self._begun = self._resolving = False

    @property
    def decided(self) -> bool:
        """See Machine."""
        return self._machine.decided

    def receive(self, event: Event) -> Effects:
        """See Machine."""
        if isinstance(event, ResponseHeadersArrived) and event.record is not None:
            self._hold = HoldId(str(event.record.get("hold", "")))
            self._points.metering.add(self._hold)
        if isinstance(event, ResponseBodyArrived) and self._hold and not self._begun:
            self._begun = True
            self._points.reach("first_byte")
        effects = self._machine.receive(event)
        if isinstance(event, ResponseBodyArrived) and self._hold and USAGE in event.body:
            self._points.reach("each_usage")
        self._resolving = self._resolving or any(isinstance(one, Settle | Void) for one in effects)
        if isinstance(event, PeerGone) and not self._resolving:
            self._points.metering.discard(self._hold)  # an error of the engine: the access log resolves it
        return effects


class DrilledOutbox:
    """The labels around what the bookkeeper appends: entries have been read and are not yet in the books;
    they are in the books and not yet confirmed."""

    def __init__(self, outbox: Outbox, points: CrashPoints) -> None:
        """Around ``outbox``."""
        self._outbox, self._points = outbox, points

    def __getattr__(self, name: str) -> Any:
        """What is not told here."""
        return getattr(self._outbox, name)

    async def read_outbox(
        self, org: OrgId, after_id: str, count: int
    ) -> Sequence[tuple[str, Mapping[str, str]]]:
        """See Outbox."""
        entries = await self._outbox.read_outbox(org, after_id, count)
        if entries:
            self._points.reach("before_event")
        return entries

    async def drop_outbox(self, org: OrgId, ids: Sequence[str]) -> None:
        """See Outbox."""
        await self._outbox.drop_outbox(org, ids)

    async def anchor(self, region: RegionName) -> Mapping[str, str] | None:
        """See Outbox."""
        return await self._outbox.anchor(region)

    async def set_anchor(self, region: RegionName, count: int, head: str) -> None:
        """See Outbox."""
        self._points.reach("after_event")
        await self._outbox.set_anchor(region, count, head)
