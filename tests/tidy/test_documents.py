"""Documents that are made from code stay in step with it."""

from __future__ import annotations

import pytest

from gateway.path import HOPS
from mesh.documents import DOCUMENTS, ROOT, refreshed


@pytest.mark.parametrize("name", DOCUMENTS)
def test_generated_tables_are_fresh(name: str) -> None:
    text = (ROOT / name).read_text()
    assert refreshed(text) == text, "run: .venv/bin/python -m mesh.documents"


def test_the_readme_names_its_two_commands_first() -> None:
    readme = (ROOT / "README.md").read_text()
    assert readme.index("./tidegate up") < readme.index("./tidegate test")


def test_every_hop_is_in_the_architecture() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text()
    assert [hop.name for hop in HOPS if f"| {hop.name} |" not in text] == []
