"""The leases of one account set in a worker's hands, and when it asks for another. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from gateway.budget.lease_demand import Demand
from gateway.budget.lease_hand import Hand
from gateway.budget.ledger import Granted, HoldRequest, LeaseRequest
from gateway.budget.measure import Measure
from gateway.budget.policy import LeasePolicy
from gateway.budget.window import Account
from gateway.contract.ids import AccountId, HoldId, OrgId

WORKFLOW: Final = "workflow/"
"""Accounts of a session: many, small and short, so that a lease on one is mostly returned unused."""
HORIZON_S: Final = 0.5
"""A lease is to last so long at the present rate, up to the policy's number of requests."""
HANDS_MAX: Final = 2
"""Leases of one account set that are drawn from: one, and the next one before the first is used up."""
ASK_AGAIN_S: Final = 1.0
"""After a lease was refused or could not be asked for. RECALL_FOR of the ledger is 2 s."""

PoolKey = tuple[OrgId, tuple[AccountId, ...]]


def pool_key(request: HoldRequest) -> PoolKey:
    """What a lease is made for: exactly these accounts."""
    return request.org, tuple(account.id for account in request.accounts)


def may_lease(request: HoldRequest) -> bool:
    """Whether such requests may be decided out of a lease at all: nothing counts them while they are in
    flight, and they are of no workflow."""
    return not any(
        account.id.startswith(WORKFLOW)
        or any(window.measure is Measure.CONCURRENT for window in account.windows)
        for account in request.accounts
    )


@dataclass(slots=True)
class Pool:
    """``version``: of the policy its leases were made under."""

    accounts: tuple[Account, ...]
    version: int
    demand: Demand = field(default_factory=Demand)
    hands: list[Hand] = field(default_factory=list)
    asking: bool = False
    ask_again_s: float = float("-inf")

    def draw(self, request: HoldRequest, now_s: float) -> Granted | None:
        """A grant out of the oldest lease that pays all of it."""
        if request.policy_version != self.version:
            return None
        amounts = request.amounts(request.units_wanted)
        for hand in self.hands:
            if (granted := hand.draw(request, amounts, now_s)) is not None:
                return granted
        return None

    def wants(self, now_s: float) -> bool:
        """Whether to ask for a lease now."""
        if self.asking or now_s < self.ask_again_s or not self.demand.busy(now_s):
            return False
        usable = [hand for hand in self.hands if hand.usable(now_s)]
        return len(usable) < HANDS_MAX and all(hand.wanes(now_s) for hand in usable)

    def question(self, lease: HoldId, org: OrgId, policy: LeasePolicy, now_s: float) -> LeaseRequest:
        """The lease to ask for."""
        enough = round(self.demand.per_second(now_s) * HORIZON_S)
        requests = max(policy.requests_least, min(policy.requests, enough))
        return LeaseRequest(
            lease=lease,
            org=org,
            accounts=self.accounts,
            wanted=self.demand.amounts(requests),
            wanted_requests=requests,
            least=self.demand.amounts(policy.requests_least),
            share=policy.share,
            ttl=policy.ttl,
            policy_version=self.version,
        )

    def renew(self, accounts: tuple[Account, ...], version: int) -> None:
        """A newer policy: what was leased under the old one goes back."""
        self.accounts, self.version = accounts, version
        self.stop()

    def stop(self) -> None:
        """Hand out nothing more of what there is."""
        for hand in self.hands:
            hand.stopped = True

    def retire(self, now_s: float, *, away: bool) -> None:
        """Stop what is spent, over, superseded or idle. ``away``: the ledger does not answer, nobody else can
        be waiting for an idle lease, and what there is is all there will be."""
        for hand in self.hands:
            spent = hand.requests == 0 or now_s >= hand.until_s
            superseded = hand is not self.hands[-1] and not hand.pays(self.demand.amounts(1))
            if spent or superseded or (not away and hand.idle(now_s)):
                hand.stopped = True

    def without(self, hand: Hand) -> None:
        """It was returned."""
        self.hands = [one for one in self.hands if one is not hand]
