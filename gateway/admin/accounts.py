"""The accounts of an org: which there are, and the windows the policy gives each.

Only an account that the policy gives to some request is worth adjusting: a limit set on any other would
never be asked for, and is refused rather than taken in silence.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final

from gateway.admin.change import BadValue, Unknown, unknown
from gateway.budget.ledger import BudgetLedger
from gateway.budget.policy import ORG_ACCOUNT, BudgetPolicy, OrgPolicy, ledger_name
from gateway.budget.policy_limits import ANY
from gateway.budget.window import Account, Window
from gateway.contract.errors import PermissionDenied
from gateway.contract.ids import AccountId, KeyId, OrgId, TeamId, Tier, UserId, is_identifier
from gateway.contract.principal import Principal
from gateway.keys.api_key import ApiKeys

LEVELS: Final = ("org", "team", "user", "key", "model", "workflow")
ACCOUNTS_SHOWN_MAX: Final = 10_000
"""Of one org in one answer; some 100 ms of the ledger."""
NOBODY: Final = "none"
"""Stands at the levels of a caller that the account in question does not depend on."""


class Accounts:
    """Of one policy snapshot and one reading of the keys."""

    def __init__(
        self,
        ledger: BudgetLedger,
        policy: BudgetPolicy,
        *,
        keys: ApiKeys,
        models: Sequence[str],
        pseudonym: Callable[[OrgId, UserId], str],
    ) -> None:
        """``models``: the names in the catalogue. ``pseudonym`` of a user, as admit makes it."""
        self._ledger = ledger
        self._policy = policy
        self._keys = keys
        self._models = models
        self._pseudonym = pseudonym
        self._users_of: dict[OrgId, Mapping[str, UserId]] = {}

    @property
    def policy_version(self) -> int:
        """Of the snapshot."""
        return self._policy.version

    async def orgs(self) -> list[str]:
        """Those the policy lists, those with keys, and those the ledger has seen. Raises
        LedgerUnavailable."""
        seen = {str(org) for org in await self._ledger.orgs()}
        listed = {str(org) for org in self._policy.orgs if org != ANY}
        return sorted(seen | listed | {str(key.principal.org) for key in self._keys.values()})

    async def org(self, name: str) -> OrgId:
        """Raises Unknown, LedgerUnavailable."""
        known = await self.orgs()
        if name not in known:
            raise unknown("org", name, known)
        return OrgId(name)

    async def known(self, org: OrgId) -> dict[AccountId, Account]:
        """The accounts that the policy, the keys or the ledger name, in the order of LEVELS. Raises
        LedgerUnavailable."""
        found = {ORG_ACCOUNT: self._of_policy(org, ORG_ACCOUNT)}
        for name in {*self._named(org), *await self._ledger.accounts(org)}:
            found[name] = self._of_policy(org, name)
        ordered = sorted(found, key=lambda name: (LEVELS.index(name.partition("/")[0]), name))
        bare = {name: Account(id=name, windows=()) for name in ordered}
        return {name: found[name] or bare[name] for name in ordered[:ACCOUNTS_SHOWN_MAX]}

    async def one(self, org: OrgId, text: str) -> Account:
        """The account ``org`` or ``<level>/<name>`` with the windows the policy gives it; a user is named by
        pseudonym or by the real id. No windows for a key whose tier is not known here. Raises Unknown,
        BadValue, LedgerUnavailable."""
        level, _, name = text.partition("/")
        if level not in LEVELS or (level == "org") == bool(name):
            mend = f"write org, or one of {', '.join(LEVELS[1:])} with /NAME"
            raise BadValue(f"{text!r} is no account", mend)
        known = await self.known(org)
        account = next((one for one in self._names(org, level, name) if one in known), None)
        if account is None:
            raise unknown(f"account of org {org}", text, [str(one) for one in known])
        found = self._of_policy(org, account)
        if found is None:
            raise Unknown(
                f"the policy gives {text!r} no window, so no request is counted on it",
                "add one in budgets.yaml ('tokens: unlimited, per: month' is enough)",
            )
        return found

    def _names(self, org: OrgId, level: str, name: str) -> list[AccountId]:
        if level == "org":
            return [ORG_ACCOUNT]
        if level == "model":
            return [AccountId(f"model/{ledger_name(name)}")]
        accounts = [AccountId(f"{level}/{name}")]
        if level == "user" and is_identifier(name):
            accounts.append(AccountId(f"user/{self._pseudonym(org, UserId(name))}"))
        return accounts

    def _policy_of(self, org: OrgId) -> OrgPolicy | None:
        return self._policy.orgs.get(org) or self._policy.orgs.get(OrgId(ANY))

    def _principals(self, org: OrgId) -> Iterator[Principal]:
        return (key.principal for key in self._keys.values() if key.principal.org == org)

    def _users(self, org: OrgId) -> Mapping[str, UserId]:
        """Real ids of users that are known by name, by pseudonym."""
        if org not in self._users_of:
            policy = self._policy_of(org)
            named = {*(policy.users if policy else ()), *(caller.user for caller in self._principals(org))}
            self._users_of[org] = {self._pseudonym(org, user): user for user in named if user != ANY}
        return self._users_of[org]

    def _named(self, org: OrgId) -> Iterator[AccountId]:
        """Accounts of policy and keys, but for those that get no window."""
        policy = self._policy_of(org)
        callers = list(self._principals(org))
        if policy is None:
            return
        names = [f"team/{team}" for team in {*policy.teams, *(caller.team for caller in callers)}]
        names += [f"user/{pseudonym}" for pseudonym in self._users(org)]
        names += [f"key/{key}" for key in {*policy.keys, *(caller.key for caller in callers)}]
        names += [f"model/{ledger_name(model)}" for model in self._models]
        names += [f"workflow/{workflow}" for workflow in policy.workflows]
        for name in names:
            if not name.endswith(f"/{ANY}") and self._of_policy(org, AccountId(name)) is not None:
                yield AccountId(name)

    def _of_policy(self, org: OrgId, account: AccountId) -> Account | None:
        """``account`` with the windows a request on it gets; None where it gets none."""
        level, _, name = account.partition("/")
        key = self._keys.get(KeyId(name)) if level == "key" else None
        if level == "key" and (key is None or key.principal.org != org):
            return Account(id=account, windows=())  # of a JWT, or of another region: its tier is not known
        caller = key.principal if key is not None else self._caller(org, level, name)
        model = next((one for one in self._models if level == "model" and ledger_name(one) == name), "")
        try:
            accounts = self._policy.accounts_for(
                caller,
                model=model,
                user=name if level == "user" else "",
                workflow=name if level == "workflow" else "",
            )
        except PermissionDenied:
            return None
        return next((found for found in accounts if found.id == account), None)

    def _caller(self, org: OrgId, level: str, name: str) -> Principal:
        """Somebody of ``org`` whose requests are counted on the account; the tier matters to keys only."""
        return Principal(
            org=org,
            team=TeamId(name if level == "team" and is_identifier(name) else NOBODY),
            user=self._users(org).get(name, UserId(NOBODY)) if level == "user" else UserId(NOBODY),
            key=KeyId(NOBODY),
            tier=next(iter(self._policy.tiers), Tier(NOBODY)),
        )


def window_named(windows: Sequence[Window], wanted: Window) -> Window | None:
    """The window of the same measure and span."""
    return next((window for window in windows if window.name == wanted.name), None)
