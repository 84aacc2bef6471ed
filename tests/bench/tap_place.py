"""Where should the tap stand? ``python -m tests.bench.tap_place`` measures what design decision D2 asks for.

The same ext_proc filter (response headers sent, response body streamed, failure allowed) stands nowhere,
in the upstream chain of the pods' cluster, or in the downstream chain; a server that lets everything pass
counts what it sees. Printed: requests/s and Envoy's CPU, how soon a client's leaving is seen, and what a
mirrored request looks like.
"""

from __future__ import annotations

import asyncio
import json
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import grpc
import grpc.aio

from gateway.sidecar import wire
from mesh.envoy_binary import envoy_path
from tests.bench.load import SCENARIOS, compiled, run_slice
from tests.bench.targets import ROOT, Target, Upstream, free_port, wait_for_port

HCM: Final = (
    "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
)
HTTP: Final = "type.googleapis.com/envoy.extensions.filters.http"
ROUTER: Final = {"name": "envoy.filters.http.router", "typed_config": {"@type": f"{HTTP}.router.v3.Router"}}
ABORTS: Final = 20
NAMESPACE: Final = "tidegate.admit"


def tap_filter(socket_cluster: str) -> dict[str, Any]:
    """The filter as the policy has it."""
    return {
        "name": "tidegate.tap",
        "typed_config": {
            "@type": f"{HTTP}.ext_proc.v3.ExternalProcessor",
            "grpc_service": {"envoy_grpc": {"cluster_name": socket_cluster}, "timeout": "1s"},
            "failure_mode_allow": True,
            "message_timeout": "1s",
            "processing_mode": {
                "request_header_mode": "SKIP",
                "response_header_mode": "SEND",
                "response_body_mode": "STREAMED",
            },
            "metadata_options": {"forwarding_namespaces": {"untyped": [NAMESPACE]}},
        },
    }


CODEC: Final = {
    "name": "envoy.filters.http.upstream_codec",
    "typed_config": {"@type": f"{HTTP}.upstream_codec.v3.UpstreamCodec"},
}
OPTIONS: Final = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"


def cluster(name: str, address: dict[str, Any], **options: Any) -> dict[str, Any]:
    """One static endpoint."""
    endpoints = [{"lb_endpoints": [{"endpoint": {"address": address}}]}]
    return {
        "name": name,
        "connect_timeout": "1s",
        "load_assignment": {"cluster_name": name, "endpoints": endpoints},
        "typed_extension_protocol_options": {OPTIONS: {"@type": f"type.googleapis.com/{OPTIONS}", **options}},
    }


def manager(place: str, route: dict[str, Any]) -> dict[str, Any]:
    """The connection manager; a filter stands for admit and marks the request as admitted."""
    marking = {
        "name": "mark",
        "typed_config": {
            "@type": f"{HTTP}.set_metadata.v3.Config",
            "metadata": [{"metadata_namespace": NAMESPACE, "value": {"decision": "metered"}}],
        },
    }
    routes = [{"match": {"prefix": "/"}, "route": route}]
    return {
        "@type": HCM,
        "stat_prefix": "tap",
        "http_filters": [marking, *([tap_filter("tap")] if place == "downstream" else []), ROUTER],
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": routes}]},
    }


def bootstrap(
    *, place: str, port: int, upstream_port: int, tap_socket: Path, admin: Path, mirror: bool
) -> dict[str, Any]:
    """A plain proxy with the tap at ``place``: none, upstream or downstream."""
    route: dict[str, Any] = {"cluster": "pods", "timeout": "0s"}
    if mirror:
        route["request_mirror_policies"] = [{"cluster": "pods"}]
    pods = {"socket_address": {"address": "127.0.0.1", "port_value": upstream_port}}
    filters = [*([tap_filter("tap")] if place == "upstream" else []), CODEC]
    http1: dict[str, Any] = {"http_protocol_options": {}}
    http2: dict[str, Any] = {"http2_protocol_options": {}}
    network_filter = {
        "name": "envoy.filters.network.http_connection_manager",
        "typed_config": manager(place, route),
    }
    listener = {
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": port}},
        "filter_chains": [{"filters": [network_filter]}],
    }
    return {
        "admin": {"address": {"pipe": {"path": str(admin)}}},
        "static_resources": {
            "listeners": [listener],
            "clusters": [
                cluster("pods", pods, explicit_http_config=http1, http_filters=filters),
                cluster("tap", {"pipe": {"path": str(tap_socket)}}, explicit_http_config=http2),
            ],
        },
    }


class Passing:
    """An ext_proc server that lets everything pass and notes when each stream ended and what it carried."""

    def __init__(self) -> None:
        self.ended_at: list[float] = []
        self.ended = asyncio.Event()
        self.open = 0
        self.idle = asyncio.Event()
        self.idle.set()
        self.with_metadata: list[bool] = []

    async def process(self, requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        headers_ok = wire.ProcessingResponse(response_headers=wire.HeadersResponse()).SerializeToString()
        body_ok = wire.ProcessingResponse(response_body=wire.BodyResponse()).SerializeToString()
        self.open += 1
        self.idle.clear()
        try:
            async for raw in requests:
                message = wire.ProcessingRequest.FromString(raw)
                if message.WhichOneof("request") == "response_headers":
                    self.with_metadata.append(NAMESPACE in message.metadata_context.filter_metadata)
                    yield headers_ok
                else:
                    yield body_ok
        finally:
            self.open -= 1
            if not self.open:
                self.idle.set()
            self.ended_at.append(time.monotonic())
            self.ended.set()

    async def start(self, path: Path) -> grpc.aio.Server:
        server = grpc.aio.server()
        handler = grpc.stream_stream_rpc_method_handler(self.process)
        service, method = wire.EXT_PROC_PROCESS.strip("/").split("/")
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {method: handler}),))
        server.add_insecure_port(f"unix:{path}")
        await server.start()
        return server


async def leave_after_first_chunk(port: int) -> float:
    """Open a stream, close the socket after its first bytes; the moment of closing."""
    body = SCENARIOS[-1].body("m")
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n"
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(head.encode() + body)
    await reader.readuntil(b"data: ")
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
    left_at = time.monotonic()
    writer.transport.abort()
    return left_at


async def loaded(target: Target, *, seconds: float, work_dir: Path) -> dict[str, Any]:
    """Requests/s and Envoy's CPU, for JSON answers and for streams."""
    figures: dict[str, Any] = {}
    program = compiled("loadgen", ROOT / ".tidegate" / "bench")
    for scenario in (SCENARIOS[0], SCENARIOS[-1]):
        before = target.cpu_s()["envoy"]
        options: dict[str, Any] = {"seconds": seconds, "work_dir": work_dir, "cpus": {0, 1}}
        result = await asyncio.to_thread(
            run_slice, program, scenario, port=target.port, token="-", model="m", **options
        )
        spent = target.cpu_s()["envoy"] - before
        if scenario.stream:
            chunks = result["chunks"]
            figures["cpu_s_per_1000_chunks"] = spent / chunks * 1000 if chunks else None
        else:
            figures |= {
                "rps": result["rps"],
                "cpu_us_per_request": spent / max(1, result["started"]) * 1e6,
            }
    return figures


async def abort_delays(port: int, seen: Passing) -> dict[str, float]:
    """From a client's closing its socket to the filter's stream ending, in milliseconds."""
    delays = []
    for _ in range(ABORTS):
        await asyncio.wait_for(seen.idle.wait(), 10)  # streams of the load have ended with it
        seen.ended_at.clear()
        seen.ended.clear()
        left_at = await leave_after_first_chunk(port)
        await asyncio.wait_for(seen.ended.wait(), 10)
        delays.append((seen.ended_at[0] - left_at) * 1000)
    return {"p50": statistics.median(delays), "max": max(delays)}


async def measured(place: str, *, upstream: Upstream, work_dir: Path, seconds: float) -> dict[str, Any]:
    """Every figure of one place."""
    port, tap_socket = free_port(), work_dir / f"{place}.sock"
    seen = Passing()
    server = await seen.start(tap_socket)

    def start(*, mirror: bool) -> subprocess.Popen[bytes]:
        config = work_dir / f"{place}-{mirror}.json"
        built = bootstrap(
            place=place,
            port=port,
            upstream_port=upstream.port,
            tap_socket=tap_socket,
            admin=work_dir / f"{place}.admin",
            mirror=mirror,
        )
        config.write_text(json.dumps(built))
        options = ("--concurrency", "1", "--disable-hot-restart", "-l", "error")
        return subprocess.Popen([str(envoy_path()), "-c", str(config), *options])

    figures: dict[str, Any] = {"place": place}
    envoy = start(mirror=False)
    try:
        wait_for_port(port, envoy)
        target = Target(name=place, port=port, token="-", parts={"envoy": [envoy.pid]})
        figures |= await loaded(target, seconds=seconds, work_dir=work_dir)
        figures["abort_seen_ms"] = await abort_delays(port, seen) if place != "none" else None
    finally:
        envoy.terminate()
        envoy.wait(10)
    figures["mirror"] = await mirrored(start(mirror=True), port, seen)
    await server.stop(None)
    return figures


async def mirrored(envoy: subprocess.Popen[bytes], port: int, seen: Passing) -> dict[str, int]:
    """One request on a route that mirrors to the same pods: tap streams, and those with the record."""
    try:
        await asyncio.to_thread(wait_for_port, port, envoy)
        seen.with_metadata.clear()
        body = SCENARIOS[0].body("m")
        head = "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nconnection: close\r\n"
        head += f"content-length: {len(body)}\r\n\r\n"
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(head.encode() + body)
        await reader.read()
        writer.close()
        await asyncio.sleep(0.3)
        return {"tap_streams": len(seen.with_metadata), "with_record": sum(seen.with_metadata)}
    finally:
        envoy.terminate()
        await asyncio.to_thread(envoy.wait, 10)


async def run(seconds: float) -> list[dict[str, Any]]:
    """All three places against one upstream."""
    upstream = Upstream(compiled("mock_openai", ROOT / ".tidegate" / "bench"))
    try:
        with tempfile.TemporaryDirectory(prefix="tidegate-tap-") as directory:
            return [
                await measured(place, upstream=upstream, work_dir=Path(directory), seconds=seconds)
                for place in ("none", "upstream", "downstream")
            ]
    finally:
        upstream.close()


if __name__ == "__main__":
    for row in asyncio.run(run(float(sys.argv[1]) if len(sys.argv) > 1 else 3.0)):
        print(json.dumps(row))
