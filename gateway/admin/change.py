"""Who changes what for which reason, and what is said when it cannot be done."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

ACTOR_CHARS_MAX: Final = 200
REASON_CHARS_MAX: Final = 500
"""Both as gateway.budget.ledger.Adjustment takes them: they stand in an event."""
SHOWN_MAX: Final = 20
"""Names that a message lists."""


class NotDone(Exception):
    """The operation was refused and changed nothing, unless ``what`` says otherwise. ``what`` and ``mend``
    are for an operator: they may name orgs, accounts and keys, never a secret."""

    def __init__(self, what: str, mend: str) -> None:
        """One line each."""
        super().__init__(f"{what}: {mend}")
        self.what, self.mend = what, mend


class BadValue(NotDone):
    """An argument is not what the operation takes."""


class Unknown(NotDone):
    """What is named does not exist."""


class Conflict(NotDone):
    """The operation does not go with how things stand."""


class NotRecorded(NotDone):
    """The ledger took no audit event."""


def unknown(kind: str, name: str, known: list[str]) -> Unknown:
    """No ``kind`` ``name``; the first of those there are."""
    shown = ", ".join(known[:SHOWN_MAX]) + (", ..." if len(known) > SHOWN_MAX else "")
    return Unknown(f"no {kind} {name!r}", f"there are {shown}" if known else f"there is no {kind} yet")


@dataclass(frozen=True, slots=True, kw_only=True)
class By:
    """Who makes a change, and why. Both stand in its audit event."""

    actor: str
    reason: str

    def __post_init__(self) -> None:
        """Raises BadValue."""
        for name, text, chars_max in (
            ("actor", self.actor, ACTOR_CHARS_MAX),
            ("reason", self.reason, REASON_CHARS_MAX),
        ):
            if not text.strip() or len(text) > chars_max or not text.isprintable():
                raise BadValue(
                    f"{name}: is empty, too long or has control characters",
                    f"say it in one line of 1 to {chars_max} characters",
                )
