"""Policy under fuzz, Tidegate's own files and the mesh's resources: taken, or refused with file, line and
path; nothing else comes out of the readers, of ``compile_mesh`` and of ``lint``."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import yaml

from ext_authz.policy import AuthPolicy, read_auth_policy
from ext_proc.cache.policy_file import read_cache_policy
from gateway.budget.policy import BudgetPolicy, budget_policy_from
from gateway.config.document import Document, PathKey, PolicyError, parse_documents
from gateway.models.catalogue import read_catalogue
from mesh.compile import Resources, compile_mesh, policy_files
from mesh.compile.resources import resource_from
from mesh.lint import lint
from tests.fuzz import budgets
from tests.fuzz.mutation import changed_bytes, changed_value
from tests.unit.mesh.policy import BASE, base, endpoints, target

Reader = Callable[[Document], Any]
READERS: Final[dict[str, Reader]] = {
    "auth.yaml": read_auth_policy,
    "budgets.yaml": budget_policy_from,
    "cache.yaml": read_cache_policy,
    "models.yaml": read_catalogue,
}
CACHING: Final = """\
version: 1
groups: {g: {org: a, teams: [t], users: [u]}}
rules:
  - {name: r, match: {orgs: [a], models: [m], endpoints: [chat.completions]}, share: group, group: g}
  - {name: s, match: {orgs: [a], teams: [t]}, mode: all, profile: verified, tags: [x], verify_share: 0.1}
"""
_TEXTS: Final = {name: (BASE / "policy" / name).read_text() for name in READERS}
_SMALL: Final = {
    "auth.yaml": "issuers: [{issuer: a, audiences: [b], algorithms: [EdDSA], jwks: {file: j.json}}]\n",
    "budgets.yaml": budgets.SMALL,
    "cache.yaml": CACHING,
    "models.yaml": "models: [{name: m, served_name: m}]\n",
}
"""Texts of a line or two: the YAML reader takes a tenth of a millisecond for each ten bytes."""
_DATA: Final = {name: yaml.safe_load(text) for name, text in _TEXTS.items()} | {
    "cache.yaml": yaml.safe_load(CACHING)
}
_NAMES: Final = (
    *("version", "issuers", "issuer", "audiences", "algorithms", "jwks", "file", "url", "claims", "defaults"),
    *("api_keys", "leeway_seconds", "tiers", "orgs", "request", "cached"),
    *("models", "name", "aliases", "endpoints", "capabilities", "prices", "cache", "mode", "x", "*"),
    *("groups", "org", "teams", "users", "rules", "match", "group", "share", "profile", "tags"),
)


def _refused(error: PolicyError, file: str) -> None:
    assert error.problems
    for problem in error.problems:
        assert problem.file == file, problem
        assert problem.line >= 1, problem
        assert problem.message, problem


def check_text(name: str, text: str) -> bool:
    """Whether the policy file ``name`` with this text is taken."""
    try:
        documents = parse_documents(text, name)
        for document in documents:
            READERS[name](document)
    except PolicyError as error:
        _refused(error, name)
        return False
    return True


def check_data(name: str, data: Any) -> bool:
    """The same for what the YAML reader would make of a text."""
    try:
        policy = READERS[name](Document(file=name, data=data, lines={}))
    except PolicyError as error:
        _refused(error, name)
        return False
    assert not isinstance(policy, AuthPolicy) or policy.issuers or policy.api_keys_file
    if isinstance(policy, BudgetPolicy):
        budgets.check_budgets(policy)
    return True


def check_policy(rng: random.Random) -> bool:
    """One changed policy: one in eight is mesh/base, and of the others one in eight comes as text."""
    if rng.random() < _MESH_SHARE:
        return check_mesh(rng)
    name = rng.choice(tuple(READERS))
    if rng.random() < 0.125:
        changed = changed_bytes(rng, _SMALL[name].encode(), rng.choice(tuple(_SMALL.values())).encode())
        return check_text(name, changed.decode("utf-8", "replace"))
    if name == "budgets.yaml":
        return check_data(name, budgets.changed_budgets(rng))
    data = _DATA[name]
    for _ in range(rng.choice((1, 1, 2))):
        data = changed_value(rng, data, _NAMES)
    return check_data(name, data)


# --- mesh/base ---

_ENDPOINTS: Final = endpoints()
_TARGET: Final = target()
_MESH: Final = base()
_FILES: Final = frozenset(one.document.file for one in _MESH) | {"kustomization.yaml"}
_CROSSED: Final = ("VirtualService", "DestinationRule")
"""The kinds that lint looks at together; of the others only the changed one is asked, to be quick."""
_MESH_SHARE: Final = 0.125
"""Of all policies: the whole mesh takes ten times as long as a file of Tidegate's own."""
_MESH_NAMES: Final = (
    *(
        "apiVersion",
        "kind",
        "metadata",
        "name",
        "namespace",
        "spec",
        "data",
        "mesh",
        "hosts",
        "http",
        "route",
    ),
    *("match", "headers", "uri", "exact", "retries", "retryRemoteLocalities", "corsPolicy", "destination"),
    *("host", "port", "number", "subset", "trafficPolicy", "outlierDetection", "subsets", "configPatches"),
    *("applyTo", "patch", "value", "typed_config", "@type", "http_filters", "route_config", "envoy_grpc"),
    *("routes", "filter_chains", "filter_metadata", "static_resources", "labels", "selector", "x", "*"),
)
_MESH_TEXTS: Final = (
    *("MERGE", "ADD", "INSERT_FIRST", "CLUSTER", "LISTENER", "NETWORK_FILTER", "HTTP_FILTER", "VIRTUAL_HOST"),
    *("HTTP_ROUTE", "BOOTSTRAP", "1e9s", "9" * 5000 + "s", "9" * 5000, "a{99999999999}", "[[a]", "\ud800"),
    *(
        "type.googleapis.com/google.protobuf.Any",
        "type.googleapis.com/x",
        "extensionProviders: {}",
        "a: [",
        "",
    ),
    *("٣", "../x", "a: !!bool x", 'a: !!int ""', "a: !!timestamp x"),
)
_MESH_NUMBERS: Final = (2**64, -(2**63) - 1, 16**5000, float("inf"), float("nan"), 8080, 30000)


def mesh_files() -> Iterator[tuple[str, str]]:
    """Name and text of each file of resources."""
    for file in sorted(Path(BASE).glob("*.yaml")):
        if file.name != "kustomization.yaml":
            yield file.name, file.read_text()


def read_mesh(name: str, text: str, chance: random.Random) -> bool:
    """Whether the file with some changes is still a list of resources that compile and pass lint."""
    changed = changed_bytes(chance, text.encode(), text.encode()).decode("utf-8", "replace")
    others = tuple(one for one in _MESH if one.document.file != name)
    try:
        resources = tuple(resource_from(document) for document in parse_documents(changed, name))
    except PolicyError as error:
        _refused(error, name)
        return False
    return check_resources((*others, *resources), resources)


def check_resources(resources: Resources, linted: Resources) -> bool:
    """Whether the resources compile, with lint's word on some of them; every problem has its place."""
    problems = lint(linted)
    try:
        bootstrap = compile_mesh(resources, _ENDPOINTS, _TARGET).bootstrap
        policy_files(resources)
    except PolicyError as error:
        assert error.problems
        problems = (*problems, *error.problems)
    else:
        assert json.loads(json.dumps(bootstrap, allow_nan=False)) == bootstrap
    for problem in problems:
        assert problem.file in _FILES and problem.line >= 1, problem
        assert problem.path and problem.message, problem
        str(problem).encode()
    return not problems


def _places(value: Any, path: PathKey = ()) -> Iterator[PathKey]:
    yield path
    if isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _places(inner, (*path, key))


_PLACES: Final = tuple((one, path) for one in range(len(_MESH)) for path in _places(_MESH[one].document.data))
_PROVIDERS: Final = next(one for one in _MESH if one.name == "istio").document.data["data"]["mesh"]


def _at(data: Any, path: PathKey) -> Any:
    for part in path:
        data = data[part]
    return data


def _put(data: Any, path: PathKey, value: Any) -> Any:
    """A copy of ``data`` with ``value`` at ``path``."""
    if not path:
        return value
    copied: Any = list(data) if isinstance(data, list) else dict(data)
    copied[path[0]] = _put(data[path[0]], path[1:], value)
    return copied


def _other(rng: random.Random, value: Any) -> Any:
    """What may stand in the place of ``value``: something like it, odd, or from anywhere in the mesh."""
    kind = rng.randrange(8)
    if value == _PROVIDERS and kind > 3:
        if kind > 5:
            return changed_bytes(rng, _PROVIDERS.encode(), _PROVIDERS.encode()).decode("utf-8", "replace")
        return json.dumps(changed_value(rng, yaml.safe_load(_PROVIDERS), _MESH_NAMES))
    if kind == 0:
        index, path = rng.choice(_PLACES)
        return _at(_MESH[index].document.data, path)
    if kind < 3 or (isinstance(value, int) and value.bit_length() > 64):  # no float is that large
        return rng.choice(_MESH_TEXTS if kind == 1 else _MESH_NUMBERS)
    return changed_value(rng, value, _MESH_NAMES)


def check_mesh(rng: random.Random) -> bool:
    """mesh/base with one resource changed, and now and then another missing, double or out of its turn."""
    index, path = rng.choice(_PLACES)
    document = _MESH[index].document
    data = _put(document.data, path, _other(rng, _at(document.data, path)))
    if rng.random() < 0.3:
        path = rng.choice(tuple(_places(data)))
        data = _put(data, path, _other(rng, _at(data, path)))
    resources = list(_MESH)
    try:
        changed = resource_from(replace(document, data=data))
    except PolicyError as error:
        _refused(error, document.file)
        assert all(problem.path for problem in error.problems) or not isinstance(data, dict), error
        return False
    resources[index] = changed
    if rng.random() < 0.2:
        at = rng.randrange(len(resources))
        resources[at : at + rng.randrange(2)] = [rng.choice(resources)] * rng.randrange(2)
    crossed = _CROSSED if changed.kind in _CROSSED else ()
    linted = tuple(one for one in resources if one is changed or one.kind in crossed)
    return check_resources(tuple(resources), linted)
