"""A newtype per identity, so that two of them cannot be swapped unseen."""

from __future__ import annotations

import re
from typing import Final, NewType

OrgId = NewType("OrgId", str)
TeamId = NewType("TeamId", str)
UserId = NewType("UserId", str)
KeyId = NewType("KeyId", str)
Tier = NewType("Tier", str)
RegionName = NewType("RegionName", str)
RequestId = NewType("RequestId", str)
"""Envoy's x-request-id of the downstream request; retries of Envoy keep it."""
HoldId = NewType("HoldId", str)
"""One budget hold. Derived from the request id: a repeated filter call is the same hold."""
AccountId = NewType("AccountId", str)
"""Account inside an org: ``org`` or ``key/<key id>``; later ``team/..``, ``user/..``, ``model/..``."""
ModelName = NewType("ModelName", str)

IDENTIFIER_PATTERN: Final = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}\Z")
"""Every identity that reaches a ledger key, a cache key or a header matches this.

Why so narrow: a brace would break the hash tag, a colon the key, CR/LF a header, and upper
case would let two tenants collide after case folding.
"""


GRANT_PATTERN: Final = re.compile(r"[A-Za-z0-9*._:/@+-]{1,128}\Z")
"""A model or scope that a token or key grants."""


def is_identifier(value: object) -> bool:
    """Whether ``value`` is a string fit to be an identity (lower case, digits, ``_`` and ``-``)."""
    return isinstance(value, str) and IDENTIFIER_PATTERN.match(value) is not None
