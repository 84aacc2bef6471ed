"""Answers that Envoy makes itself, on real Envoy: time-outs, silence, nothing behind, too much sent."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.contract import headers
from gateway.path import BUFFERED_BYTES_MAX
from gateway.sidecar import wire
from mesh.compile import Endpoint, compile_mesh
from tests.corpus.http.wire import sending
from tests.harness.gateway import UNTIL_S, free_ports
from tests.harness.listening import listening
from tests.harness.scripted import ScriptedSidecar, admission, routed
from tests.harness.trap import ENVOYS, envoy_binary
from tests.unit.mesh import policy

SOON = "0.2s"


async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A pod that is ready and never answers."""
    try:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            if b"/ready" in head:
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
    except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, ConnectionError):
        writer.close()


def hurried(bootstrap: Any) -> None:
    """Time-outs of the policy, shortened: a try's, a request's, a stream's silence."""
    (clients,) = (one for one in bootstrap["static_resources"]["listeners"] if one["name"].endswith("8080"))
    manager = clients["filter_chains"][0]["filters"][0]["typed_config"]
    for host in manager["route_config"]["virtual_hosts"]:
        routes = {route["name"]: route["route"] for route in host["routes"]}
        routes["sglang-stream"]["retry_policy"].update(per_try_timeout=SOON, num_retries=1)
        routes["sglang-json"]["timeout"] = SOON
        routes["api"].update(timeout="0s", idle_timeout=SOON)


def admitted_to(pool: str, stream: str) -> Callable[[AsyncIterator[Any]], AsyncIterator[Any]]:
    """An admit that routes every request to ``pool``."""

    async def admit(requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
        async for request in requests:
            if (
                request.WhichOneof("request") == "request_headers"
                and not request.request_headers.end_of_stream
            ):
                yield wire.ProcessingResponse(request_headers=wire.HeadersResponse())
                continue
            kind = "request_body" if request.WhichOneof("request") == "request_body" else "request_headers"
            response = wire.CommonResponse(
                header_mutation=wire.HeaderMutation(
                    set_headers=[routed(headers.POOL, pool), routed(headers.STREAM, stream)]
                ),
                clear_route_cache=True,
            )
            answer = wire.BodyResponse if kind == "request_body" else wire.HeadersResponse
            yield wire.ProcessingResponse(**{kind: answer(response=response)}, dynamic_metadata=admission())
            return

    return admit


@asynccontextmanager
async def envoy(
    directory: Path, version: str, change: Callable[[Any], None] = hurried, *, api: bool = True
) -> AsyncIterator[tuple[httpx.AsyncClient, ScriptedSidecar, int]]:
    """Envoy in front of pods (and an API) that never answer."""
    async with AsyncExitStack() as behind:
        pods = await behind.enter_async_context(listening(silent))
        if api:
            await behind.enter_async_context(listening(silent, directory / "api.sock"))
        sidecar = ScriptedSidecar(directory / "s.sock")
        await sidecar.start()
        behind.push_async_callback(sidecar.stop)
        port = free_ports()
        async with _envoy(directory, version, change, sidecar, pods, port) as client:
            yield client, sidecar, port


@asynccontextmanager
async def _envoy(
    directory: Path,
    version: str,
    change: Callable[[Any], None],
    sidecar: ScriptedSidecar,
    pods: int,
    port: int,
) -> AsyncIterator[httpx.AsyncClient]:
    pipe = (Endpoint(pipe=str(sidecar.path)),)
    places = policy.endpoints(
        ext_authz=pipe,
        ext_proc=pipe,
        bookkeeper=(Endpoint(pipe=str(directory / "nobody.sock")),),
        api=(Endpoint(pipe=str(directory / "api.sock")),),
        sglang=(Endpoint(address="127.0.0.1", port=pods),),
    )
    listeners = {8080: ("127.0.0.1", port), 8081: ("127.0.0.1", port + 1)}
    target = policy.target(listeners=listeners, admin=Endpoint(pipe=str(directory / "admin.sock")))
    bootstrap = dict(compile_mesh(policy.base(), places, target).bootstrap)
    change(bootstrap)
    config = directory / "envoy.json"
    config.write_text(json.dumps(bootstrap))
    process = await asyncio.create_subprocess_exec(
        str(envoy_binary(version)),
        "-c",
        str(config),
        "--concurrency",
        "1",
        "--disable-hot-restart",
        "-l",
        "error",
    )
    try:
        async with (
            asyncio.timeout(UNTIL_S),
            httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=UNTIL_S) as client,
        ):
            while (await ready(port + 1)) is None:
                assert process.returncode is None, "Envoy ended"
                await asyncio.sleep(0.02)
            yield client
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


async def ready(operators: int) -> httpx.Response | None:
    """Envoy's own metrics through the operators' door, once it listens."""
    async with httpx.AsyncClient() as client:
        try:
            return await client.get(f"http://127.0.0.1:{operators}/metrics/envoy")
        except httpx.TransportError:
            return None


def assert_ours(answer: httpx.Response, status: int, code: str) -> None:
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers[headers.REFUSAL] == code
    assert answer.headers[headers.REQUEST_ID]
    if status >= 500:
        assert int(answer.headers["retry-after"]) >= 1


@pytest.mark.parametrize("version", ENVOYS)
async def test_time_outs_are_504_in_openais_shape(version: str, tmp_path: Path) -> None:
    async with envoy(tmp_path, version) as (client, sidecar, _):
        for pool, stream in (("sglang", "true"), ("sglang", "false"), ("api", "false")):
            sidecar.admit = admitted_to(pool, stream)
            answer = await client.post("/v1/chat/completions", json={})
            assert_ours(answer, 504, "timeout")


async def test_the_longest_stream_ends_as_a_time_out(tmp_path: Path) -> None:
    def short(bootstrap: Any) -> None:
        (clients,) = (
            one for one in bootstrap["static_resources"]["listeners"] if one["name"].endswith("8080")
        )
        manager = clients["filter_chains"][0]["filters"][0]["typed_config"]
        manager["common_http_protocol_options"]["max_stream_duration"] = SOON

    async with envoy(tmp_path, ENVOYS[0], short) as (client, sidecar, _):
        sidecar.admit = admitted_to("sglang", "true")
        assert_ours(await client.post("/v1/chat/completions", json={}), 504, "timeout")


async def test_an_api_that_is_gone_does_not_blame_the_model_server(tmp_path: Path) -> None:
    async with envoy(tmp_path, ENVOYS[0], api=False) as (client, sidecar, _):
        sidecar.admit = admitted_to("api", "false")
        answer = await client.get("/v1/models")
        assert_ours(answer, 503, "service_unavailable")
        assert "model server" not in answer.text


async def test_an_unknown_host_and_two_hosts_are_404(tmp_path: Path) -> None:
    async with envoy(tmp_path, ENVOYS[0]) as (client, sidecar, port):
        sidecar.admit = admitted_to("api", "false")
        assert_ours(await client.get("/v1/models", headers={"host": "else.example"}), 404, "unknown_url")
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\nHost: 127.0.0.1\r\n\r\n")
        assert (await reader.readline()).split()[1] == b"404"
        writer.close()


@pytest.mark.parametrize("version", ENVOYS)
@pytest.mark.parametrize("chunked", [True, False])
async def test_a_fast_sender_of_too_much_is_told_at_once(version: str, chunked: bool, tmp_path: Path) -> None:
    """With request_body_buffer_limit instead of the buffer filter this hung for ever."""
    size = 2 * BUFFERED_BYTES_MAX
    length = b"transfer-encoding: chunked" if chunked else b"content-length: %d" % size
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n" + length + b"\r\n\r\n"
    async with envoy(tmp_path, version, lambda _: None) as (_, sidecar, port):
        sidecar.admit = admitted_to("sglang", "false")
        sent: list[bytes | float] = [head, b"%x\r\n" % size if chunked else b"", bytes(size)]

        def told() -> bytes:
            with socket.create_connection(("127.0.0.1", port), UNTIL_S) as client, sending(client, sent):
                return client.makefile("rb").readline()

        # Beside this loop, which has the sidecar's answers to give.
        assert (await asyncio.to_thread(told)).split()[1] == b"413"
        assert sidecar.streams == []


async def test_operators_reach_one_page_of_the_admin_interface_only(tmp_path: Path) -> None:
    async with envoy(tmp_path, ENVOYS[0]) as (client, _, port):
        operators = f"http://127.0.0.1:{port + 1}"
        metrics = await client.get(f"{operators}/metrics/envoy")
        assert metrics.status_code == 200 and "envoy_cluster_" in metrics.text
        for path in ("/stats", "/quitquitquit", "/config_dump", "/metrics/envoy/../../config_dump", "/"):
            assert (await client.get(operators + path)).status_code in (400, 404), path
