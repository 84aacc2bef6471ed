"""What admit decides by: one snapshot for one request, whatever is reloaded meanwhile."""

from __future__ import annotations

from dataclasses import dataclass

from ext_proc.cache.policy import CachePolicy
from gateway.budget.policy import BudgetPolicy
from gateway.contract.principal import Principal
from gateway.keys.keyed_hash import hmac_hex
from gateway.keys.pseudonym import pseudonym_of, user_pseudonym
from gateway.models.catalogue import Catalogue


@dataclass(frozen=True, slots=True, kw_only=True)
class Secrets:
    """Keys for HMAC-SHA256, 32 random bytes each."""

    pseudonym: bytes
    """Deleting it erases: no event can be led back to a person."""
    cache_salt: bytes

    def user_pseudonym(self, principal: Principal) -> str:
        """Stands for the user in events and accounts, for operators and usage too."""
        return user_pseudonym(self.pseudonym, principal.org, principal.user)

    def end_user_pseudonym(self, principal: Principal, end_user: str) -> str:
        """Stands for the client's own end user; empty for none."""
        return pseudonym_of(self.pseudonym, "end_user", principal.org, end_user) if end_user else ""

    def workflow_pseudonym(self, principal: Principal, workflow: str) -> str:
        """Stands for a workflow or session that the policy does not name."""
        return pseudonym_of(self.pseudonym, "workflow", principal.org, workflow)

    def engine_salt(self, principal: Principal) -> str:
        """Keeps prefixes of orgs apart in the engine's cache: its timing would tell one org's prompts
        to another."""
        return hmac_hex(self.cache_salt, "engine", principal.org)

    def entry_key(self) -> bytes:
        """Key of the seal on cache entries."""
        return bytes.fromhex(hmac_hex(self.cache_salt, "entry"))

    def recall_key(self) -> bytes:
        """Key of the seal on the texts of stored questions."""
        return bytes.fromhex(hmac_hex(self.cache_salt, "recall"))

    def partition_key(self) -> bytes:
        """Key of the cache's partitions and keys."""
        return bytes.fromhex(hmac_hex(self.cache_salt, "partition"))


@dataclass(frozen=True, slots=True, kw_only=True)
class AdmitRules:
    """The policies and secrets in force."""

    catalogue: Catalogue
    budgets: BudgetPolicy
    caching: CachePolicy = CachePolicy()
    secrets: Secrets
