"""A small policy, two keys and a ledger in memory, for the operations."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from gateway.admin.accounts import Accounts
from gateway.admin.budgets import Budgets
from gateway.admin.change import By
from gateway.admin.keys import Keys
from gateway.budget.memory_ledger import MemoryLedger
from gateway.budget.policy import BudgetPolicy, budget_policy_from
from gateway.config.document import parse_documents
from gateway.contract.clock import ManualClock
from gateway.contract.ids import KeyId, OrgId, TeamId, Tier, UserId
from gateway.contract.principal import Principal
from gateway.keys.key_file import KeyFile, create_api_key

POLICY = """
version: 3
tiers:
  standard: {priority: 0, priority_class: standard, key: {tokens_per_minute: 1000}}
orgs:
  demo:
    tokens_per_month: 1000000
    limits: [{requests: 60, per: minute, burst: 10}]
    teams: {blue: {tokens_per_month: 5000}}
    users: {"*": {limits: [{tokens: 700, per: day, enforcement: soft}]}}
    models: {small: {limits: [{micro_usd: 90, per: day}]}}
  empty: {}
"""
BY = By(actor="olga", reason="a test")
ALICE = Principal(
    org=OrgId("demo"), team=TeamId("blue"), user=UserId("alice"), key=KeyId("ci"), tier=Tier("standard")
)


def policy() -> BudgetPolicy:
    return budget_policy_from(parse_documents(POLICY, "budgets.yaml")[0])


def pseudonym(org: OrgId, user: UserId) -> str:
    return f"p-{org}-{user}"


@dataclass
class Desk:
    """Operations on ``directory``."""

    directory: Path
    clock: ManualClock = field(default_factory=ManualClock)

    def __post_init__(self) -> None:
        self.ledger = MemoryLedger(self.clock)
        self.path = self.directory / "api_keys.json"
        self.secret = create_api_key(self.path, ALICE)
        self.file = KeyFile(self.path)

    def keys(self) -> Keys:
        return Keys(self.file, self.ledger, self.clock, policy=policy(), models=["small", "large"])

    def budgets(self) -> Budgets:
        accounts = Accounts(
            self.ledger, policy(), keys=self.file.read(), models=["small", "large"], pseudonym=pseudonym
        )
        return Budgets(self.ledger, accounts)

    def events(self, kind: str) -> list[dict[str, str]]:
        return [entry for entry in self.ledger.outbox if entry["type"] == kind]
