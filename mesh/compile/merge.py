"""Istio's merge of an EnvoyFilter value into generated config, on JSON instead of protobuf.

As ``pkg/proto/merge`` of Istio 1.31 does: messages merge field by field, lists append, map entries and
durations (scalars here) are replaced. JSON does not tell a map from a message, so the maps that occur in
the parts we patch are named.
"""

from __future__ import annotations

import copy
from typing import Any, Final

from gateway.config.document import PathKey

MAP_FIELDS: Final = frozenset(
    {"typed_extension_protocol_options", "typed_per_filter_config", "filter_metadata"}
)
"""Envoy fields of type map<string, message>: an entry replaces the whole entry of its key."""


def mismatch(base: Any, patch: Any, path: PathKey = ()) -> tuple[PathKey, str] | None:
    """Where ``patch`` is of another form than what it would be merged into, and which form is right there.

    Protobuf cannot merge a message into a list or a text; nor does null, which is no value, replace one.
    """
    form = _form(base)
    if _form(patch) != form:
        return path, form
    if isinstance(base, dict):
        for name, value in patch.items():
            if name not in base:
                continue
            if name in MAP_FIELDS and not (isinstance(value, dict) and isinstance(base[name], dict)):
                return (*path, name), "a mapping"
            found = None if name in MAP_FIELDS else mismatch(base[name], value, (*path, name))
            if found:
                return found
    elif isinstance(base, list) and base:
        for index, item in enumerate(patch):
            if _form(item) != _form(base[0]):
                return (*path, index), _form(base[0])
    return None


def _form(value: Any) -> str:
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list):
        return "a list"
    return "null" if value is None else "a single value"


def merged(base: Any, patch: Any) -> Any:
    """``patch`` merged into a copy of ``base``; neither is changed. Ask ``mismatch`` before."""
    if isinstance(base, dict) and isinstance(patch, dict):
        result = dict(base)
        for name, value in patch.items():
            if name not in base:
                result[name] = copy.deepcopy(value)
            elif name in MAP_FIELDS:
                result[name] = {**base[name], **copy.deepcopy(value)}
            else:
                result[name] = merged(base[name], value)
        return result
    if isinstance(base, list) and isinstance(patch, list):
        return base + copy.deepcopy(patch)
    return copy.deepcopy(patch)
