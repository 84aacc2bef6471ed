"""Gateway and VirtualService to listeners, route tables and routes.

Source of names and defaults: Istio 1.31, pilot/pkg/networking/core/{gateway,route/route,route/retry}.go.
A virtual host answers its bare domain only (Istio's ISTIO_GATEWAY_STRIP_HOST_PORT=true), so that two
Host headers joined by a comma match nothing; mesh/base strips ports.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from mesh.compile.cors import CORS_NAME, cors_policy
from mesh.compile.resources import Collector, Fields, Resource, listed
from mesh.compile.services import Rule, Service, cluster_name
from mesh.compile.target import Target

RETRY_TOKENS: Final = (
    "5xx",
    "gateway-error",
    "reset",
    "reset-before-request",
    "connect-failure",
    "envoy-ratelimited",
    "retriable-4xx",
    "refused-stream",
    "retriable-status-codes",
    "retriable-headers",
    "http3-post-connect-failure",
    "cancelled",
    "deadline-exceeded",
    "internal",
    "resource-exhausted",
    "unavailable",
)
"""Envoy's x-envoy-retry-on and x-envoy-retry-grpc-on values; numbers are Istio's own addition."""
DEFAULT_RETRY_ON: Final = "connect-failure,refused-stream,unavailable,cancelled,retriable-status-codes"
PREVIOUS_HOSTS: Final = {
    "name": "envoy.retry_host_predicates.previous_hosts",
    "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate"
    },
}
PREVIOUS_PRIORITIES: Final = {
    "name": "envoy.retry_priorities.previous_priorities",
    "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.retry.priority.previous_priorities.v3"
        ".PreviousPrioritiesConfig",
        "update_frequency": 2,
    },
}


@dataclass(slots=True, kw_only=True)
class Server:
    """One Gateway's server: its port and, by host, its virtual host under construction."""

    resource: Resource
    port: int
    hosts: list[str]
    virtual_hosts: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def has_cors(self) -> bool:
        """Whether a route of it has a CORS policy."""
        return any(
            CORS_NAME in route.get("typed_per_filter_config", {})
            for host in self.virtual_hosts.values()
            for route in host["routes"]
        )


def servers_of(resources: list[Resource], target: Target) -> dict[str, Server]:
    """Every Gateway by ``namespace/name``. Raises PolicyError."""
    found: dict[str, Server] = {}

    def read(resource: Resource) -> None:
        spec = resource.spec()
        selects(spec, "selector", target)
        entries = spec.items("servers")
        if len(entries) != 1:
            spec.refuse("servers", "has several servers", "one Gateway for each port")
        (entry,) = entries
        port = entry.fields("port")
        protocol = port.text("protocol", ["HTTP"])
        port.text("name", [protocol.lower()])
        number = port.whole("number", 1, 65535)
        if target.bind(number) is None:
            served = ", ".join(map(str, target.listeners))
            port.refuse("number", "is bound nowhere by this target", f"it binds {served}")
        if any(number == other.port for other in found.values()):
            port.refuse("number", "has two Gateways")
        port.done()
        hosts = entry.texts("hosts")
        if len(set(hosts)) != len(hosts):
            entry.refuse("hosts", "one stands twice")
        entry.done()
        spec.done()
        found[f"{resource.namespace}/{resource.name}"] = Server(resource=resource, port=number, hosts=hosts)

    collector = Collector()
    collector.each(read, resources)
    collector.close()
    return found


def selects(fields: Fields, name: str, target: Target) -> None:
    """Refuse a workload selector that does not pick this target: a policy for nobody is a mistake."""
    labels = fields.labels(name)
    if not labels.items() <= target.labels.items():
        fields.refuse(name, "selects no gateway", f"the gateway's labels are {dict(target.labels)}")


@dataclass(frozen=True, slots=True)
class Router:
    """Adds VirtualServices to the virtual hosts of ``servers``."""

    servers: Mapping[str, Server]
    services: Mapping[str, Service]
    rules: Mapping[str, Rule]

    def add(self, resource: Resource) -> None:
        """One VirtualService. Raises PolicyError."""
        spec = resource.spec()
        hosts = spec.texts("hosts")
        routes: list[dict[str, Any]] = []
        names: list[str] = []
        for http in spec.items("http"):
            routes += self._routes(http, resource)
            if http.text("name") in names:
                http.refuse("name", "route names must be unique")
            names.append(http.text("name"))
        for gateway in spec.texts("gateways"):
            known = f"{resource.namespace}/{gateway}" if "/" not in gateway else gateway
            server = self.servers.get(known)
            if server is None:
                spec.refuse("gateways", f"{gateway}: no such Gateway", f"known: {listed(self.servers)}")
            for host in hosts:
                if host not in server.hosts:
                    spec.refuse(
                        "hosts", f"{host} is no host of {gateway}", f"it has {', '.join(server.hosts)}"
                    )
                name = f"{host}:{server.port}"
                if name in server.virtual_hosts:
                    spec.refuse("hosts", f"{host} has two VirtualServices on {gateway}", "merge them")
                server.virtual_hosts[name] = {
                    "name": name,
                    "domains": [host],
                    "routes": copy.deepcopy(routes),
                }
        spec.done()

    def _routes(self, http: Fields, resource: Resource) -> list[dict[str, Any]]:
        """One ``http[]`` entry: a route for each of its matches."""
        name = http.text("name")
        action = self._destinations(http)
        action["timeout"] = http.duration("timeout") if http.has("timeout") else "0s"
        action["retry_policy"] = self._retries(http, action["timeout"])
        if http.has("rewrite"):
            rewrite = http.fields("rewrite")
            action["prefix_rewrite"] = rewrite.text("uri")
            rewrite.done()
        filters = {CORS_NAME: cors_policy(http.fields("corsPolicy"))} if http.has("corsPolicy") else {}
        matches = (
            [_match(item) for item in http.items("match")] if http.has("match") else [("", {"prefix": "/"})]
        )
        http.done()
        metadata = {"filter_metadata": {"istio": {"config": resource.config_path}}}
        return [
            {
                "name": f"{name}.{own}" if own else name,  # Istio's: the matches of one entry may share it
                "match": match,
                "route": dict(action),
                "metadata": metadata,
                **({"typed_per_filter_config": dict(filters)} if filters else {}),
            }
            for own, match in matches
        ]

    def _destinations(self, http: Fields) -> dict[str, Any]:
        """The cluster, or the weighted clusters, of ``route``."""
        entries = http.items("route")
        clusters: list[dict[str, Any]] = []
        for entry in entries:
            destination = entry.fields("destination")
            service = destination.reference("host", self.services, "a ServiceEntry")
            host = service.host
            port = destination.fields("port")
            number = port.whole("number", 1, 65535)
            if number not in service.ports:
                port.refuse("number", f"is no port of {host}", f"it has {', '.join(map(str, service.ports))}")
            port.done()
            subset = ""
            if destination.has("subset"):
                rule = self.rules.get(host)
                subset = destination.text("subset")
                known = list(rule.subsets) if rule else []
                if subset not in known:
                    destination.refuse("subset", f"{host} has no such subset", f"known: {listed(known)}")
            destination.done()
            name = cluster_name(host, number, subset)
            if len(entries) > 1:
                clusters.append({"name": name, "weight": entry.whole("weight", 0, 100)})
            else:
                clusters.append({"name": name})
            entry.done()
        if len(clusters) == 1:
            return {"cluster": clusters[0]["name"]}
        if sum(cluster["weight"] for cluster in clusters) != 100:
            http.refuse("route", "the weights must add up to 100")
        return {"weighted_clusters": {"clusters": clusters}}

    def _retries(self, http: Fields, timeout: str) -> dict[str, Any]:
        """retry_policy; Istio retries twice also when a route says nothing."""
        policy: dict[str, Any] = {
            "retry_on": DEFAULT_RETRY_ON,
            "num_retries": 2,
            "retry_host_predicate": [PREVIOUS_HOSTS],
            "host_selection_retry_max_attempts": "5",
        }
        if not http.has("retries"):
            return policy
        retries = http.fields("retries")
        policy["num_retries"] = retries.whole("attempts", 0, 100)
        if retries.has("retryOn"):
            tokens, codes = _retry_on(retries)
            policy["retry_on"] = ",".join(tokens)
            if codes:
                policy["retriable_status_codes"] = codes
        if retries.has("perTryTimeout"):
            policy["per_try_timeout"] = retries.duration("perTryTimeout")
            if timeout != "0s" and float(policy["per_try_timeout"][:-1]) > float(timeout[:-1]):
                retries.refuse("perTryTimeout", f"is longer than the route's timeout of {timeout}")
        if retries.has("backoff"):
            policy["retry_back_off"] = {"base_interval": retries.duration("backoff")}
        if retries.has("retryRemoteLocalities") and retries.truth("retryRemoteLocalities"):
            policy["retry_priority"] = PREVIOUS_PRIORITIES
        retries.done()
        return policy


def _retry_on(retries: Fields) -> tuple[list[str], list[int]]:
    """retryOn split into Envoy's tokens and, as Istio does, status codes."""
    tokens: list[str] = []
    codes: list[int] = []
    for token in retries.text("retryOn").split(","):
        if re.fullmatch(r"[1-5][0-9]{2}", token):
            codes.append(int(token))
        elif token in RETRY_TOKENS:
            tokens.append(token)
        else:
            known = ", ".join(RETRY_TOKENS)
            retries.refuse("retryOn", f"{token!r} is no retry condition", f"known: {known}, status codes")
    if codes and "retriable-status-codes" not in tokens:
        retries.refuse("retryOn", "status codes need retriable-status-codes beside them")
    return tokens, codes


def _match(fields: Fields) -> tuple[str, dict[str, Any]]:
    """One HTTPMatchRequest, its own name first: uri exact or prefix, headers exact."""
    own = fields.text("name") if fields.has("name") else ""
    match: dict[str, Any] = {"prefix": "/"}
    if fields.has("uri"):
        uri = fields.fields("uri")
        kind = uri.one_of("exact", "prefix")
        match = {"path" if kind == "exact" else "prefix": uri.text(kind)}
        uri.done()
    if fields.has("headers"):
        headers = fields.fields("headers")
        names = fields.raw("headers")
        match["headers"] = []
        for name in names:
            header = headers.fields(name)
            match["headers"].append({"name": name, "string_match": {"exact": header.text("exact")}})
            header.done()
        headers.done()
    fields.done()
    return own, match
