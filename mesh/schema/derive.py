"""``python -m mesh.schema.derive CRDS.yaml``: the schemas of the kinds we use, out of Istio's CRDs.

Source: istio/istio, release-1.31, manifests/charts/base/files/crd-all.gen.yaml, Apache-2.0 (the
licence of this repository too). Kept: the OpenAPI schema of ``spec``, without descriptions, with unknown
fields refused where Kubernetes would silently prune them. Left out: the CEL rules.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import yaml

OUTPUT: Final = Path(__file__).parent / "istio-1.31.json"
KINDS: Final = {
    "Gateway": "v1",
    "VirtualService": "v1",
    "DestinationRule": "v1",
    "ServiceEntry": "v1",
    "EnvoyFilter": "v1alpha3",
    "AuthorizationPolicy": "v1",
}
_DROPPED: Final = frozenset({"description", "x-kubernetes-validations", "x-kubernetes-map-type"})


def closed(schema: Any) -> Any:
    """``schema`` without what validation does not need, and with unknown fields refused."""
    if isinstance(schema, list):
        return [closed(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    made = {name: closed(value) for name, value in schema.items() if name not in _DROPPED}
    if schema.get("type") == "object" and isinstance(schema.get("properties"), dict):
        # Below "properties" the names are fields, one of which may be called "description".
        made["properties"] = {name: closed(value) for name, value in schema["properties"].items()}
        if not schema.get("x-kubernetes-preserve-unknown-fields"):
            made.setdefault("additionalProperties", False)
    return made


def derived(definitions: Iterable[Any]) -> Mapping[str, Any]:
    """Kind to the schema of its spec. Raises KeyError when a kind is not among ``definitions``."""
    found: dict[str, Any] = {}
    for definition in definitions:
        if not definition or definition.get("kind") != "CustomResourceDefinition":
            continue
        kind, group = definition["spec"]["names"]["kind"], definition["spec"]["group"]
        if kind not in KINDS or group not in ("networking.istio.io", "security.istio.io"):
            continue
        for version in definition["spec"]["versions"]:
            if version["name"] == KINDS[kind]:
                found[kind] = closed(version["schema"]["openAPIV3Schema"]["properties"]["spec"])
    return {kind: found[kind] for kind in sorted(KINDS)}


def main(arguments: list[str]) -> int:
    """Writes OUTPUT from the CRDs file named on the command line."""
    if len(arguments) != 1:
        sys.stderr.write("usage: python -m mesh.schema.derive CRDS.yaml\n")
        return 2
    definitions = yaml.safe_load_all(Path(arguments[0]).read_text(encoding="utf-8"))
    OUTPUT.write_text(json.dumps(derived(definitions), sort_keys=True, separators=(",", ":")) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
