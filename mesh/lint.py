"""What the compiler cannot know: whether Istio takes the resources, and whether Envoy knows the fields.

istio       each resource against the schema of Istio 1.31 (mesh/schema); the checks across resources
            leave out what it refuses
envoy       each EnvoyFilter value, and every typed_config in it, against the descriptors inside the
            Envoy binary; istiod only warns of unknown fields and the CRD does not look inside
failover    retryRemoteLocalities without outlierDetection does nothing: Istio makes no priorities
cors        a corsPolicy on a route that admit's headers pick does nothing: it is looked for before them
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

from google.protobuf import json_format

from gateway.config.document import PathKey, PolicyError, Problem, validate
from gateway.contract.headers import POOL, STREAM
from mesh.compile import Resource, Resources
from mesh.compile.resources import shown
from mesh.descriptors import DescriptorsMissing, envoy_pool, message_class
from mesh.envoy_binary import envoy_path

SCHEMAS: Final = Path(__file__).parent / "schema" / "istio-1.31.json"
VALUE_TYPES: Final = {
    "CLUSTER": "envoy.config.cluster.v3.Cluster",
    "LISTENER": "envoy.config.listener.v3.Listener",
    "NETWORK_FILTER": "envoy.config.listener.v3.Filter",
    "HTTP_FILTER": "envoy.extensions.filters.network.http_connection_manager.v3.HttpFilter",
    "VIRTUAL_HOST": "envoy.config.route.v3.VirtualHost",
    "HTTP_ROUTE": "envoy.config.route.v3.Route",
    "BOOTSTRAP": "envoy.config.bootstrap.v3.Bootstrap",
}
"""The Envoy message that the value of an EnvoyFilter patch is."""
TYPE_PREFIX: Final = "type.googleapis.com/"
_MESSAGE_MAX: Final = 300
"""Characters."""


def lint(resources: Resources, binary: Path | None = None) -> tuple[Problem, ...]:
    """Every problem, in the resources' order. ``binary``: the Envoy to ask, by default the installed one.

    Call it beside ``compile_mesh``, which refuses bad references and everything outside its subset.
    """
    problems: list[Problem] = []
    sound: list[Resource] = []
    for resource in resources:
        refused = _istio(resource)
        problems += refused
        if not refused:
            sound.append(resource)
        if resource.kind == "EnvoyFilter":
            problems += _envoy(resource, binary or envoy_path())
    if all(resource in sound for resource in resources if resource.kind == "DestinationRule"):
        problems += _failover(sound)  # else a rule would only seem to be missing
    problems += _cors(sound)
    return tuple(problems)


@lru_cache(maxsize=1)
def _schemas() -> Mapping[str, Any]:
    loaded: Mapping[str, Any] = json.loads(SCHEMAS.read_text(encoding="utf-8"))
    return loaded


def _istio(resource: Resource) -> tuple[Problem, ...]:
    spec = _schemas().get(resource.kind)
    if spec is None:
        return ()
    if "spec" not in resource.document.data:
        return (resource.document.problem(("spec",), "is missing", f"every {resource.kind} has one"),)
    try:
        validate(resource.document, {"type": "object", "properties": {"spec": spec}})
    except PolicyError as error:
        return tuple(replace(problem, message=_cut(problem.message)) for problem in error.problems)
    return ()


def _cut(message: str) -> str:
    """A message of a library, which shows the whole value, in a readable length."""
    return message if len(message) <= _MESSAGE_MAX else f"{message[:_MESSAGE_MAX]}..."


# --- Envoy's own fields ---


def _envoy(resource: Resource, binary: Path) -> Iterator[Problem]:
    """Problems of one EnvoyFilter's values. What has no right form at all is the schema's to tell."""
    spec = resource.document.data.get("spec")
    patches = spec.get("configPatches") if isinstance(spec, dict) else None
    for index, patch in enumerate(patches if isinstance(patches, list) else []):
        if not isinstance(patch, dict) or not isinstance(patch.get("patch"), dict):
            continue
        value, kind = patch["patch"].get("value"), VALUE_TYPES.get(str(patch.get("applyTo")))
        path: PathKey = ("spec", "configPatches", index, "patch", "value")
        if not isinstance(value, dict) or kind is None:
            continue
        inner = list(_typed(value, path))
        refused = [found for one in inner if (found := _refusal(*one, binary, resource)) is not None]
        yield from refused
        if not refused:  # a wrong config inside makes everything around it wrong
            outer = _refusal(path, kind, value, binary, resource)
            if outer is not None:
                yield outer


def _typed(value: Any, path: PathKey) -> Iterator[tuple[PathKey, Any, Any]]:
    """Path, ``@type`` and content of every typed config, innermost first."""
    if isinstance(value, list):
        for index, item in enumerate(value):
            yield from _typed(item, (*path, index))
    elif isinstance(value, dict):
        for name, item in value.items():
            yield from _typed(item, (*path, name))
        if "@type" in value:
            content = {name: item for name, item in value.items() if name != "@type"}
            yield path, value["@type"], content


def _refusal(path: PathKey, kind: Any, content: Any, binary: Path, resource: Resource) -> Problem | None:
    """What Envoy's own schema says against ``content`` being the message ``kind``."""
    document = resource.document
    if not isinstance(kind, str):
        return document.problem((*path, "@type"), f"must be a text, got {shown(kind)}", f"{TYPE_PREFIX}...")
    try:
        made = message_class(kind.removeprefix(TYPE_PREFIX), binary)()
        # By its text: only so does the parser turn every error of its own into a ParseError.
        json_format.Parse(json.dumps(content), made, descriptor_pool=envoy_pool(binary))
    except DescriptorsMissing as error:
        return document.problem((*path, "@type"), _cut(str(error)), "this Envoy has no such message")
    except json_format.ParseError as error:
        field = re.search(r'no field named "([^"]+)"(?: at "([^"]*)")?', str(error))
        at = _deepest(path, content, field.group(1)) if field else path
        return document.problem(at, _cut(str(error).splitlines()[0]))
    return None


def _deepest(path: PathKey, content: Any, name: str) -> PathKey:
    """Where the field ``name`` stands in ``content``, or ``path``."""
    if isinstance(content, dict):
        if name in content:
            return (*path, name)
        for key, inner in content.items():
            found = _deepest((*path, key), inner, name)
            if found != (*path, key):
                return found
    if isinstance(content, list):
        for index, inner in enumerate(content):
            found = _deepest((*path, index), inner, name)
            if found != (*path, index):
                return found
    return path


# --- across resources ---


def _failover(resources: Sequence[Resource]) -> Iterator[Problem]:
    """Remote retries to a host whose DestinationRule has no outlier detection."""
    with_outliers = {
        resource.document.data["spec"].get("host")
        for resource in resources
        if resource.kind == "DestinationRule"
        and "outlierDetection" in resource.document.data["spec"].get("trafficPolicy", {})
    }
    for resource in resources:
        if resource.kind != "VirtualService":
            continue
        for index, http in enumerate(resource.document.data["spec"].get("http", [])):
            if not http.get("retries", {}).get("retryRemoteLocalities"):
                continue
            for route in http.get("route", []):
                host = route.get("destination", {}).get("host")
                if host not in with_outliers:
                    yield resource.document.problem(
                        ("spec", "http", index, "retries", "retryRemoteLocalities"),
                        f"{host} has no outlierDetection, so Istio makes no priorities",
                        "add it to its DestinationRule",
                    )


def _cors(resources: Sequence[Resource]) -> Iterator[Problem]:
    """CORS policies that no request meets: a route that needs a header of admit is never picked before it."""
    for resource in resources:
        if resource.kind != "VirtualService":
            continue
        for index, http in enumerate(resource.document.data["spec"].get("http", [])):
            matches = http.get("match", [])
            late = [name for match in matches for name in match.get("headers", {}) if name in (POOL, STREAM)]
            if "corsPolicy" in http and late:
                yield resource.document.problem(
                    ("spec", "http", index, "corsPolicy"),
                    f"has no effect: cors is decided before {late[0]} is set",
                    "put it on the route that matches without it",
                )
