"""The whole: resources by kind, stage by stage, to Envoy's bootstrap."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from gateway.config.document import PolicyError, Problem
from mesh.compile.cors import CORS_FILTER
from mesh.compile.patches import HCM_NAME, Generated, Patch, apply_patches, patches_of
from mesh.compile.resources import Collector, Resource, Resources, shown
from mesh.compile.routes import Router, Server, servers_of
from mesh.compile.security import config_map_data, custom_filters, providers_of
from mesh.compile.services import Service, clusters_of, rules_of, services_of
from mesh.compile.target import Endpoints, Target

KINDS: Final = {
    "Gateway": "networking.istio.io/v1",
    "VirtualService": "networking.istio.io/v1",
    "DestinationRule": "networking.istio.io/v1",
    "ServiceEntry": "networking.istio.io/v1",
    "EnvoyFilter": "networking.istio.io/v1alpha3",
    "AuthorizationPolicy": "security.istio.io/v1",
    "ConfigMap": "v1",
}
MESH_CONFIG: Final = "istio"
"""The ConfigMap that holds Istio's MeshConfig."""
POLICY: Final = "tidegate-policy"
"""The ConfigMap that holds Tidegate's own policy files."""
_FILE_NAME: Final = re.compile(r"(?!\.+$)[-._a-zA-Z0-9]{1,253}")
"""Kubernetes' keys of a ConfigMap: each becomes a file, so none may lead out of its directory."""
ROUTER: Final = {
    "name": "envoy.filters.http.router",
    "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"},
}
"""Istio's other filters (grpc_stats, fault, cors) do nothing without a policy of theirs: cors stands here
where a route has one, the others cannot be given one and are left out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Compiled:
    """``bootstrap`` is the JSON for ``envoy -c``; ``diagnostics`` are warnings, not errors."""

    bootstrap: Mapping[str, Any]
    diagnostics: tuple[Problem, ...]


def policy_files(resources: Resources) -> dict[str, str]:
    """Tidegate's own policy by file name (``budgets.yaml``), from its ConfigMap. Raises PolicyError."""
    for resource in resources:
        if resource.kind == "ConfigMap" and resource.name == POLICY:
            data = config_map_data(resource)
            for name in resource.document.data["data"]:
                if not _FILE_NAME.fullmatch(name):
                    message, mend = f"{shown(name)} is no name of a file", "Kubernetes takes [-._a-zA-Z0-9]+"
                    data.refuse_at((*data.path, name), message, mend)
            return {name: data.text(name) for name in resource.document.data["data"]}
    problem = Problem(
        file="kustomization.yaml",
        line=1,
        path="configMapGenerator",
        message=f"no ConfigMap {POLICY}",
        mend="mesh/base generates it from its policy directory",
    )
    raise PolicyError([problem])


def compile_mesh(resources: Resources, endpoints: Endpoints, target: Target) -> Compiled:
    """The bootstrap of ``target``. Raises PolicyError with every problem of the first stage that fails."""
    kinds = _by_kind(resources)
    services = services_of(kinds["ServiceEntry"])
    rules = rules_of(kinds["DestinationRule"], services)
    clusters = clusters_of(services, rules, endpoints, target)
    servers = servers_of(kinds["Gateway"], target)

    collector = Collector()
    collector.each(Router(servers=servers, services=services, rules=rules).add, kinds["VirtualService"])
    collector.close()

    providers = _providers(kinds["ConfigMap"], services)
    filters: list[dict[str, Any]] = []
    collector.each(
        lambda resource: filters.extend(custom_filters(resource, providers, target)),
        kinds["AuthorizationPolicy"],
    )
    collector.close()

    by_port = sorted(servers.values(), key=lambda server: server.port)
    generated = Generated(
        listeners={server.port: _listener(server, filters, target) for server in by_port},
        clusters=clusters,
        bootstrap=_bootstrap(resources, target),
    )
    patches: list[Patch] = []
    ordered = sorted(kinds["EnvoyFilter"], key=lambda resource: (resource.name, resource.namespace))
    collector.each(lambda resource: patches.extend(patches_of(resource, target)), ordered)
    collector.close()
    apply_patches(patches, generated)

    generated.bootstrap["static_resources"] = {
        "listeners": [*generated.listeners.values(), *generated.added_listeners],
        "clusters": generated.clusters,
    }
    return Compiled(bootstrap=generated.bootstrap, diagnostics=_diagnostics(kinds["ServiceEntry"], endpoints))


def _providers(config_maps: list[Resource], services: Mapping[str, Service]) -> dict[str, dict[str, Any]]:
    """The ext_authz filter of each provider that the MeshConfig names. Raises PolicyError."""
    providers: dict[str, dict[str, Any]] = {}
    seen: set[str] = set()

    def read(resource: Resource) -> None:
        message = mend = ""
        if resource.name not in (MESH_CONFIG, POLICY):
            message, mend = "no such ConfigMap", f"known: {MESH_CONFIG}, {POLICY}"
        elif resource.name in seen:
            message, mend = "stands in two namespaces", "keep one: only one can be in force"
        if message:
            problem = resource.document.problem(("metadata", "name"), f"{resource.name!r}: {message}", mend)
            raise PolicyError([problem])
        seen.add(resource.name)
        if resource.name == MESH_CONFIG:
            providers.update(providers_of(resource, services))

    collector = Collector()
    collector.each(read, config_maps)
    collector.close()
    return providers


def _by_kind(resources: Resources) -> dict[str, list[Resource]]:
    """Resources of each known kind. Raises PolicyError for unknown kinds and API versions, and for two
    resources of one kind, namespace and name, of which Kubernetes would keep the last."""
    kinds: dict[str, list[Resource]] = {kind: [] for kind in KINDS}
    problems = []
    seen: dict[str, str] = {}
    for resource in resources:
        document = resource.document
        if resource.reference in seen:
            message = f"{shown(resource.reference)} stands twice"
            mend = f"the first is at {seen[resource.reference]}"
            problems.append(document.problem(("metadata", "name"), message, mend))
        elif resource.kind not in KINDS:
            message = f"{shown(resource.kind)} is not supported"
            problems.append(document.problem(("kind",), message, f"known: {', '.join(KINDS)}"))
        elif resource.api_version != KINDS[resource.kind]:
            message = f"{shown(resource.api_version)} is not supported for {resource.kind}"
            problems.append(document.problem(("apiVersion",), message, f"use {KINDS[resource.kind]}"))
        else:
            kinds[resource.kind].append(resource)
        seen.setdefault(resource.reference, f"{document.file}:{document.line(('metadata',))}")
    if problems:
        raise PolicyError(problems)
    return kinds


def _listener(server: Server, filters: list[dict[str, Any]], target: Target) -> dict[str, Any]:
    """Istio's gateway listener for plain HTTP, its route table inline."""
    bound = target.bind(server.port)
    assert bound is not None  # servers_of checked it
    manager = {
        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3"
        ".HttpConnectionManager",
        "stat_prefix": f"outbound_0.0.0.0_{server.port}",
        "route_config": {
            "name": f"http.{server.port}",
            "virtual_hosts": list(server.virtual_hosts.values()),
        },
        "http_filters": [*filters, *([CORS_FILTER] if server.has_cors else []), ROUTER],
        "use_remote_address": True,
        "normalize_path": True,
        "server_name": "istio-envoy",
        "forward_client_cert_details": "SANITIZE_SET",
        "set_current_client_cert_details": {"subject": True, "cert": True, "dns": True, "uri": True},
        "upgrade_configs": [{"upgrade_type": "websocket"}],
        "stream_idle_timeout": "0s",
    }
    return {
        "name": f"0.0.0.0_{server.port}",
        "address": {"socket_address": {"address": bound[0], "port_value": bound[1]}},
        "traffic_direction": "OUTBOUND",
        "filter_chains": [{"filters": [{"name": HCM_NAME, "typed_config": manager}]}],
    }


def _bootstrap(resources: Resources, target: Target) -> dict[str, Any]:
    """Node and admin. The node names every resource this config was made from."""
    return {
        "node": {
            "id": target.node_id,
            "cluster": target.labels.get("istio", "tidegate"),
            "locality": {"region": target.region, "zone": target.zone},
            "metadata": {
                "LABELS": dict(target.labels),
                "TIDEGATE_RESOURCES": sorted(resource.reference for resource in resources),
            },
        },
        "admin": {"address": target.admin.to_address()},
    }


def _diagnostics(entries: list[Resource], endpoints: Endpoints) -> tuple[Problem, ...]:
    """Hosts without instances: legal, and every request to them is 503."""
    return tuple(
        entry.document.problem(
            ("spec", "hosts"), f"{host} has no endpoints", "requests to it are answered 503"
        )
        for entry in entries
        for host in entry.document.data["spec"]["hosts"]
        if host in endpoints and not endpoints[host]
    )
