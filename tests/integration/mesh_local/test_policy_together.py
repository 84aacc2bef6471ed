"""``mesh lint`` looks at budgets and catalogue together, with the real kustomize and Envoy's validation."""

from __future__ import annotations

from pathlib import Path

import pytest

from mesh.cli import main
from mesh.local.layout import CHECKOUT
from tests.harness.gateway import overlay

POLICY = CHECKOUT / "mesh" / "base" / "policy"
LIMITED = '  demo:\n    models: {{"{model}": {{tokens_per_minute: 9}}}}\n'


def test_lint_knows_models_without_prices_and_budgets_of_models_that_are_not_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    budgets, models = (POLICY / "budgets.yaml").read_text(), (POLICY / "models.yaml").read_text()
    free = models[: models.index("    prices:")]
    limited = budgets.replace("  demo:\n", LIMITED.format(model="demo"))
    mesh = overlay(tmp_path / "mesh", {"budgets.yaml": limited, "models.yaml": free})
    assert main(["mesh", "lint", "--mesh", str(mesh)]) == 1
    assert (
        "orgs.demo.models.demo: 'demo' names no model; an alias: limits are by the model's name, smollm2-135m"
        in capsys.readouterr().err
    )
    (mesh / "budgets.yaml").write_text(budgets.replace("  demo:\n", LIMITED.format(model="smollm2-135m")))
    assert main(["mesh", "lint", "--mesh", str(mesh)]) == 0
    assert f"warning: {mesh}/models.yaml:" in (told := capsys.readouterr().out)
    assert "'smollm2-135m' has no prices: it is free, and no limit in micro_usd holds it" in told


def test_lint_holds_caching_against_catalogue_and_budgets(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rule = "version: 1\nrules:\n  - {name: a, mode: all, match: {models: [demo]}}\n"
    mesh = overlay(tmp_path / "mesh", {"cache.yaml": rule})
    assert main(["mesh", "lint", "--mesh", str(mesh)]) == 1
    assert (
        f"{mesh}/cache.yaml:3: rules[0].match.models[0]: 'demo' names no model;"
        " an alias: rules are by the model's name, smollm2-135m"
    ) in capsys.readouterr().err
    (mesh / "cache.yaml").write_text(rule.replace("mode: all", "mode: some"))
    assert main(["mesh", "lint", "--mesh", str(mesh)]) == 1
    assert f"{mesh}/cache.yaml:3: rules[0].mode: 'some' is not allowed" in capsys.readouterr().err
