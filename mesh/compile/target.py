"""Where a config will run: what the policy leaves to the place (addresses), and nothing of policy.

``endpoints.yaml`` plays Istio's endpoint discovery: ``host: [{address, port} | {pipe}, ...]``.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from gateway.config.document import Document, PolicyError, Problem, validate

ADMIN_HOST: Final = "envoy-admin.tidegate.svc.cluster.local"
"""The mesh's name of Envoy's own admin interface. Its endpoint is ``Target.admin``: no endpoint file
can know it."""

ENDPOINTS_SCHEMA: Final[Mapping[str, Any]] = {
    "type": "object",
    "additionalProperties": {
        "type": "array",
        "items": {
            "type": "object",
            "properties": {
                "address": {"type": "string", "description": "an IP address"},
                "port": {"type": "integer", "minimum": 1, "maximum": 65535},
                "pipe": {"type": "string", "minLength": 1, "maxLength": 107, "description": "a Unix socket"},
                "region": {"type": "string"},
                "zone": {"type": "string"},
                "weight": {"type": "integer", "minimum": 1, "maximum": 128},
                "labels": {"type": "object", "additionalProperties": {"type": "string"}},
            },
            "oneOf": [{"required": ["address", "port"]}, {"required": ["pipe"]}],
            "additionalProperties": False,
        },
    },
}
"""A Unix socket's path is at most 107 bytes on Linux (sockaddr_un)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """One instance of a host: ``address`` (an IP) and ``port``, or ``pipe`` (a Unix socket)."""

    address: str = ""
    port: int = 0
    pipe: str = ""
    region: str = ""
    """Empty: the region of the Envoy itself."""
    zone: str = ""
    weight: int = 1
    labels: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raises ValueError for a host name: a STATIC cluster takes IP addresses only."""
        if not self.pipe:
            ipaddress.ip_address(self.address)

    def to_address(self) -> dict[str, Any]:
        """As envoy.config.core.v3.Address."""
        if self.pipe:
            return {"pipe": {"path": self.pipe}}
        return {"socket_address": {"address": self.address, "port_value": self.port}}


Endpoints = Mapping[str, tuple[Endpoint, ...]]
"""Host to instances. A host without an entry is a mistake; one with no instances answers 503."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One Envoy. ``listeners`` maps the Gateway's port number to the (address, port) to bind."""

    node_id: str
    region: str
    admin: Endpoint
    listeners: Mapping[int, tuple[str, int]]
    zone: str = ""
    labels: Mapping[str, str] = field(default_factory=lambda: {"istio": "tidegate-gateway"})
    """Of the gateway's pods: what ``selector`` of a Gateway, policy or EnvoyFilter must match."""

    def bind(self, port: int) -> tuple[str, int] | None:
        """Where the Gateway's ``port`` is bound; None when this target does not serve it."""
        return self.listeners.get(port)


def endpoints_from(document: Document) -> Endpoints:
    """The content of an endpoints.yaml. Raises PolicyError."""
    validate(document, ENDPOINTS_SCHEMA)
    found: dict[str, tuple[Endpoint, ...]] = {}
    problems: list[Problem] = []
    for host, entries in document.data.items():
        made = []
        for index, entry in enumerate(entries):
            try:
                made.append(Endpoint(**entry))
            except ValueError as error:
                problems.append(document.problem((host, index, "address"), str(error), "resolve it first"))
        found[host] = tuple(made)
    if problems:
        raise PolicyError(problems)
    return found
