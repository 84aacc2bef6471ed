"""Which engine stands behind the gateway: the real SGLang here, its twin, or pods that run elsewhere."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from urllib.parse import urlsplit

from mesh.local.refusal import Refusal

ENGINE_MEND = "use sglang, twin, or http://HOST:PORT (several with commas between)"


@dataclass(frozen=True, slots=True, kw_only=True)
class SglangEngine:
    """The real SGLang, started here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TwinEngine:
    """The deterministic twin, started here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteEngine:
    """Pods that run already: (host, port) of each."""

    pods: tuple[tuple[str, int], ...]


Engine = SglangEngine | TwinEngine | RemoteEngine


def _pod_from(url: str) -> tuple[str, int]:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise Refusal(f"--engine {url!r} is no address", ENGINE_MEND) from None
    if parts.scheme == "https":
        raise Refusal(f"--engine {url!r}: pods are reached without TLS here", "use an http:// address")
    if parts.scheme != "http" or not parts.hostname:
        raise Refusal(f"unknown engine {url!r}", ENGINE_MEND)
    if parts.path.rstrip("/") not in ("", "/v1") or parts.query or parts.fragment or parts.username:
        raise Refusal(f"--engine {url!r} has more than host and port", ENGINE_MEND)
    return parts.hostname, port or 80


def resolved(engine: RemoteEngine) -> tuple[tuple[str, int], ...]:
    """The pods as (IP address, port): Envoy's static clusters take no names. Raises Refusal."""
    addresses = []
    for host, port in engine.pods:
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except OSError as error:
            raise Refusal(f"--engine: {host} is not known ({error.strerror})", "use its address") from None
        addresses.append((str(found[0][4][0]), port))
    return tuple(addresses)


def engine_from(text: str) -> Engine:
    """``sglang``, ``twin`` or addresses. Raises Refusal."""
    match text:
        case "sglang":
            return SglangEngine()
        case "twin":
            return TwinEngine()
        case _:
            pods = tuple(_pod_from(item.strip()) for item in text.split(","))
            if len(set(pods)) != len(pods):
                raise Refusal(f"--engine {text!r} names a pod twice", "name each once")
            return RemoteEngine(pods=pods)
