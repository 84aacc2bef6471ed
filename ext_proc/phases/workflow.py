"""Which workflow or session a request counts under: the client's word for it, checked.

The header goes before ``metadata``, of which ``workflow`` goes before ``session_id``: a session is the
finer name, for clients that have no other. Two words for the workflow that differ are refused: one of them
would be dropped in silence.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from gateway.contract.errors import InvalidRequest
from gateway.contract.headers import WORKFLOW

IN_METADATA: Final = ("workflow", "session_id")
"""Keys of OpenAI's ``metadata``."""
NAME_CHARS_MAX: Final = 128
"""Longer than the identifiers that frameworks make; the name is hashed with each request."""
_NAME: Final = re.compile(rf"[!-~](?:[ -~]{{0,{NAME_CHARS_MAX - 2}}}[!-~])?")


def workflow_asked(header: str, metadata: Mapping[str, str]) -> str:
    """The name; empty for none. ``header``: the value of x-tidegate-workflow, empty for none. Raises
    InvalidRequest, whose ``param`` is the header's name or ``metadata.<key>``."""
    said = {WORKFLOW: header} if header else {}
    said |= {f"metadata.{key}": metadata[key] for key in IN_METADATA if key in metadata}
    for place, name in said.items():
        if not _NAME.fullmatch(name):
            raise InvalidRequest(
                f"{place}: the name of a workflow has 1 to {NAME_CHARS_MAX} printable ASCII characters,"
                " none of them a space at either end.",
                code="invalid_workflow",
                param=place,
            )
    in_metadata = said.get("metadata.workflow", header)
    if header and in_metadata != header:
        raise InvalidRequest(
            f"metadata.workflow: differs from the header {WORKFLOW}; send one of them.",
            code="invalid_workflow",
            param="metadata.workflow",
        )
    return next(iter(said.values()), "")
