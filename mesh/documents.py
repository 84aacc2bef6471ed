"""Tables in README.md, ARCHITECTURE.md and docs/cache.md that are made from code; tidy tests hold them fresh.

``python -m mesh.documents`` rewrites what stands between ``<!-- generated: NAME -->`` and ``<!-- end -->``.
"""

from __future__ import annotations

import dataclasses
import re
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from ext_authz.settings import AuthzSettings
from ext_proc.recall.settings import RecallSettings
from ext_proc.settings import ProcSettings
from gateway.api.settings import ApiSettings
from gateway.bookkeeper.settings import BookkeeperSettings
from gateway.contract.error_cases import ERROR_CASES, ErrorCase, Origin
from gateway.path import HOPS
from mesh.caching.reasons import reasons_table

ROOT: Final = Path(__file__).resolve().parents[1]
DOCUMENTS: Final = ("README.md", "ARCHITECTURE.md", "docs/cache.md")
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
        "recall": RecallSettings,
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


def errors_tree() -> str:
    """gateway/contract/error_cases.py drawn: who answers, with which status and class, for which codes."""
    lines = ["```", "client"]
    origins = list(Origin)
    for origin in origins:
        last = origin is origins[-1]
        lines.append(f"{'└' if last else '├'} {origin.value}")
        groups: dict[tuple[int, str], list[str]] = {}
        for case in (case for case in ERROR_CASES if case.origin is origin):
            codes = groups.setdefault((case.status, case.sdk_class), [])
            if case.code not in codes:
                codes.append(case.code)
        for place, ((status, sdk_class), codes) in enumerate(sorted(groups.items())):
            corner = "└" if place == len(groups) - 1 else "├"
            head = f"{' ' if last else '│'}   {corner} {status or '200':<4}{sdk_class:<22}"
            indent = f"{' ' if last else '│'}   {' ' if corner == '└' else '│'} {'':<26}"
            lines += textwrap.wrap(
                ", ".join(codes), 116, initial_indent=head, subsequent_indent=indent, break_long_words=False
            )
    return "\n".join([*lines, "```"]) + "\n"


def errors_table() -> str:
    """Every case of gateway/contract/error_cases.py."""
    rows = [
        "| case | who answers | status | type | code | param | Retry-After | SDK |",
        "|---|---|---|---|---|---|---|---|",
    ]
    return "\n".join([*rows, *map(_error_row, ERROR_CASES)]) + "\n"


def _error_row(case: ErrorCase) -> str:
    cells = (
        case.case,
        case.origin.value,
        str(case.status or "200"),
        case.type,
        f"`{case.code}`",
        case.param or "-",
        case.retry_after or "-",
        case.sdk_class,
    )
    return f"| {' | '.join(cells)} |"


TABLES: Final[dict[str, Callable[[], str]]] = {
    "hops": hops_table,
    "settings": settings_table,
    "errors_tree": errors_tree,
    "errors_table": errors_table,
    "cache_codes": reasons_table,
}


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
