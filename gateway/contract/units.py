"""Quantities with their unit in the type."""

from __future__ import annotations

from typing import Final, NewType

Tokens = NewType("Tokens", int)
MicroUsd = NewType("MicroUsd", int)
Millis = NewType("Millis", int)
UnixMillis = NewType("UnixMillis", int)
Seconds = NewType("Seconds", float)
Bytes = NewType("Bytes", int)

TOKENS_MAX: Final = Tokens(2**53 - 1)
"""Largest amount the ledger takes: beyond it a Lua number (IEEE double) is no longer exact."""
