"""What operators change in a cache: purges and barred pairs. Each change is an event in the books."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Final

from ext_proc.cache.store import CacheStore, PurgeRule, RuleInForce, is_key
from gateway.admin.accounts import Accounts
from gateway.admin.change import BadValue, By, NotRecorded, unknown
from gateway.admin.keys import Recorder
from gateway.contract.errors import LedgerUnavailable
from gateway.contract.ids import OrgId
from gateway.events.event import EventType

NAME_CHARS_MAX: Final = 200
"""Of what a purge names; longer than any name of the policy. All rules stand in one document."""
EVENT_FIELDS: Final = {
    "model": "cache_model",
    "revision": "cache_revision",
    "template": "cache_template",
    "policy_version": "cache_policy",
    "request_id": "cache_request",
    "tag": "cache_tag",
    "entry": "cache_entry",
}
"""A rule's fields in an event's context: of another request and policy than the event's own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """What is in force: the rules, oldest first, and the buckets that are switched off, sorted."""

    rules: Sequence[RuleInForce]
    off: Sequence[str]


class Upkeep:
    """Of one region. Raises CacheUnavailable and LedgerUnavailable where a store does not answer."""

    def __init__(self, store: CacheStore, recorder: Recorder, accounts: Accounts) -> None:
        """``recorder`` takes the events; ``accounts`` know the orgs."""
        self._store = store
        self._recorder = recorder
        self._accounts = accounts

    async def standing(self) -> Standing:
        """As it is now."""
        return Standing(rules=await self._store.rules(), off=tuple(sorted(await self._store.switched_off())))

    async def purge(self, rule: PurgeRule, by: By) -> int | None:
        """Every answer that ``rule`` fits is a miss from now on, also those being generated. Returns how many
        rules are in force, 0 where there were too many and everything was purged instead; None for a rule
        that names an org alone, which needs none. Raises BadValue, Unknown, and NotRecorded: purged all the
        same, as a purge must work also while the ledger does not."""
        check(rule)
        orgs = await self._orgs(rule.org)
        in_force: int | None = None
        if rule == PurgeRule(org=rule.org):
            await self._store.purge(OrgId(rule.org))
        else:
            in_force = await self._store.purge_where(rule)
        said = {EVENT_FIELDS[name]: value for name, value in asdict(replace(rule, org="")).items() if value}
        await self._record(orgs, EventType.CACHE_PURGED, said, by)
        return in_force

    async def bar(self, org: str, question: str, entry: str, by: By) -> None:
        """``entry`` does not answer ``question`` any more; the same twice: the answer itself goes. Raises
        BadValue, Unknown, and NotRecorded: barred all the same."""
        check_keys(question=question, entry=entry)
        orgs = await self._orgs(org)
        await self._store.bar(OrgId(org), question, entry)
        context = {"cache_question": question, "cache_entry": entry}
        await self._record(orgs, EventType.CACHE_BARRED, context, by)

    async def _orgs(self, org: str) -> Sequence[str] | None:
        """In whose books a change of ``org``, or of all where that is empty, stands; None where the ledger,
        which knows them, does not answer: the change comes first. Raises Unknown."""
        try:
            known = await self._accounts.orgs()
        except LedgerUnavailable:
            return None
        if org and org not in known:
            raise unknown("org", org, known)
        return [org] if org else known

    async def _record(
        self, orgs: Sequence[str] | None, kind: EventType, said: Mapping[str, str], by: By
    ) -> None:
        context = {**said, "actor": by.actor, "reason": by.reason}
        if orgs is None:
            raise _not_recorded()
        try:
            for org in orgs:
                await self._recorder.note(OrgId(org), kind.value, context)
        except LedgerUnavailable as error:
            raise _not_recorded() from error


def _not_recorded() -> NotRecorded:
    return NotRecorded(
        "done, but the ledger takes no audit event",
        "run the same command again once './tidegate status' says ready",
    )


def check(rule: PurgeRule) -> None:
    """Raises BadValue for a rule that names nothing, or what nothing can be called."""
    named = {name: text for name, text in asdict(rule).items() if text}
    if not named:
        raise BadValue("nothing to purge is named", "name a tenant, a model's revision, a tag, an entry, ...")
    for name, text in named.items():
        if len(text) > NAME_CHARS_MAX or not text.isprintable():
            raise BadValue(
                f"{name}: is too long or has control characters", f"give 1 to {NAME_CHARS_MAX} characters"
            )
    if rule.entry:
        check_keys(entry=rule.entry)


def check_keys(**named: str) -> None:
    """Raises BadValue for a text that is no key of the cache."""
    for name, text in named.items():
        if not is_key(text):
            raise BadValue(f"{name}: {text[:80]!r} is no key of the cache", "give 64 hex digits")
