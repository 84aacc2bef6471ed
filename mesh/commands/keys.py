"""``tidegate keys``."""

from __future__ import annotations

from mesh.commands.options import Commands


def add(commands: Commands) -> None:
    """Registers nothing yet."""
