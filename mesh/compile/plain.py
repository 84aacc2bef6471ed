"""What a resource may hold: the values that JSON, protobuf and a message of ours can carry as they stand.

YAML knows more (hexadecimal numbers of any length, ``.inf``, half a surrogate pair); Kubernetes and Envoy
take none of it, so it is refused where it stands instead of where it would first be written out.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Final

from gateway.config.document import Document, PathKey, PolicyError

INT_MIN: Final = -(2**63)
INT_MAX: Final = 2**64 - 1
"""int64 and uint64, protobuf's widest integers."""


def check_plain(document: Document, path: PathKey = ()) -> None:
    """Refuse every value of ``document`` that is none of JSON's; ``path`` is where its data stands.

    Raises PolicyError with every problem.
    """
    problems = [
        document.problem(where, message, mend) for where, message, mend in _strange(document.data, path)
    ]
    if problems:
        raise PolicyError(problems)


def _strange(value: Any, path: PathKey) -> Iterator[tuple[PathKey, str, str]]:
    """Path, message and mend of what is wrong in ``value``."""
    if isinstance(value, dict):
        for name, inner in value.items():
            if not isinstance(name, str) or not _is_text(name):
                yield path, f"the key {ascii(name)[:60]} is no text", "write it as Unicode text"
            else:
                yield from _strange(inner, (*path, name))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _strange(inner, (*path, index))
    elif isinstance(value, str):
        if not _is_text(value):
            yield path, f"{ascii(value)[:60]}: is no Unicode text", "write its characters whole"
    elif isinstance(value, float):
        if not math.isfinite(value):
            yield path, f"{value}: is no number of JSON", "write a finite number"
    elif isinstance(value, int):
        if not INT_MIN <= value <= INT_MAX:
            yield path, f"a number of {value.bit_length()} bits does not fit", "at most 64 bits"
    elif value is not None:
        yield path, f"{type(value).__name__}: is no value of JSON", "quote it"


def _is_text(value: str) -> bool:
    """Whether UTF-8 can write it: half a surrogate pair it cannot."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True
