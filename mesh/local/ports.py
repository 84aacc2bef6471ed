"""Ports on 127.0.0.1: is it free, who has it, one that is."""

from __future__ import annotations

import contextlib
import errno
import socket
from random import Random
from typing import Final

import psutil

from mesh.local.refusal import Refusal

FREE_PORTS: Final = (20_000, 32_000)
"""Linux gives outgoing connections 32768 and up (ip_local_port_range)."""
FREE_TRIES: Final = 200


def _holder(port: int) -> str:
    """`` by NAME (pid N)`` where the system tells; empty otherwise."""
    try:
        for connection in psutil.net_connections("tcp"):
            if connection.status == psutil.CONN_LISTEN and connection.laddr and connection.laddr[1] == port:
                if connection.pid is None:
                    return ""
                return f" by {psutil.Process(connection.pid).name()} (pid {connection.pid})"
    except (psutil.Error, OSError):
        return ""
    return ""


def refuse_taken(port: int, *, use: str) -> None:
    """Raises Refusal when 127.0.0.1:``port`` cannot be listened on; ``use`` names what for.

    Asked without SO_REUSEPORT, which Envoy sets: two Envoys of one user would share a port silently.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
            probe.listen(1)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise Refusal(
                    f"port {port} ({use}) is taken{_holder(port)}",
                    "stop it, or choose another with --port P (P and P+1 are used)",
                ) from None
            if error.errno in (errno.EACCES, errno.EPERM):
                raise Refusal(
                    f"port {port} ({use}) needs root", "choose one above 1023 with --port P"
                ) from None
            raise Refusal(f"port {port} ({use}): {error.strerror}", "choose another with --port P") from None


def free_port(random: Random) -> int:
    """A port that was free a moment ago, below the range that the system takes for outgoing connections:
    one of those could have it again before its process binds it. Raises Refusal when none is found."""
    for _ in range(FREE_TRIES):
        port = random.randrange(*FREE_PORTS)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise Refusal("no free port for the engine", "end some servers on 127.0.0.1, or use --engine URL")
