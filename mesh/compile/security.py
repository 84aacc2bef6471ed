"""MeshConfig's extension providers and AuthorizationPolicy CUSTOM to HTTP filters.

Source: Istio 1.31, pilot/pkg/security/authz/builder. Istio asks an external service by two filters: an
RBAC filter in shadow mode that marks requests under a rule, and ext_authz that asks for marked ones. A
request without the mark passes unasked; the gates of mesh/base refuse it then.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from mesh.compile.resources import Collector, Fields, Resource, nested_document
from mesh.compile.routes import selects
from mesh.compile.services import Service, cluster_name
from mesh.compile.target import Target

RBAC_NAME: Final = "envoy.filters.http.rbac"
EXT_AUTHZ_NAME: Final = "envoy.filters.http.ext_authz"
SHADOW_PREFIX: Final = "istio_ext_authz_"
POLICY_PREFIX: Final = "istio-ext-authz"


def providers_of(resource: Resource, services: Mapping[str, Service]) -> dict[str, dict[str, Any]]:
    """ext_authz filters by the provider name of the ConfigMap ``istio``. Raises PolicyError."""
    data = config_map_data(resource)
    mesh = nested_document(data, "mesh")
    data.done()
    config = Fields(mesh, (*data.path, "mesh"), mesh.document.data)
    found: dict[str, dict[str, Any]] = {}

    def read(provider: Fields) -> None:
        name = provider.text("name")
        if name in found:
            provider.refuse("name", "stands twice")
        found[name] = _ext_authz(provider.fields("envoyExtAuthzGrpc"), services)
        provider.done()

    collector = Collector()
    collector.each(read, config.items("extensionProviders"))
    collector.close()
    config.done()
    return found


def config_map_data(resource: Resource) -> Fields:
    """The reader of a ConfigMap's ``data``."""
    root = Fields(resource, (), resource.document.data)
    for name in ("apiVersion", "kind"):
        root.text(name)
    metadata = root.fields("metadata")
    metadata.text("name")
    metadata.text("namespace")
    metadata.done()
    data = root.fields("data")
    root.done()
    return data


def _ext_authz(fields: Fields, services: Mapping[str, Service]) -> dict[str, Any]:
    service = fields.reference("service", services, "a ServiceEntry")
    host = service.host
    port = fields.whole("port", 1, 65535)
    if service.ports.get(port) is not True:
        fields.refuse("port", f"is no gRPC port of {host}")
    status = fields.text("statusOnError")
    if not re.fullmatch("[45][0-9]{2}", status):
        fields.refuse("statusOnError", "must be an HTTP status in quotes", 'such as "503"')
    config = {
        "@type": "type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthz",
        "transport_api_version": "V3",
        "grpc_service": {
            "envoy_grpc": {"cluster_name": cluster_name(host, port), "authority": host},
            "timeout": fields.duration("timeout"),  # Istio's default is 600 s: it must be said
        },
        "failure_mode_allow": fields.truth("failOpen"),
        "status_on_error": {"code": int(status)},
        "filter_enabled_metadata": {
            "filter": RBAC_NAME,
            "path": [{"key": f"{SHADOW_PREFIX}shadow_effective_policy_id"}],
            "value": {"string_match": {"prefix": POLICY_PREFIX}},
        },
    }
    fields.done()
    return {"name": EXT_AUTHZ_NAME, "typed_config": config}


def custom_filters(
    resource: Resource, providers: Mapping[str, dict[str, Any]], target: Target
) -> list[dict[str, Any]]:
    """The two filters of one AuthorizationPolicy with action CUSTOM. Raises PolicyError."""
    spec = resource.spec()
    selector = spec.fields("selector")
    selects(selector, "matchLabels", target)
    selector.done()
    spec.text("action", ["CUSTOM"])
    provider = spec.fields("provider")
    asking = provider.reference("name", providers, "extensionProviders of the ConfigMap istio")
    provider.done()
    policies: dict[str, Any] = {}
    for index, rule in enumerate(spec.items("rules")):
        policy = f"{POLICY_PREFIX}-ns[{resource.namespace}]-policy[{resource.name}]-rule[{index}]"
        policies[policy] = {
            "permissions": [_operation(item, target) for item in rule.items("to")],
            "principals": [{"any": True}],
        }
        rule.done()
    spec.done()
    shadow = {
        "@type": "type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC",
        "shadow_rules": {"action": "DENY", "policies": policies},
        "shadow_rules_stat_prefix": SHADOW_PREFIX,
    }
    return [{"name": RBAC_NAME, "typed_config": shadow}, asking]


def _operation(item: Fields, target: Target) -> dict[str, Any]:
    """``to[].operation.ports``: Gateway ports, as the sockets they are bound to."""
    operation = item.fields("operation")
    ports = []
    for text in operation.texts("ports"):
        bound = target.bind(int(text)) if re.fullmatch("[0-9]{1,5}", text) else None
        if bound is None:
            operation.refuse("ports", f"{text!r} is no port of a Gateway", 'such as "8080"')
        ports.append({"destination_port": bound[1]})
    operation.done()
    item.done()
    return {"or_rules": {"rules": ports}}
