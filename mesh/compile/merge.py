"""Istio's merge of an EnvoyFilter value into generated config, on JSON instead of protobuf.

As ``pkg/proto/merge`` of Istio 1.31 does: messages merge field by field, lists append, map entries and
durations (scalars here) are replaced. JSON does not tell a map from a message, so the maps that occur in
the parts we patch are named.
"""

from __future__ import annotations

import copy
from typing import Any, Final

MAP_FIELDS: Final = frozenset(
    {"typed_extension_protocol_options", "typed_per_filter_config", "filter_metadata"}
)
"""Envoy fields of type map<string, message>: an entry replaces the whole entry of its key."""


def merged(base: Any, patch: Any) -> Any:
    """``patch`` merged into a copy of ``base``; neither is changed."""
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
