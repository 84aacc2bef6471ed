"""The policy on this machine, with the real kustomize and the real Envoy's validation."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mesh.cli import main
from mesh.local.engine import TwinEngine
from mesh.local.layout import CHECKOUT, layout_of, prepare
from mesh.local.policy import PolicyFollower, programs
from mesh.local.region import Region
from tests.harness.gateway import overlay

BUDGETS = (CHECKOUT / "mesh" / "base" / "policy" / "budgets.yaml").read_text()


@pytest.fixture
def mesh(tmp_path: Path) -> Path:
    return overlay(tmp_path / "mesh", {"budgets.yaml": BUDGETS})


@pytest.fixture
def region(tmp_path: Path) -> Region:
    envoy, valkey = programs(None)
    layout = layout_of(tmp_path / "state")
    prepare(layout)
    return Region(
        layout=layout,
        port=18080,
        engine=TwinEngine(),
        engine_port=30001,
        model="smollm2-135m",
        envoy=envoy,
        valkey=valkey,
        tools=tmp_path,
    )


def test_a_changed_policy_reaches_the_processes_and_a_bad_one_does_not(mesh: Path, region: Region) -> None:
    follower = PolicyFollower(region, mesh)
    follower.write()
    policy = region.layout.policy
    names = {file.name for file in policy.iterdir()}
    assert names == {"auth.yaml", "budgets.yaml", "cache.yaml", "models.yaml"}
    bound = json.dumps(json.loads(region.layout.envoy_config.read_text()))
    assert '"port_value": 18080' in bound
    assert '"port_value": 18081' in bound
    assert str(region.layout.socket("ext-proc-1")) in bound
    assert follower.follow() == []

    (mesh / "budgets.yaml").write_text(BUDGETS + "# changed\n")
    assert follower.follow() == ["policy changed: budgets.yaml"]
    assert (policy / "budgets.yaml").read_text().endswith("# changed\n")
    assert follower.follow() == []

    kustomization = (mesh / "kustomization.yaml").read_text()
    (mesh / "kustomization.yaml").write_text("nonsense: [\n")
    (told,) = follower.follow()
    assert told.startswith("policy refused, the last good one stays in force: ")
    assert (policy / "budgets.yaml").read_text().endswith("# changed\n")
    (mesh / "kustomization.yaml").write_text(kustomization)
    (mesh / "budgets.yaml").write_text(BUDGETS)
    assert follower.follow() == ["policy changed: budgets.yaml"]


def test_lint_and_compile(mesh: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["mesh", "lint", "--mesh", str(mesh)]) == 0
    assert "every process take it" in capsys.readouterr().out
    assert main(["mesh", "compile", "--mesh", str(mesh), "--port", "9000"]) == 0
    compiled = json.loads(capsys.readouterr().out)
    listeners = compiled["static_resources"]["listeners"]
    assert 9000 in [one["address"]["socket_address"]["port_value"] for one in listeners]
    (mesh / "budgets.yaml").write_text(BUDGETS + "surprise: 1\n")
    assert main(["mesh", "lint", "--mesh", str(mesh)]) == 1
    errors = capsys.readouterr().err
    assert f"{mesh}/budgets.yaml:" in errors
    assert "surprise" in errors
    assert main(["mesh", "lint", "--mesh", str(tmp_path)]) == 1
    assert "has no kustomization.yaml" in capsys.readouterr().err
