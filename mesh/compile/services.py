"""ServiceEntry and DestinationRule to Envoy clusters, with Istio's names and defaults.

Source of names and defaults: Istio 1.31, pilot/pkg/networking/core/cluster_traffic_policy.go. Two
differences, both because nothing plays EDS or SDS here: clusters are STATIC with the target's
endpoints, and there is no mTLS.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from gateway.config.document import PolicyError
from mesh.compile.resources import Collector, Fields, Resource
from mesh.compile.target import ADMIN_HOST, Endpoint, Endpoints, Target

UNLIMITED: Final = 4294967295
"""Istio's circuit breakers when a DestinationRule sets none (Envoy's own are 1024, 1024, 1024 and 3)."""
CONNECT_TIMEOUT: Final = "10s"
"""MeshConfig's default."""
MAX_STREAMS: Final = 1073741824
"""Istio's http2 max_concurrent_streams."""
HTTP_OPTIONS: Final = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """One host of the mesh: ``ports`` maps its numbers to whether they speak HTTP/2."""

    host: str
    ports: Mapping[int, bool]
    resource: Resource


def cluster_name(host: str, port: int, subset: str = "") -> str:
    """Istio's name of an outbound cluster."""
    return f"outbound|{port}|{subset}|{host}"


def services_of(resources: list[Resource]) -> dict[str, Service]:
    """Every host that ServiceEntries declare. Raises PolicyError."""
    found: dict[str, Service] = {}

    def read(resource: Resource) -> None:
        spec = resource.spec()
        hosts = spec.texts("hosts")
        spec.text("location", ["MESH_INTERNAL"])
        spec.text("resolution", ["STATIC"])
        ports: dict[int, bool] = {}
        for port in spec.items("ports"):
            protocol = port.text("protocol", ["HTTP", "GRPC"])
            port.text("name", [protocol.lower()])  # Istio's convention: the name tells the protocol
            number = port.whole("number", 1, 65535)
            if number in ports:
                port.refuse("number", "stands twice")
            ports[number] = protocol == "GRPC"
            port.done()
        spec.done()
        for host in hosts:
            if host in found:
                spec.refuse("hosts", f"{host} is declared twice", "one ServiceEntry for each host")
            found[host] = Service(host=host, ports=ports, resource=resource)

    collector = Collector()
    collector.each(read, resources)
    collector.close()
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """What a DestinationRule's traffic policy sets, as parts of an Envoy cluster."""

    cluster: Mapping[str, Any]
    thresholds: Mapping[str, Any]
    idle_timeout: str = ""
    failover: Mapping[str, str] | None = None
    """``from`` region to ``to`` region; None when no locality setting is given."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One DestinationRule; ``subsets`` maps a name to the labels its endpoints must have."""

    resource: Resource
    policy: Policy
    subsets: Mapping[str, Mapping[str, str]]


def _balancing(fields: Fields) -> tuple[dict[str, Any], dict[str, str] | None]:
    cluster: dict[str, Any] = {}
    failover: dict[str, str] | None = None
    if fields.has("simple"):
        cluster["lb_policy"] = fields.text("simple", ["LEAST_REQUEST", "ROUND_ROBIN", "RANDOM"])
    if fields.has("localityLbSetting"):
        locality = fields.fields("localityLbSetting")
        if not locality.truth("enabled"):
            locality.refuse("enabled", "is not supported", "locality failover is what this policy is for")
        failover = {}
        for item in locality.items("failover"):
            failover[item.text("from")] = item.text("to")
            item.done()
        locality.done()
    fields.done()
    return cluster, failover


def _outliers(fields: Fields) -> dict[str, Any]:
    """outlierDetection; success-rate ejection is off, as Istio has it."""
    out: dict[str, Any] = {"enforcing_success_rate": 0}
    for ours, theirs in (
        ("consecutive5xxErrors", "consecutive_5xx"),
        ("consecutiveGatewayErrors", "consecutive_gateway_failure"),
    ):
        if fields.has(ours):
            out[theirs] = fields.whole(ours)
            out[f"enforcing_{theirs}"] = 100 if out[theirs] else 0
    if fields.has("splitExternalLocalOriginErrors"):
        out["split_external_local_origin_errors"] = fields.truth("splitExternalLocalOriginErrors")
        out["enforcing_local_origin_success_rate"] = 0
    if fields.has("consecutiveLocalOriginFailures"):
        if not out.get("split_external_local_origin_errors"):
            fields.refuse(
                "consecutiveLocalOriginFailures",
                "has no effect without splitExternalLocalOriginErrors: true",
                "set both",
            )
        out["consecutive_local_origin_failure"] = fields.whole("consecutiveLocalOriginFailures", 1)
        out["enforcing_consecutive_local_origin_failure"] = 100
    for ours, theirs in (("interval", "interval"), ("baseEjectionTime", "base_ejection_time")):
        if fields.has(ours):
            out[theirs] = fields.duration(ours)
    if fields.has("maxEjectionPercent"):
        out["max_ejection_percent"] = fields.whole("maxEjectionPercent", 1, 100)
    return out


def _policy(spec: Fields) -> Policy:
    cluster: dict[str, Any] = {}
    thresholds: dict[str, Any] = {}
    idle, failover = "", None
    if spec.has("loadBalancer"):
        balancing, failover = _balancing(spec.fields("loadBalancer"))
        cluster |= balancing
    if spec.has("connectionPool"):
        pool = spec.fields("connectionPool")
        if pool.has("tcp"):
            tcp = pool.fields("tcp")
            if tcp.has("connectTimeout"):
                cluster["connect_timeout"] = tcp.duration("connectTimeout")
            if tcp.has("maxConnections"):
                thresholds["max_connections"] = tcp.whole("maxConnections", 1)
            tcp.done()
        if pool.has("http"):
            http = pool.fields("http")
            for ours, theirs in (
                ("http1MaxPendingRequests", "max_pending_requests"),
                ("http2MaxRequests", "max_requests"),
                ("maxRetries", "max_retries"),
            ):
                if http.has(ours):
                    thresholds[theirs] = http.whole(ours, 1)
            if http.has("idleTimeout"):
                idle = http.duration("idleTimeout")
            http.done()
        pool.done()
    if spec.has("retryBudget"):
        budget = spec.fields("retryBudget")
        thresholds["retry_budget"] = {
            "budget_percent": {"value": float(budget.whole("percent", 0, 100))},
            "min_retry_concurrency": budget.whole("minRetryConcurrency"),
        }
        budget.done()
    if spec.has("outlierDetection"):
        outliers = spec.fields("outlierDetection")
        cluster["outlier_detection"] = _outliers(outliers)
        # Istio: minHealthPercent unset means that Envoy must not panic (default 50) into sick hosts.
        panic = outliers.whole("minHealthPercent", 0, 100) if outliers.has("minHealthPercent") else 0
        cluster["common_lb_config"] = {"healthy_panic_threshold": {"value": float(panic)}}
        outliers.done()
    spec.done()
    return Policy(cluster=cluster, thresholds=thresholds, idle_timeout=idle, failover=failover)


def rules_of(resources: list[Resource], services: Mapping[str, Service]) -> dict[str, Rule]:
    """Every DestinationRule by its host. Raises PolicyError."""
    found: dict[str, Rule] = {}

    def read(resource: Resource) -> None:
        spec = resource.spec()
        host = spec.reference("host", services, "a ServiceEntry").host
        if host in found:
            spec.refuse("host", "has two DestinationRules", "merge them: Istio keeps only one")
        policy = Policy(cluster={}, thresholds={})
        if spec.has("trafficPolicy"):
            policy = _policy(spec.fields("trafficPolicy"))
        subsets: dict[str, Mapping[str, str]] = {}
        for item in spec.items("subsets") if spec.has("subsets") else []:
            name = item.text("name")
            if name in subsets:
                item.refuse("name", "stands twice")
            subsets[name] = item.labels("labels")
            item.done()
        spec.done()
        found[host] = Rule(resource=resource, policy=policy, subsets=subsets)

    collector = Collector()
    collector.each(read, resources)
    collector.close()
    return found


def _priority(endpoint: Endpoint, target: Target, policy: Policy) -> int:
    """Istio's locality priority: 0 same zone, 1 same region, 2 the region's failover, 3 any other.
    Only with outlier detection; otherwise nothing would ever fail over and all are equal."""
    if "outlier_detection" not in policy.cluster:
        return 0
    region = endpoint.region or target.region
    if region != target.region:
        return 2 if policy.failover is None or policy.failover.get(target.region) == region else 3
    return 0 if (endpoint.zone or target.zone) == target.zone else 1


def _assignment(name: str, instances: list[Endpoint], target: Target, policy: Policy) -> dict[str, Any]:
    """ClusterLoadAssignment: one group for each priority and locality, priorities without gaps."""
    groups: dict[tuple[int, str, str], list[Endpoint]] = {}
    for instance in instances:
        region = instance.region or target.region
        zone = instance.zone or (target.zone if region == target.region else "")
        groups.setdefault((_priority(instance, target, policy), region, zone), []).append(instance)
    ranks = {priority: rank for rank, priority in enumerate(sorted({key[0] for key in groups}))}
    localities = []
    for (priority, region, zone), members in sorted(groups.items(), key=lambda entry: entry[0]):
        localities.append(
            {
                "locality": {"region": region, "zone": zone},
                "priority": ranks[priority],
                "load_balancing_weight": sum(member.weight for member in members),
                "lb_endpoints": [
                    {"endpoint": {"address": member.to_address()}, "load_balancing_weight": member.weight}
                    for member in members
                ],
            }
        )
    return {"cluster_name": name, "endpoints": localities}


def _http_options(http2: bool, policy: Policy) -> dict[str, Any]:
    """typed_extension_protocol_options: HTTP/2 for gRPC ports, the idle time-out when one is set."""
    if not http2 and not policy.idle_timeout:
        return {}
    options: dict[str, Any] = {"@type": f"type.googleapis.com/{HTTP_OPTIONS}"}
    protocol = {"http2_protocol_options": {"max_concurrent_streams": MAX_STREAMS}}
    options["explicit_http_config"] = protocol if http2 else {"http_protocol_options": {}}
    if policy.idle_timeout:
        options["common_http_protocol_options"] = {"idle_timeout": policy.idle_timeout}
    return {"typed_extension_protocol_options": {HTTP_OPTIONS: options}}


def _cluster(
    service: Service, port: int, subset: str, rule: Rule | None, instances: list[Endpoint], target: Target
) -> dict[str, Any]:
    policy = rule.policy if rule else Policy(cluster={}, thresholds={})
    name = cluster_name(service.host, port, subset)
    entry = service.resource
    metadata: dict[str, Any] = {
        "services": [{"host": service.host, "name": entry.name, "namespace": entry.namespace}],
        "default_original_port": port,
    }
    if rule:
        metadata["config"] = rule.resource.config_path
    if rule and subset:
        metadata["subset"] = subset
        wanted = rule.subsets[subset].items()
        instances = [one for one in instances if wanted <= one.labels.items()]
    thresholds = {
        "max_connections": UNLIMITED,
        "max_pending_requests": UNLIMITED,
        "max_requests": UNLIMITED,
        "max_retries": UNLIMITED,
        "track_remaining": True,
        **policy.thresholds,
    }
    if "retry_budget" in thresholds and "max_retries" not in policy.thresholds:
        del thresholds["max_retries"]  # Envoy ignores it beside a budget
    common = {**policy.cluster.get("common_lb_config", {})}
    if policy.failover is not None:
        common["locality_weighted_lb_config"] = {}
    return {
        "name": name,
        "type": "STATIC",
        "connect_timeout": CONNECT_TIMEOUT,
        "lb_policy": "LEAST_REQUEST",
        **policy.cluster,
        "common_lb_config": common,
        "circuit_breakers": {"thresholds": [thresholds]},
        "load_assignment": _assignment(name, instances, target, policy),
        "metadata": {"filter_metadata": {"istio": metadata}},
        **_http_options(service.ports[port], policy),
    }


def clusters_of(
    services: Mapping[str, Service], rules: Mapping[str, Rule], endpoints: Endpoints, target: Target
) -> list[dict[str, Any]]:
    """Every cluster: one for each host and port, and for each subset of it. Raises PolicyError."""
    instances = {ADMIN_HOST: (target.admin,), **endpoints}
    missing = [
        service.resource.document.problem(
            ("spec", "hosts"), f"{host} has no entry among the endpoints", "add it there; [] for none yet"
        )
        for host, service in services.items()
        if host not in instances
    ]
    if missing:
        raise PolicyError(missing)
    clusters = []
    for host, service in sorted(services.items()):
        rule = rules.get(host)
        for port in service.ports:
            clusters += [
                _cluster(service, port, subset, rule, list(instances[host]), target)
                for subset in ("", *(rule.subsets if rule else ()))
            ]
    return clusters
