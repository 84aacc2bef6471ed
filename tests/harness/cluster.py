"""Three primaries that share the slots: a real cluster of Valkey or Redis, for a test.

    with cluster() as nodes:
        ledger = RedisLedger.connect(nodes.url)

The nodes listen on 127.0.0.1, on ports that were free: cluster nodes speak TCP to each other.
"""

from __future__ import annotations

import contextlib
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.harness.valkey import START_S, free_port, valkey_binary

NODES: Final = 3
SLOTS: Final = 16384
_BUS: Final = 10_000
"""A node's bus port lies so far above its own."""


@dataclass(frozen=True, slots=True)
class Node:
    """One primary."""

    port: int
    process: subprocess.Popen[bytes]

    def command(self, *words: str | int) -> str:
        """The raw reply. Raises OSError, RuntimeError for an error."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=START_S) as connection:
            text = " ".join(map(str, words))
            connection.sendall(f"{text}\r\n".encode())
            reply = connection.recv(65536).decode()
        if reply.startswith("-"):
            raise RuntimeError(f"{text}: {reply.strip()}")
        return reply


@dataclass(frozen=True, slots=True)
class Cluster:
    """The nodes in the order of their slots."""

    nodes: tuple[Node, ...]

    @property
    def url(self) -> str:
        """Names one node: a client finds the others."""
        return f"redis+cluster://127.0.0.1:{self.nodes[0].port}"


def _free_port() -> int:
    """One whose bus port is free as well. Raises RuntimeError."""
    for _ in range(100):
        port = free_port()
        with socket.socket() as bus, contextlib.suppress(OSError):
            bus.bind(("127.0.0.1", port + _BUS))
            return port
    raise RuntimeError("no free pair of ports")


@contextlib.contextmanager
def cluster(binary: Path | None = None) -> Iterator[Cluster]:
    """A cluster that is up, with all slots covered; gone afterwards. Raises RuntimeError."""
    with contextlib.ExitStack() as stack:
        nodes = [stack.enter_context(_node(binary or valkey_binary())) for _ in range(NODES)]
        _until(nodes, lambda node: node.command("PING").startswith("+PONG"))
        for place, node in enumerate(nodes):
            first, last = place * SLOTS // NODES, (place + 1) * SLOTS // NODES - 1
            node.command("CLUSTER", "ADDSLOTSRANGE", first, last)
            node.command("CLUSTER", "SET-CONFIG-EPOCH", place + 1)
        for node in nodes[1:]:
            nodes[0].command("CLUSTER", "MEET", "127.0.0.1", node.port)
        _until(
            nodes,
            lambda node: (
                "cluster_state:ok" in node.command("CLUSTER", "INFO")
                and f"cluster_known_nodes:{NODES}" in node.command("CLUSTER", "INFO")
            ),
        )
        yield Cluster(tuple(nodes))


@contextlib.contextmanager
def _node(binary: Path) -> Iterator[Node]:
    with tempfile.TemporaryDirectory(prefix="tg-node-") as directory:
        port, log = _free_port(), Path(directory) / "server.log"
        command = [
            str(binary),
            "--port",
            str(port),
            "--bind",
            "127.0.0.1",
            "--save",
            "",
            "--appendonly",
            "no",
        ]
        command += ["--cluster-enabled", "yes", "--cluster-node-timeout", "5000", "--dir", directory]
        with log.open("wb") as output:
            process = subprocess.Popen(command, stdout=output, stderr=output)
        try:
            yield Node(port, process)
        finally:
            process.kill()
            process.wait()


def _until(nodes: list[Node], ready: object) -> None:
    deadline = time.monotonic() + START_S
    for node in nodes:
        while not _is(node, ready):
            if node.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the cluster's node on port {node.port} did not come up")
            time.sleep(0.02)


def _is(node: Node, ready: object) -> bool:
    assert callable(ready)
    try:
        return bool(ready(node))
    except OSError:
        return False
