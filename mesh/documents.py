"""Tables in README.md and ARCHITECTURE.md that are made from code; a tidy test holds them fresh.

``python -m mesh.documents`` rewrites what stands between ``<!-- generated: NAME -->`` and ``<!-- end -->``.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from ext_authz.settings import AuthzSettings
from ext_proc.settings import ProcSettings
from gateway.api.settings import ApiSettings
from gateway.bookkeeper.settings import BookkeeperSettings
from gateway.path import HOPS

ROOT: Final = Path(__file__).resolve().parents[1]
DOCUMENTS: Final = ("README.md", "ARCHITECTURE.md")
_BLOCK: Final = re.compile(r"(<!-- generated: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def hops_table() -> str:
    """gateway/path.py as a table."""
    rows = ["| hop | deadline | on failure | meaning |", "|---|---|---|---|"]
    for hop in HOPS:
        deadline = f"{hop.deadline} ms" if hop.deadline else "-"
        rows.append(f"| {hop.name} | {deadline} | {hop.on_failure.value} | {hop.meaning} |")
    return "\n".join(rows) + "\n"


def settings_table() -> str:
    """Every environment variable of every process."""
    classes: dict[str, type[Any]] = {
        "ext_authz": AuthzSettings,
        "ext_proc": ProcSettings,
        "bookkeeper": BookkeeperSettings,
        "api": ApiSettings,
    }
    found: dict[str, tuple[str, str, list[str]]] = {}
    for process, cls in classes.items():
        for field in dataclasses.fields(cls):
            default = "required" if field.default is dataclasses.MISSING else f"`{field.default}`"
            variable = field.metadata["env"]
            entry = found.setdefault(variable, (default, field.metadata["meaning"], []))
            entry[2].append(process)
    rows = ["| variable | default | meaning | read by |", "|---|---|---|---|"]
    for variable, (default, meaning, processes) in sorted(found.items()):
        rows.append(f"| `{variable}` | {default} | {meaning} | {', '.join(processes)} |")
    return "\n".join(rows) + "\n"


TABLES: Final[dict[str, Callable[[], str]]] = {"hops": hops_table, "settings": settings_table}


def refreshed(text: str) -> str:
    """``text`` with every generated block made anew. Raises KeyError for an unknown block."""
    return _BLOCK.sub(lambda match: match[1] + TABLES[match[2]]() + match[3], text)


def main() -> None:
    """Rewrite the documents in place."""
    for name in DOCUMENTS:
        document = ROOT / name
        document.write_text(refreshed(document.read_text()))


if __name__ == "__main__":
    main()
