"""EnvoyFilter patches, with Istio's matching and merging.

Source: Istio 1.31, pilot/pkg/networking/core/envoyfilter. Stricter than Istio: a patch that matches
nothing, a filter name that stands twice (cors may), a gRPC service in a cluster that does not exist, or a
value for what another kind of patch is made for is an error. Values are Envoy's JSON with its own field
names (snake_case): camelCase would escape the merge.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from gateway.config.document import PathKey
from mesh.compile.cors import REPEATABLE
from mesh.compile.merge import merged, mismatch
from mesh.compile.resources import Collector, Fields, Resource, listed, shown
from mesh.compile.routes import selects
from mesh.compile.target import Target

HCM_NAME: Final = "envoy.filters.network.http_connection_manager"
OPERATIONS: Final = {
    "CLUSTER": ("MERGE", "ADD"),
    "LISTENER": ("MERGE", "ADD"),
    "NETWORK_FILTER": ("MERGE",),
    "HTTP_FILTER": ("MERGE", "INSERT_FIRST", "INSERT_BEFORE", "INSERT_AFTER"),
    "VIRTUAL_HOST": ("MERGE",),
    "HTTP_ROUTE": ("MERGE",),
    "BOOTSTRAP": ("MERGE",),
}
"""What is supported, in the order in which kinds are applied."""
RESERVED: Final = {
    "CLUSTER": {"name": "every route names it"},
    "LISTENER": {
        "name": "it is Istio's",
        "filter_chains": "use applyTo: NETWORK_FILTER or HTTP_FILTER",
    },
    "NETWORK_FILTER": {
        "http_filters": "use applyTo: HTTP_FILTER",
        "route_config": "use applyTo: VIRTUAL_HOST or HTTP_ROUTE",
    },
    "VIRTUAL_HOST": {"name": "it is Istio's"},
    "HTTP_ROUTE": {"name": "it is the VirtualService's"},
    "BOOTSTRAP": {"static_resources": "use applyTo: LISTENER or CLUSTER with operation: ADD"},
}
"""What a MERGE may not set, and what to do instead: Istio puts it together itself, patches match by it."""
_CAMEL: Final = re.compile(r"[a-z][a-z0-9]*[A-Z][A-Za-z0-9]*")


@dataclass(slots=True, kw_only=True)
class Generated:
    """What patches change. ``listeners`` maps a Gateway's port to its listener; route tables stand
    inside their HTTP connection managers."""

    listeners: dict[int, dict[str, Any]]
    clusters: list[dict[str, Any]]
    added_listeners: list[dict[str, Any]] = field(default_factory=list)
    bootstrap: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Patch:
    """One ``configPatches`` entry, read but for what ``match`` says of its kind."""

    apply_to: str
    operation: str
    value: dict[str, Any]
    value_path: PathKey
    match: Fields
    entry: Fields


def patches_of(resource: Resource, target: Target) -> list[Patch]:
    """The patches of one EnvoyFilter, in its order. Raises PolicyError."""
    spec = resource.spec()
    if spec.has("workloadSelector"):
        selector = spec.fields("workloadSelector")
        selects(selector, "labels", target)
        selector.done()
    found = []
    for entry in spec.items("configPatches"):
        apply_to = entry.text("applyTo", tuple(OPERATIONS))
        match = entry.fields("match")
        match.text("context", ["GATEWAY"])
        patch = entry.fields("patch")
        operation = patch.text("operation", OPERATIONS[apply_to])
        value = patch.raw("value")
        if not isinstance(value, dict) or not value:
            patch.refuse("value", "must be a mapping")
        path = (*patch.path, "value")
        for where, key, _ in _walk(value, path):
            if _CAMEL.fullmatch(key):
                patch.refuse_at(where, f"{key} is camelCase", "use Envoy's own field name, in snake_case")
        patch.done()
        entry.done()
        found.append(
            Patch(
                apply_to=apply_to,
                operation=operation,
                value=value,
                value_path=path,
                match=match,
                entry=entry,
            )
        )
    spec.done()
    return found


def _walk(value: Any, path: PathKey) -> Iterator[tuple[PathKey, str, Any]]:
    """Path, key and value of every mapping entry below ``value``."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield (*path, key), key, inner
            yield from _walk(inner, (*path, key))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _walk(inner, (*path, index))


def apply_patches(patches: Iterable[Patch], generated: Generated) -> None:
    """Change ``generated`` kind by kind. Raises PolicyError with every patch that cannot be applied."""
    ordered = list(patches)
    collector = Collector()
    for kind in OPERATIONS:
        mine = [patch for patch in ordered if patch.apply_to == kind]
        collector.each(lambda patch: _APPLY[patch.apply_to](patch, generated), mine)
        if kind == "CLUSTER":
            collector.each(lambda patch: _check_services(patch, generated), ordered)
    collector.close()


def _check_services(patch: Patch, generated: Generated) -> None:
    """Envoy accepts a gRPC service in an unknown cluster and then fails every request (or, before
    1.40, let it pass): refuse it here."""
    clusters = {cluster["name"] for cluster in generated.clusters}
    for path, key, value in _walk(patch.value, patch.value_path):
        if key != "envoy_grpc":
            continue
        if not isinstance(value, dict):
            patch.entry.refuse_at(path, f"must be a mapping, got {shown(value)}", "name a cluster in it")
        name = value.get("cluster_name")
        if not isinstance(name, str) or name not in clusters:
            known = f"known: {listed(sorted(clusters))}"
            patch.entry.refuse_at((*path, "cluster_name"), f"{shown(name)}: no such cluster", known)


def _require(matched: int, patch: Patch, known: Iterable[object]) -> None:
    if not matched:
        patch.entry.refuse_at((*patch.entry.path, "match"), "matches nothing", f"there are: {listed(known)}")


def _merged(patch: Patch, made: dict[str, Any]) -> dict[str, Any]:
    """``made`` with the patch's value merged in. Refuses what has another form than what it meets."""
    found = mismatch(made, patch.value)
    if found:
        where, form = found
        patch.entry.refuse_at((*patch.value_path, *where), f"cannot be merged: must be {form}")
    result = merged(made, patch.value)
    assert isinstance(result, dict)
    return result


def _check_reserved(patch: Patch, value: dict[str, Any], path: PathKey) -> None:
    """Refuse the fields of ``value``, which stands at ``path``, that are not this kind's to set."""
    for name, mend in RESERVED[patch.apply_to].items():
        if name in value:
            patch.entry.refuse_at((*path, name), f"is not for {patch.apply_to} to merge", mend)


# --- clusters ---


def _clusters(patch: Patch, generated: Generated) -> None:
    if patch.operation == "ADD":
        patch.match.done()
        _require_name(patch, (cluster["name"] for cluster in generated.clusters))
        generated.clusters.append(copy.deepcopy(patch.value))
        return
    cluster = patch.match.fields("cluster")
    service = cluster.text("service") if cluster.has("service") else None
    port = str(cluster.whole("portNumber", 1, 65535)) if cluster.has("portNumber") else None
    cluster.done()
    patch.match.done()
    _check_reserved(patch, patch.value, patch.value_path)
    matched = 0
    for index, made in enumerate(generated.clusters):
        _, made_port, _, host = made["name"].split("|") if made["name"].count("|") == 3 else ("",) * 4
        if service in (None, host) and port in (None, made_port):
            generated.clusters[index] = _merged(patch, made)
            matched += 1
    _require(matched, patch, (made["name"] for made in generated.clusters))


def _require_name(patch: Patch, taken: Iterable[str]) -> None:
    name = patch.value.get("name")
    if not isinstance(name, str) or not name:
        patch.entry.refuse_at(patch.value_path, "name is missing or no text", "add it")
    if name in set(taken):
        patch.entry.refuse_at((*patch.value_path, "name"), f"{name} stands already", "take another name")


# --- listeners and their filters ---


def _ports(listener: Fields, generated: Generated) -> list[int]:
    """The Gateway ports that ``match.listener`` picks: one, or all."""
    if not listener.has("portNumber"):
        return list(generated.listeners)
    port = listener.whole("portNumber", 1, 65535)
    if port not in generated.listeners:
        listener.refuse("portNumber", "has no Gateway", f"known: {listed(generated.listeners)}")
    return [port]


def _listeners(patch: Patch, generated: Generated) -> None:
    if patch.operation == "ADD":
        patch.match.done()
        everything = [*generated.listeners.values(), *generated.added_listeners]
        _require_name(patch, (listener["name"] for listener in everything))
        generated.added_listeners.append(copy.deepcopy(patch.value))
        return
    listener = patch.match.fields("listener")
    ports = _ports(listener, generated)
    listener.done()
    patch.match.done()
    _check_reserved(patch, patch.value, patch.value_path)
    for port in ports:
        generated.listeners[port] = _merged(patch, generated.listeners[port])


def connection_manager(listener: dict[str, Any]) -> dict[str, Any]:
    """The HTTP connection manager's config of a generated listener, to be changed in place."""
    config = listener["filter_chains"][0]["filters"][0]["typed_config"]
    assert isinstance(config, dict)
    return config


def _filter_fields(patch: Patch, generated: Generated) -> tuple[list[int], Fields]:
    """Ports, and ``match.listener.filterChain.filter`` with its name read."""
    listener = patch.match.fields("listener")
    ports = _ports(listener, generated)
    chain = listener.fields("filterChain")
    network = chain.fields("filter")
    network.text("name", [HCM_NAME])
    chain.done()
    listener.done()
    patch.match.done()
    return ports, network


def _merge_filter(patch: Patch, made: dict[str, Any]) -> dict[str, Any]:
    """``made`` with the patch merged in; both must be configs of one type."""
    ours, theirs = _type_of(made), _type_of(patch.value)
    if theirs is None or theirs != ours:
        path = (*patch.value_path, "typed_config", "@type")
        patch.entry.refuse_at(path, f"must be {ours or 'of a filter that has one'}, got {shown(theirs)}")
    if patch.value.get("name", made["name"]) != made["name"]:
        patch.entry.refuse_at((*patch.value_path, "name"), f"must be {made['name']}")
    return _merged(patch, made)


def _type_of(value: dict[str, Any]) -> Any:
    """The ``@type`` of a filter's config; None when it has none."""
    config = value.get("typed_config")
    return config.get("@type") if isinstance(config, dict) else None


def _network_filters(patch: Patch, generated: Generated) -> None:
    ports, network = _filter_fields(patch, generated)
    network.done()
    for port in ports:
        filters = generated.listeners[port]["filter_chains"][0]["filters"]
        made = _merge_filter(patch, filters[0])
        _check_reserved(patch, patch.value["typed_config"], (*patch.value_path, "typed_config"))
        filters[0] = made


def _http_filters(patch: Patch, generated: Generated) -> None:
    ports, network = _filter_fields(patch, generated)
    anchor = ""
    if patch.operation != "INSERT_FIRST":
        sub = network.fields("subFilter")
        anchor = sub.text("name")
        sub.done()
    network.done()
    for port in ports:
        filters = connection_manager(generated.listeners[port])["http_filters"]
        names = [made["name"] for made in filters]
        if anchor and anchor not in names:
            path = (*network.path, "subFilter", "name")
            patch.entry.refuse_at(path, f"{anchor}: no such filter on {port}", f"known: {listed(names)}")
        if patch.operation == "MERGE":
            at = names.index(anchor)
            filters[at] = _merge_filter(patch, filters[at])
            continue
        _require_name(patch, (name for name in names if name not in REPEATABLE))
        offset = {"INSERT_FIRST": 0, "INSERT_BEFORE": 0, "INSERT_AFTER": 1}[patch.operation]
        filters.insert((names.index(anchor) if anchor else 0) + offset, copy.deepcopy(patch.value))


# --- routes ---


def _route_tables(patch: Patch, generated: Generated) -> tuple[list[dict[str, Any]], str, str]:
    """The virtual hosts of the ports picked, and the names of virtual host and route asked for."""
    table = patch.match.fields("routeConfiguration")
    ports = _ports(table, generated)
    host = route = ""
    if table.has("vhost"):
        vhost = table.fields("vhost")
        host = vhost.text("name") if vhost.has("name") else ""
        if patch.apply_to == "HTTP_ROUTE" and vhost.has("route"):
            fields = vhost.fields("route")
            route = fields.text("name")
            fields.done()
        vhost.done()
    table.done()
    patch.match.done()
    tables = []
    for port in ports:
        tables += connection_manager(generated.listeners[port])["route_config"]["virtual_hosts"]
    return tables, host, route


def _virtual_hosts(patch: Patch, generated: Generated) -> None:
    tables, host, _ = _route_tables(patch, generated)
    _check_reserved(patch, patch.value, patch.value_path)
    matched = 0
    for made in tables:
        if host in ("", made["name"]):
            made.update(_merged(patch, made))
            matched += 1
    _require(matched, patch, (made["name"] for made in tables))


def _http_routes(patch: Patch, generated: Generated) -> None:
    tables, host, route = _route_tables(patch, generated)
    _check_reserved(patch, patch.value, patch.value_path)
    matched = 0
    for made in tables:
        for index, entry in enumerate(made["routes"]):
            if host in ("", made["name"]) and route in ("", entry.get("name")):
                made["routes"][index] = _merged(patch, entry)
                matched += 1
    names = (f"{made['name']} {entry.get('name', '')}" for made in tables for entry in made["routes"])
    _require(matched, patch, names)


def _bootstrap(patch: Patch, generated: Generated) -> None:
    patch.match.done()
    _check_reserved(patch, patch.value, patch.value_path)
    generated.bootstrap = _merged(patch, generated.bootstrap)


_APPLY: Final[dict[str, Callable[[Patch, Generated], None]]] = {
    "CLUSTER": _clusters,
    "LISTENER": _listeners,
    "NETWORK_FILTER": _network_filters,
    "HTTP_FILTER": _http_filters,
    "VIRTUAL_HOST": _virtual_hosts,
    "HTTP_ROUTE": _http_routes,
    "BOOTSTRAP": _bootstrap,
}
