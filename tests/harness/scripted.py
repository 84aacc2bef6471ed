"""Sidecars that misbehave on demand: a gRPC server on a Unix socket whose answers a test chooses."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import grpc.aio

from gateway.budget.admission import AdmissionRecord, Verdict
from gateway.contract import headers
from gateway.contract.ids import HoldId, KeyId, OrgId, RequestId
from gateway.sidecar import wire

Check = Callable[[Any], Awaitable[Any]]
"""CheckRequest to CheckResponse; may raise or hang."""
Process = Callable[[AsyncIterator[Any]], AsyncIterator[Any]]
"""ProcessingRequests to ProcessingResponses; may return early, raise or hang."""

PRINCIPAL_FIELDS: dict[str, Any] = {
    "org": "demo",
    "team": "demo",
    "user": "alice",
    "key": "k1",
    "tier": "standard",
    "models": ["*"],
    "scopes": [],
}


def struct(fields: dict[str, Any]) -> Any:
    """A protobuf Struct of the private pool."""
    made = wire.Struct()
    made.update(fields)
    return made


async def allow(_: Any) -> Any:
    """A well-behaved ext_authz: OK with a Principal."""
    return wire.CheckResponse(
        status=wire.Status(code=0),
        ok_response=wire.OkHttpResponse(),
        dynamic_metadata=struct({"principal": PRINCIPAL_FIELDS}),
    )


def admission() -> Any:
    """A record that passes the second gate."""
    record = AdmissionRecord(
        decision=Verdict.METERED,
        request_id=RequestId("r1"),
        org=OrgId("demo"),
        key=KeyId("k1"),
        hold=HoldId("r1"),
    )
    return struct({headers.NS_ADMIT: record.to_fields()})


def routed(name: str, value: str) -> Any:
    """A header set by admit."""
    return wire.HeaderValueOption(
        header=wire.HeaderValue(key=name, raw_value=value.encode()),
        append_action=wire.OVERWRITE_IF_EXISTS_OR_ADD,
    )


def deciding_reply(*, stream: bool = False) -> Any:
    """What admit answers to the body of a good request: route to the pods, with the record."""
    return wire.ProcessingResponse(
        request_body=wire.BodyResponse(
            response=wire.CommonResponse(
                header_mutation=wire.HeaderMutation(
                    set_headers=[routed(headers.POOL, "sglang"), routed(headers.STREAM, str(stream).lower())]
                ),
                clear_route_cache=True,
            )
        ),
        dynamic_metadata=admission(),
    )


async def admit(requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
    """A well-behaved admit."""
    async for request in requests:
        if request.WhichOneof("request") == "request_headers":
            yield wire.ProcessingResponse(request_headers=wire.HeadersResponse())
        else:
            yield deciding_reply()
            return


async def tap(requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
    """A tap that lets everything pass."""
    async for request in requests:
        if request.WhichOneof("request") == "response_headers":
            yield wire.ProcessingResponse(response_headers=wire.HeadersResponse())
        else:
            yield wire.ProcessingResponse(response_body=wire.BodyResponse())


class ScriptedSidecar:
    """Serves ext_authz and both ext_proc roles on one socket; a test assigns check, admit and tap."""

    def __init__(self, path: Path) -> None:
        """``path`` is the Unix socket."""
        self.path = path
        self.check: Check = allow
        self.admit: Process = admit
        self.tap: Process = tap
        self.checks = 0
        self.streams: list[str] = []
        self._server: grpc.aio.Server | None = None

    async def _check(self, request: bytes, _: Any) -> bytes:
        self.checks += 1
        answer = await self.check(wire.CheckRequest.FromString(request))
        raw: bytes = answer.SerializeToString()
        return raw

    async def _process(self, requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        role = str(dict(context.invocation_metadata()).get(headers.FILTER_ROLE, ""))
        self.streams.append(role)

        async def decoded() -> AsyncIterator[Any]:
            async for raw in requests:
                yield wire.ProcessingRequest.FromString(raw)

        behaviour = self.admit if role == "admit" else self.tap
        async for answer in behaviour(decoded()):
            yield answer.SerializeToString()

    async def _health(self, _: bytes, __: Any) -> bytes:
        raw: bytes = wire.HealthCheckResponse(status=wire.HEALTH_SERVING).SerializeToString()
        return raw

    async def start(self) -> None:
        """Serve until ``stop``."""
        self._server = grpc.aio.server(options=[("grpc.max_receive_message_length", 64 * 1024 * 1024)])
        for full_name, handler in (
            (wire.HEALTH_CHECK, grpc.unary_unary_rpc_method_handler(self._health)),
            (wire.AUTH_CHECK, grpc.unary_unary_rpc_method_handler(self._check)),
            (wire.EXT_PROC_PROCESS, grpc.stream_stream_rpc_method_handler(self._process)),
        ):
            service, method = full_name.strip("/").split("/")
            self._server.add_generic_rpc_handlers(
                (grpc.method_handlers_generic_handler(service, {method: handler}),)
            )
        self._server.add_insecure_port(f"unix:{self.path}")
        await self._server.start()

    async def stop(self) -> None:
        """Break every open call, as a crash does."""
        if self._server is not None:
            await self._server.stop(None)
            self._server = None
        self.path.unlink(missing_ok=True)
