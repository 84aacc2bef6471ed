"""No scalar of mesh/base is ignored: a change of any of them changes the output, or is refused by name."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from typing import Any

import yaml

from gateway.config.document import Document, PathKey, PolicyError, path_text
from mesh.compile import Resource, Resources, compile_mesh, policy_files
from mesh.compile.resources import resource_from, seconds
from tests.unit.mesh.policy import base, endpoints, target

ENDPOINTS, TARGET = endpoints(), target()


def scalars(value: Any, path: PathKey = ()) -> Iterator[tuple[PathKey, Any]]:
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from scalars(inner, (*path, name))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from scalars(inner, (*path, index))
    else:
        yield path, value


def others(value: Any) -> list[Any]:
    """Values unlike ``value``, of its own kind."""
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, int | float):
        return [value + 1]
    assert isinstance(value, str), value
    return [value + "x", *(["7.77s"] if seconds(value) is not None else [])]


def replaced(data: Any, path: PathKey, value: Any) -> Any:
    changed = copy.deepcopy(data)
    place = changed
    for part in path[:-1]:
        place = place[part]
    place[path[-1]] = value
    return changed


def output(resources: Resources) -> str:
    bootstrap = compile_mesh(resources, ENDPOINTS, TARGET).bootstrap
    return json.dumps([bootstrap, policy_files(resources)], sort_keys=True)


def variants(resource: Resource) -> Iterator[tuple[PathKey, Any, Any, Any]]:
    """Path, old value, new value and the resource's data with it. MeshConfig is YAML in a text."""
    data = resource.document.data
    whole = ("data", "mesh") if resource.name == "istio" else None
    for path, value in scalars(data):
        for other in others(value) if path != whole else []:
            yield path, value, other, replaced(data, path, other)
    if whole:
        mesh = yaml.safe_load(data["data"]["mesh"])
        for path, value in scalars(mesh):
            for other in others(value):
                text = yaml.safe_dump(replaced(mesh, path, other))
                yield (*whole, *path), value, other, replaced(data, whole, text)


def unnoticed(resources: Resources, index: int, reference: str) -> Iterator[str]:
    """Changes of one resource that changed nothing, or were refused without naming them."""
    resource = resources[index]
    for path, value, other, data in variants(resource):
        document = Document(file=resource.document.file, data=data, lines=resource.document.lines)
        shown = f"{resource.reference} {path_text(path)}: {value!r} -> {other!r}"
        try:
            changed = (*resources[:index], resource_from(document), *resources[index + 1 :])
            if output(changed) == reference:
                yield f"{shown}: the output is the same"
        except PolicyError as error:
            text = str(error)
            if not any(name in text for name in (path_text(path), str(path[-1]), str(other), str(value))):
                yield f"{shown}: refused without naming it: {text}"


def test_a_change_of_any_scalar_is_seen() -> None:
    resources = base()
    reference = output(resources)
    missed = [line for index in range(len(resources)) for line in unnoticed(resources, index, reference)]
    assert not missed, "\n".join(missed)


def test_the_same_policy_compiles_to_the_same_bytes() -> None:
    assert output(base()) == output(base())
