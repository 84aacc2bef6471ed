"""Istio in, Envoy out: each directory holds ``in.yaml``, ``endpoints.yaml`` and the reviewed ``out.json``.

``python -m tests.golden.mesh.test_pairs`` writes every ``out.json`` anew; read the difference.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gateway.config.document import parse_documents
from mesh.compile import Endpoint, Target, compile_mesh, endpoints_from
from mesh.compile.resources import resource_from

HERE = Path(__file__).parent
CASES = sorted(place.parent.name for place in HERE.glob("*/in.yaml"))
TARGET = Target(
    node_id="golden",
    region="here",
    zone="z1",
    admin=Endpoint(pipe="/run/admin.sock"),
    listeners={8080: ("127.0.0.1", 18080)},
)


def bootstrap(case: str) -> str:
    """The compiled config of one case, as the golden file has it."""
    inputs = parse_documents((HERE / case / "in.yaml").read_text(), "in.yaml")
    (places,) = parse_documents((HERE / case / "endpoints.yaml").read_text(), "endpoints.yaml")
    compiled = compile_mesh(tuple(map(resource_from, inputs)), endpoints_from(places), TARGET)
    return json.dumps(compiled.bootstrap, indent=2) + "\n"


@pytest.mark.parametrize("case", CASES)
def test_compiles_to_what_was_reviewed(case: str) -> None:
    assert bootstrap(case) == (HERE / case / "out.json").read_text()


if __name__ == "__main__":
    for each in CASES:
        (HERE / each / "out.json").write_text(bootstrap(each))
