"""The policy loader under fuzz: PolicyError with file, line and path, or a policy; nothing else comes out."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import yaml

from ext_authz.policy import AuthPolicy, read_auth_policy
from gateway.budget.policy import budget_policy_from
from gateway.config.document import Document, PolicyError, parse_documents
from gateway.models.catalogue import read_catalogue
from mesh.compile.resources import resource_from
from tests.fuzz.mutation import changed_bytes, changed_value
from tests.unit.mesh.policy import BASE

Reader = Callable[[Document], Any]
READERS: Final[dict[str, Reader]] = {
    "auth.yaml": read_auth_policy,
    "budgets.yaml": budget_policy_from,
    "models.yaml": read_catalogue,
}
_TEXTS: Final = {name: (BASE / "policy" / name).read_text() for name in READERS}
_SMALL: Final = {
    "auth.yaml": "issuers: [{issuer: a, audiences: [b], algorithms: [EdDSA], jwks: {file: j.json}}]\n",
    "budgets.yaml": "version: 1\ntiers: {s: {priority: 0, priority_class: s, key: {}}}\norgs: {d: {}}\n",
    "models.yaml": "models: [{name: m, served_name: m}]\n",
}
"""Texts of a line or two: the YAML reader takes a tenth of a millisecond for each ten bytes."""
_DATA: Final = {name: yaml.safe_load(text) for name, text in _TEXTS.items()}
_NAMES: Final = (
    *("version", "issuers", "issuer", "audiences", "algorithms", "jwks", "file", "url", "claims", "defaults"),
    *(
        "api_keys",
        "leeway_seconds",
        "tiers",
        "orgs",
        "priority",
        "key",
        "tokens_per_minute",
        "tokens_per_month",
    ),
    *("models", "name", "aliases", "endpoints", "capabilities", "prices", "cache", "mode", "x", "*"),
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
    return True


def check_policy(rng: random.Random) -> bool:
    """One changed policy: one in eight as text."""
    name = rng.choice(tuple(READERS))
    if rng.random() < 0.125:
        changed = changed_bytes(rng, _SMALL[name].encode(), rng.choice(tuple(_SMALL.values())).encode())
        return check_text(name, changed.decode("utf-8", "replace"))
    data = _DATA[name]
    for _ in range(rng.choice((1, 1, 2))):
        data = changed_value(rng, data, _NAMES)
    return check_data(name, data)


# --- mesh/base ---


def mesh_files() -> Iterator[tuple[str, str]]:
    """Name and text of each file of resources."""
    for file in sorted(Path(BASE).glob("*.yaml")):
        if file.name != "kustomization.yaml":
            yield file.name, file.read_text()


def read_mesh(name: str, text: str, chance: random.Random) -> bool:
    """Whether the file with some changes is still a list of resources."""
    changed = changed_bytes(chance, text.encode(), text.encode()).decode("utf-8", "replace")
    try:
        documents = parse_documents(changed, name)
        resources = [resource_from(document) for document in documents]
    except PolicyError as error:
        _refused(error, name)
        return False
    return len(resources) > 0
