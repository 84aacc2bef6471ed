"""mesh/base as resources, without kustomize: files are read and nothing is started."""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from gateway.config.document import Document, PathKey, parse_documents
from mesh.compile import Compiled, Endpoint, Endpoints, Resource, Resources, Target, compile_mesh
from mesh.compile.resources import resource_from

ROOT = Path(__file__).resolve().parents[3]
BASE = ROOT / "mesh" / "base"
HOST = "{}.tidegate.svc.cluster.local"


def resources_of(text: str, file: str = "test.yaml") -> Resources:
    """Resources written in one text."""
    return tuple(resource_from(document) for document in parse_documents(text, file))


@functools.cache
def base() -> Resources:
    """mesh/base as kustomize would build it; the policy ConfigMap holds its files' text. Do not change it."""
    kustomization = parse_documents((BASE / "kustomization.yaml").read_text(), "kustomization.yaml")[0].data
    found: list[Resource] = []
    for name in kustomization["resources"]:
        found += resources_of((BASE / name).read_text(), name)
    files = {file.name: file.read_text() for file in sorted((BASE / "policy").glob("*.yaml"))}
    metadata = {"name": "tidegate-policy", "namespace": "tidegate"}
    data = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": files}
    found.append(resource_from(Document(file="kustomization.yaml", data=data, lines={})))
    return tuple(found)


def changed(kind: str, name: str, path: PathKey, value: Any) -> Resources:
    """mesh/base with one field set (``...`` removes it)."""
    resources = list(base())
    (index,) = (at for at, one in enumerate(resources) if (one.kind, one.name) == (kind, name))
    document = resources[index].document
    data = copy.deepcopy(document.data)
    place = data
    for part in path[:-1]:
        place = place[part]
    if value is ...:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    resources[index] = resource_from(Document(file=document.file, data=data, lines=document.lines))
    return tuple(resources)


def endpoints(**changed: tuple[Endpoint, ...]) -> Endpoints:
    """One instance of each host; ``changed`` by its short name (``ext_proc``)."""
    pipes: dict[str, tuple[Endpoint, ...]] = {
        name: (Endpoint(pipe=f"/run/{name}.sock"),) for name in ("ext-authz", "ext-proc", "bookkeeper", "api")
    }
    pipes["sglang"] = (Endpoint(address="127.0.0.1", port=30000),)
    pipes |= {name.replace("_", "-"): instances for name, instances in changed.items()}
    return {HOST.format(name): instances for name, instances in pipes.items()}


def target(**changed: Any) -> Target:
    """A gateway in region ``here``."""
    settings: dict[str, Any] = {
        "node_id": "gateway-1",
        "region": "here",
        "admin": Endpoint(pipe="/run/admin.sock"),
        "listeners": {8080: ("127.0.0.1", 18080), 8081: ("127.0.0.1", 18081)},
    }
    return Target(**{**settings, **changed})


def compiled(resources: Resources | None = None, **changed: tuple[Endpoint, ...]) -> Compiled:
    """The policy compiled for ``target()``."""
    return compile_mesh(base() if resources is None else resources, endpoints(**changed), target())


def listener(made: Compiled, port: int) -> Any:
    """The HTTP connection manager of the Gateway's ``port``."""
    (found,) = (
        one for one in made.bootstrap["static_resources"]["listeners"] if one["name"] == f"0.0.0.0_{port}"
    )
    return found["filter_chains"][0]["filters"][0]["typed_config"]


def cluster(made: Compiled, host: str) -> Any:
    """The cluster of the host's short name."""
    (found,) = (
        one
        for one in made.bootstrap["static_resources"]["clusters"]
        if one["name"].endswith("|" + HOST.format(host))
    )
    return found


def named(entries: Iterable[Any], name: str) -> Any:
    """The entry called ``name``."""
    (found,) = (entry for entry in entries if entry["name"] == name)
    return found
