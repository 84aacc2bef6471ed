"""kustomize and Envoy themselves on mesh/base: what is built, where it says it comes from, what is valid."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gateway.config.document import PolicyError
from mesh.compile import compile_mesh, policy_files
from mesh.envoy_binary import ConfigRefused, EnvoyMissing, ensure_envoy, envoy_path, reason, validate
from mesh.kustomize import build
from mesh.lint import lint
from tests.harness.trap import ENVOYS, envoy_binary
from tests.unit.mesh import policy

BASE = policy.BASE
OVERLAY = """
apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization
buildMetadata: [originAnnotations]
resources: [{base}]
patches:
  - target: {{kind: VirtualService, name: openai}}
    patch: '[{{"op": "{op}", "path": "/spec/http/0/{field}", "value": {value}}}]'
"""


def overlay(place: Path, op: str, field: str, value: str) -> Path:
    """An overlay on mesh/base that patches one field of the first route."""
    place.mkdir()
    (place / "base").symlink_to(BASE)
    (place / "kustomization.yaml").write_text(OVERLAY.format(base="base", op=op, field=field, value=value))
    return place


def test_the_build_is_the_files() -> None:
    built = build(BASE)
    assert {one.reference for one in built} == {one.reference for one in policy.base()}
    assert policy_files(built) == {file.name: file.read_text() for file in (BASE / "policy").glob("*.yaml")}
    by_kustomize = compile_mesh(built, policy.endpoints(), policy.target()).bootstrap
    assert by_kustomize == policy.compiled().bootstrap


def test_resources_know_the_line_they_were_written_at() -> None:
    (route,) = (one for one in build(BASE) if one.reference == "VirtualService/tidegate/openai")
    line = route.document.line(("spec", "http", 1, "timeout"))
    assert Path(route.document.file) == BASE / "gateway.yaml"
    assert (BASE / "gateway.yaml").read_text().splitlines()[line - 1].strip() == "timeout: 600s"


def test_an_overlay_changes_the_output_and_its_mistakes_name_the_base_file(tmp_path: Path) -> None:
    longer = build(overlay(tmp_path / "good", "replace", "retries/perTryTimeout", '"90s"'))
    made = compile_mesh(longer, policy.endpoints(), policy.target())
    assert "90s" in json.dumps(made.bootstrap)
    wrong = build(overlay(tmp_path / "bad", "add", "fault", "{}"))
    with pytest.raises(PolicyError, match=r"gateway\.yaml:\d+: spec\.http\[0\]\.fault: unsupported field"):
        compile_mesh(wrong, policy.endpoints(), policy.target())


def test_a_build_that_cannot_be_made_says_why(tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match=r"has no kustomization\.yaml"):
        build(tmp_path)
    with pytest.raises(PolicyError, match="kustomize refused it"):
        build(overlay(tmp_path / "x", "replace", "nowhere/at", "1"))
    with pytest.raises(PolicyError, match="did not end within"):
        build(BASE, timeout_s=0.001)


@pytest.mark.parametrize("version", ENVOYS)
def test_the_policy_is_clean_and_valid_on_both_envoys(version: str, tmp_path: Path) -> None:
    binary = envoy_binary(version)
    assert lint(build(BASE), binary) == ()
    config = tmp_path / "envoy.json"
    config.write_text(json.dumps(policy.compiled().bootstrap))
    validate(config, binary)


def test_envoy_refuses_with_its_reason(tmp_path: Path) -> None:
    config = tmp_path / "envoy.json"
    config.write_text(json.dumps({**policy.compiled().bootstrap, "nodes": {}}))
    with pytest.raises(ConfigRefused, match="nodes"):
        validate(config)
    with pytest.raises(ConfigRefused, match="not validated within"):
        validate(config, timeout_s=0.001)


def test_the_reason_is_one_line_without_time_and_place() -> None:
    log = "[2026-01-01 00:00:00.000][1][critical][main] [a.cc:1] error initializing: Duplicate upgrade"
    assert reason(log) == "error initializing: Duplicate upgrade"
    assert reason("") == "no reason given"


def test_an_envoy_that_does_not_exist_is_named(tmp_path: Path) -> None:
    assert envoy_path().is_file()
    with pytest.raises(EnvoyMissing, match="no Envoy version"):
        ensure_envoy("latest", tools=tmp_path)
