"""A worker without its transport: Envoy's messages in, replies out, over a ledger that a test holds up."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any

from ext_proc.background import Background
from ext_proc.cache.memory_store import MemoryStore
from ext_proc.effects import Performer
from ext_proc.lookups import Lookups
from ext_proc.measures import Measures
from ext_proc.notes import Notes
from ext_proc.phases.admit import Admit
from ext_proc.phases.tap import Tap
from ext_proc.rules import AdmitRules
from ext_proc.server import ExtProc
from gateway.budget.certainty import Certainty
from gateway.budget.ledger import Draw, Granted, HoldRequest, Outcome, Refused, Resolved
from gateway.budget.measure import Amounts
from gateway.budget.memory_ledger import MemoryLedger
from gateway.contract.clock import SystemClock
from gateway.contract.errors import LedgerUnavailable
from gateway.contract.ids import HoldId, OrgId
from gateway.contract.principal import Principal
from gateway.contract.units import Millis
from gateway.sidecar import wire
from gateway.telemetry.log import EventLog
from tests.unit.ext_proc.asked import HEADERS, PRINCIPAL, RULES, SAY, body
from tests.unit.ext_proc.tapped import record

ACME = OrgId("acme")
CALLER = Principal.from_fields(PRINCIPAL)
ACCOUNTS = RULES.budgets.accounts_for(CALLER, model="chat", user="")


class SlowLedger(MemoryLedger):
    """Each verb waits for ``go``; ``broken`` verbs raise instead, so often as told."""

    def __init__(self) -> None:
        super().__init__(SystemClock())
        self.go = asyncio.Event()
        self.go.set()
        self.asked = asyncio.Event()
        self.broken: dict[str, int] = {}
        self.extended: dict[HoldId, tuple[Millis, Outcome]] = {}

    async def _gate(self, verb: str) -> None:
        self.asked.set()
        await self.go.wait()
        if self.broken.get(verb, 0) > 0:
            self.broken[verb] -= 1
            raise LedgerUnavailable("broken by the test")

    async def reserve(self, request: HoldRequest) -> Granted | Refused:
        await self._gate("reserve")
        return await super().reserve(request)

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
        await self._gate("settle")
        return await super().settle(org, hold, used, certainty=certainty, detail=detail, draw=draw)

    async def void(self, org: OrgId, hold: HoldId, *, reason: str, draw: Draw | None = None) -> Resolved:
        await self._gate("void")
        return await super().void(org, hold, reason=reason, draw=draw)

    async def extend(self, org: OrgId, hold: HoldId, ttl: Millis) -> Resolved:
        await self._gate("extend")
        found = await super().extend(org, hold, ttl)
        self.extended[hold] = (ttl, found.outcome)
        return found

    async def note(self, org: OrgId, kind: str, context: Mapping[str, str]) -> None:
        await self._gate("note")
        await super().note(org, kind, context)

    async def counts(self) -> tuple[int, int]:
        """Used and held of the org's minute."""
        standing = (await self.standing(ACME, ACCOUNTS))[0]
        return standing.used, standing.held

    def kinds(self) -> list[str]:
        return [entry["type"] for entry in self.outbox]


class Filters:
    """Everything of a worker but the transport."""

    def __init__(self, rules: AdmitRules = RULES) -> None:
        log, clock = EventLog("test"), SystemClock()
        self.ledger = SlowLedger()
        self.cache = MemoryStore(clock)
        self.background = Background(log)
        self.notes = Notes(self.ledger, self.background, log)
        self.lookups = Lookups(self.cache, self.cache, None, clock, Measures(clock), log)
        self.performer = Performer(
            self.ledger, self.lookups, clock, background=self.background, notes=self.notes, log=log
        )
        self.filters = ExtProc(
            {"admit": lambda: Admit(rules), "tap": lambda: Tap(keeps_headers=True)},
            self.performer,
            self.background,
            clock,
        )

    async def say(self, role: str, *messages: bytes) -> list[Any]:
        """The replies to ``messages``, after which the peer ends its side."""
        replies = self.filters.process({"tidegate-filter": role}, given(*messages))
        return [wire.ProcessingResponse.FromString(reply) async for reply in replies]

    async def hold(self) -> None:
        """As if admit had let r-1 pass."""
        found = await self.say("admit", request_headers(), request_body(temperature=1))
        assert found[1].WhichOneof("response") == "request_body"


async def given(*messages: bytes) -> AsyncIterator[bytes]:
    for message in messages:
        yield message


def request_headers(
    changed: Mapping[str, str] | None = None, *, principal: Mapping[str, object] = PRINCIPAL
) -> bytes:
    """``changed``: headers beside the usual, or in their place."""
    metadata = wire.Metadata()
    metadata.filter_metadata["envoy.filters.http.ext_authz"].update({"principal": dict(principal)})
    pairs = [
        wire.HeaderValue(key=name, raw_value=value.encode())
        for name, value in {**HEADERS, **(changed or {})}.items()
    ]
    headers = wire.HttpHeaders(headers=wire.HeaderMap(headers=pairs))
    return bytes(
        wire.ProcessingRequest(request_headers=headers, metadata_context=metadata).SerializeToString()
    )


def request_body(**changed: Any) -> bytes:
    data = body({**SAY, **changed}).body
    return bytes(wire.ProcessingRequest(request_body=wire.HttpBody(body=data)).SerializeToString())


def response_headers(status: int = 200, kind: str = "text/event-stream") -> bytes:
    metadata = wire.Metadata()
    metadata.filter_metadata["tidegate.admit"].update(record().to_fields())
    pairs = [
        wire.HeaderValue(key=":status", raw_value=str(status).encode()),
        wire.HeaderValue(key="content-type", raw_value=kind.encode()),
    ]
    headers = wire.HttpHeaders(headers=wire.HeaderMap(headers=pairs))
    return bytes(
        wire.ProcessingRequest(response_headers=headers, metadata_context=metadata).SerializeToString()
    )


def response_body(data: bytes, *, end: bool = False) -> bytes:
    part = wire.HttpBody(body=data, end_of_stream=end)
    return bytes(wire.ProcessingRequest(response_body=part).SerializeToString())
