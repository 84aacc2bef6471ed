"""Who calls: the answer of ext_authz, carried as dynamic metadata."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from gateway.contract.ids import KeyId, OrgId, TeamId, Tier, UserId, is_identifier


class NotAPrincipal(ValueError):
    """The metadata does not hold a well-formed Principal."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Principal:
    """org > team > user > key, and what this caller may do.

    ``models`` and ``scopes`` are sorted; ``models == ("*",)`` allows every model of the catalogue.
    """

    org: OrgId
    team: TeamId
    user: UserId
    key: KeyId
    tier: Tier
    models: tuple[str, ...] = ("*",)
    scopes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Raises NotAPrincipal when a level is not an identifier."""
        for name in ("org", "team", "user", "key", "tier"):
            if not is_identifier(getattr(self, name)):
                raise NotAPrincipal(f"principal.{name}: must match [a-z0-9][a-z0-9_-]{{0,62}}")

    def may_use(self, model: str) -> bool:
        """Whether the catalogue's model ``model`` is allowed to this caller."""
        return "*" in self.models or model in self.models

    def to_fields(self) -> dict[str, str | list[str]]:
        """As JSON-ready fields, for metadata and for the x-tidegate-principal header."""
        return {
            "org": self.org,
            "team": self.team,
            "user": self.user,
            "key": self.key,
            "tier": self.tier,
            "models": list(self.models),
            "scopes": list(self.scopes),
        }

    @classmethod
    def from_fields(cls, fields: Mapping[str, object]) -> Principal:
        """Read what ``to_fields`` wrote. Raises NotAPrincipal."""

        def text(name: str) -> str:
            value = fields.get(name)
            if not isinstance(value, str):
                raise NotAPrincipal(f"principal.{name}: missing or not a string")
            return value

        def texts(name: str) -> tuple[str, ...]:
            value = fields.get(name, [])
            if not isinstance(value, list | tuple) or not all(isinstance(item, str) for item in value):
                raise NotAPrincipal(f"principal.{name}: must be a list of strings")
            return tuple(value)

        return cls(
            org=OrgId(text("org")),
            team=TeamId(text("team")),
            user=UserId(text("user")),
            key=KeyId(text("key")),
            tier=Tier(text("tier")),
            models=texts("models"),
            scopes=texts("scopes"),
        )
