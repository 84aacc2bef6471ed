"""mesh/base with some values changed, as an operator's overlay does it."""

from __future__ import annotations

import json
import os
from pathlib import Path

from tests.harness.gateway import ROOT


def patched(directory: Path, kind: str, name: str, values: dict[str, object]) -> Path:
    """A kustomize overlay in which the resource's ``values``, by their JSON pointers, are replaced."""
    directory.mkdir(parents=True)
    changes = [{"op": "replace", "path": path, "value": value} for path, value in values.items()]
    kustomization = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "buildMetadata": ["originAnnotations"],
        "resources": [os.path.relpath(ROOT / "mesh" / "base", directory.resolve())],
        "generatorOptions": {"disableNameSuffixHash": True},
        "patches": [{"target": {"kind": kind, "name": name}, "patch": json.dumps(changes)}],
    }
    (directory / "kustomization.yaml").write_text(json.dumps(kustomization))
    return directory
