"""``tidegate mesh lint`` and ``mesh compile``: the policy without starting anything."""

from __future__ import annotations

import json
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Final

from ext_authz.policy import load_auth_policy
from ext_proc.cache import policy_problems as cache_problems
from ext_proc.cache.policy_file import load_cache_policy
from gateway.budget.policy import load_budget_policy
from gateway.budget.policy_problems import model_problems
from gateway.config.document import PolicyError, Problem, read_document
from gateway.models.catalogue import load_catalogue, price_notes
from mesh.kustomize import build
from mesh.lint import lint as lint_resources
from mesh.local.engine import TwinEngine
from mesh.local.layout import BASE, Layout, layout_of, prepare
from mesh.local.policy import PolicyFollower, compiled_for, programs
from mesh.local.region import Region

_READERS: Final = {
    "auth.yaml": load_auth_policy,
    "budgets.yaml": load_budget_policy,
    "cache.yaml": load_cache_policy,
    "models.yaml": load_catalogue,
}


def _trial(layout: Layout, port: int) -> Region:
    envoy, valkey = programs(None)
    return Region(
        layout=layout,
        port=port,
        engine=TwinEngine(),
        engine_port=30000,
        model="",
        envoy=envoy,
        valkey=valkey,
        tools=layout.state,
    )


def _source_of(file: Path, mesh: Path) -> str:
    """Where the generated ``file`` was written by hand; its bare name when that cannot be told."""
    text = file.read_bytes() if file.exists() else b""
    for directory in (mesh, BASE):
        for source in sorted(directory.rglob(file.name)):
            if source.read_bytes() == text:
                return str(source)
    return file.name


def _own_policy_problems(policy: Path, mesh: Path) -> list[Problem]:
    problems: list[Problem] = []
    for name, read in _READERS.items():
        try:
            read(policy / name)
        except PolicyError as error:
            source = _source_of(policy / name, mesh)
            problems += [replace(problem, file=source) for problem in error.problems]
    return problems or _crossed_problems(policy, mesh)


def _crossed_problems(policy: Path, mesh: Path) -> list[Problem]:
    """What two files, each right by itself, get wrong together."""
    catalogue = load_catalogue(policy / "models.yaml")
    names = {name: model.name for name, model in catalogue.by_name.items()}
    budgets = read_document(policy / "budgets.yaml")
    found = {"budgets.yaml": model_problems(budgets, names)}
    if (policy / "cache.yaml").exists():
        caching = read_document(policy / "cache.yaml")
        found["cache.yaml"] = cache_problems.model_problems(caching, catalogue)
        found["cache.yaml"] += cache_problems.org_problems(caching, budgets.data["orgs"])
    return [
        replace(problem, file=_source_of(policy / name, mesh))
        for name, problems in found.items()
        for problem in problems
    ]


def _price_notes(policy: Path, mesh: Path) -> list[Problem]:
    source = _source_of(policy / "models.yaml", mesh)
    return [replace(note, file=source) for note in price_notes(read_document(policy / "models.yaml"))]


def lint(mesh: Path) -> int:
    """0 when the policy in ``mesh`` compiles, Istio's schemas and this Envoy take it and each process can
    read its own file. Prints warnings. Raises PolicyError with every problem, Refusal."""
    with tempfile.TemporaryDirectory(prefix="tidegate-lint-") as directory:
        region = _trial(layout_of(Path(directory)), 8080)
        prepare(region.layout)
        problems = list(lint_resources(build(mesh), region.envoy))
        compiled, _ = compiled_for(region, mesh)
        PolicyFollower(region, mesh).write()
        problems += _own_policy_problems(region.layout.policy, mesh)
        if problems:
            raise PolicyError(problems)
        notes = _price_notes(region.layout.policy, mesh)
    for warning in (*compiled.diagnostics, *notes):
        print(f"warning: {warning}")
    print(f"{mesh}: compiles; Istio's schemas, Envoy and every process take it")
    return 0


def print_compiled(mesh: Path, layout: Layout, port: int) -> int:
    """The Envoy config that ``mesh`` becomes on this machine, on standard output as JSON.

    The engine stands on port 30000 in it. Raises PolicyError, Refusal.
    """
    compiled, _ = compiled_for(_trial(layout, port), mesh)
    json.dump(compiled.bootstrap, sys.stdout, indent=2)
    sys.stdout.write("\n")
    return 0
