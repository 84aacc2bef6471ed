"""What a hit, or a client's word about one, leaves behind: notes, metrics, a price, a check."""

from __future__ import annotations

from ext_proc.observations import ObserveLookup
from ext_proc.phases.caching import drawn
from ext_proc.phases.plan import Plan, draw_of
from ext_proc.phases.search import Found, Missed
from ext_proc.recall.words import Served
from ext_proc.vocabulary import Bar, Deed, Note, Settle, Verify
from gateway.budget.certainty import Certainty
from gateway.budget.ledger import Granted
from gateway.events.event import EventType
from gateway.openai.stored_answer import NotReplayable, read_stored


def hit_deeds(plan: Plan, found: Found) -> tuple[Deed, ...]:
    """Deeds of a hit, but its price. A drawn share of those that could be false is verified off the path."""
    context = {**plan.context, "cache_kind": found.kind.value, "cache_entry": found.answer.entry}
    if found.bucket and plan.caching.sought is not None:
        # With the entry it names the pair that an operator can bar.
        context |= {"cache_bucket": found.bucket, "cache_question": plan.caching.sought.keys.exact}
    note = Note(org=plan.principal.org, kind=EventType.CACHE_HIT.value, context=context)
    observed = ObserveLookup(result="hit", reason=found.kind.value)
    if not found.bucket or not drawn(plan.request_id, found.share):
        return observed, note
    return observed, note, Verify(served=_served(plan, found))


def tried_deeds(plan: Plan, missed: Missed) -> tuple[Deed, ...]:
    """What would have been a hit is verified as one, unless it could not have been replayed."""
    tried = missed.tried
    if tried is None or not drawn(plan.request_id, tried.share):
        return ()
    try:
        return (Verify(served=_served(plan, tried)),)
    except NotReplayable:
        return ()


def hit_settled(plan: Plan, grant: Granted) -> Settle:
    """What a hit costs is known."""
    return Settle(
        org=plan.principal.org,
        hold=grant.hold,
        used=grant.amounts,
        certainty=Certainty.EXACT,
        detail={"finish_reason": "cache_hit"},
        draw=draw_of(plan, grant),
    )


def barred(plan: Plan) -> tuple[Deed, ...]:
    """What the client says of an earlier hit: that entry does not answer this question."""
    wrong, sought = plan.caching.directives.wrong_entry, plan.caching.sought
    if not wrong or sought is None:
        return ()
    asked = sought.keys.exact
    context = {**plan.context, "cache_entry": wrong, "reason": "client_feedback"}
    return (
        Bar(org=plan.principal.org, asked=asked, entry=wrong),
        Note(org=plan.principal.org, kind=EventType.CACHE_BARRED.value, context=context),
    )


def _served(plan: Plan, found: Found) -> Served:
    sought = plan.caching.sought
    if sought is None:
        raise AssertionError("only what may be cached is sought")
    return Served(
        org=plan.principal.org,
        model=plan.model.name,
        bucket=found.bucket,
        asked=sought.keys.exact,
        entry=found.answer.entry,
        request=plan.request.engine_body(
            model=plan.model.name, max_tokens=plan.wanted, rid="", priority=0, cache_salt=""
        ),
        answer=read_stored(found.answer.body)[0],
        slo=plan.caching.rule.false_hit_slo,
    )
