"""The admit filter: may this request go on, how much may it use, do we know the answer already?

    REQUEST_HEADERS -> REQUEST_BODY -> CACHE_ANSWER -> HOLD_ANSWER -> DECIDED
                                   \\______________/    |  ^
                                                       TURN
A stream that dies before its decision was handed to Envoy releases what it holds; one that dies later
does not: whether the decision arrived cannot be known here, and a hold released under a request that
runs would make its tokens free. The access log or expiry then resolves it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from enum import Enum, auto
from typing import Any, ClassVar, Final, NoReturn

from ext_proc.cache.policy import Place
from ext_proc.phases import decision, limits, routing
from ext_proc.phases.plan import Plan, draw_of, make_plan
from ext_proc.rules import AdmitRules
from ext_proc.stream import Effects, Machine
from ext_proc.vocabulary import (
    AskCache,
    AwaitTurn,
    Behind,
    CacheAnswered,
    CloseStream,
    Continue,
    Event,
    HoldAnswered,
    Note,
    ObserveAdmission,
    ObserveLookup,
    PeerGone,
    Phase,
    RequestBodyArrived,
    RequestHeadersArrived,
    Reserve,
    TakeTime,
    TurnCame,
    Void,
)
from ext_proc.waiting import pause_before_retry
from gateway.budget.admission import AdmissionRecord, CacheStatus, Verdict
from gateway.budget.ledger import Granted, Refused
from gateway.contract.errors import ContentTooLarge, GatewayError, RequestsLimited, Unavailable
from gateway.contract.headers import WORKFLOW_KEPT
from gateway.contract.ids import AccountId, RequestId
from gateway.contract.principal import Principal
from gateway.contract.units import Seconds
from gateway.events.event import EventType
from gateway.openai.replay import NotReplayable
from gateway.openai.terms import Endpoint
from gateway.path import BODY_BYTES_MAX, hop

ABANDONED: Final = "client_gone"
"""Reasons of a void."""
UNDECIDED: Final = "admission_failed"
_OPEN_ENDED: Final = "ok"
"""Label ``code`` of an admission that was not refused."""


class AdmitStage(Enum):
    """Where a request stands."""

    REQUEST_HEADERS = auto()
    REQUEST_BODY = auto()
    CACHE_ANSWER = auto()
    HOLD_ANSWER = auto()
    TURN = auto()
    """It cannot be paid now and waits for its turn to try again."""
    DECIDED = auto()
    ABANDONED = auto()
    """The peer is gone while the ledger works on the hold."""
    CLOSED = auto()
    """The peer is gone and nothing is left to do."""


class Admit(Machine[AdmitStage]):
    """One downstream request."""

    def __init__(self, rules: AdmitRules) -> None:
        """``rules``: the snapshot this request is decided by."""
        super().__init__(AdmitStage.REQUEST_HEADERS)
        self._rules = rules
        self._began_s = 0.0
        self._request_id: RequestId | None = None
        self._principal: Principal | None = None
        self._endpoint: Endpoint | None = None
        self._cache_control = ""
        self._workflow = ""
        self._hidden: tuple[str, ...] = ()
        self._plan: Plan | None = None
        self._cache = CacheStatus.BYPASS
        self._store_under = ""
        self._granted: Granted | None = None
        self._waits = False
        """Whether Envoy has been told to wait."""
        self._wait_left = Seconds(0)
        self._last_no: Refused | Behind | None = None
        self._reply_headers: Mapping[str, str] = {}

    @property
    def decided(self) -> bool:
        """See Machine."""
        return self.stage is AdmitStage.DECIDED

    def receive(self, event: Event) -> Effects:
        """Advance by one event; a refusal of any step becomes the reply. Raises OutOfOrder."""
        try:
            return super().receive(event)
        except GatewayError as error:
            effects = self._refused(error)
            self.stage = AdmitStage.DECIDED
            return effects

    # --- steps ---

    def _headers(self, event: RequestHeadersArrived) -> tuple[AdmitStage, Effects]:
        self._began_s = event.at_s
        self._request_id = routing.request_id_of(event.headers)
        self._principal = routing.principal_from(event.principal)
        routing.refuse_crowded(count=event.header_count, size_bytes=event.header_bytes)
        self._cache_control = event.headers.get("cache-control", "")
        self._workflow = event.headers.get(WORKFLOW_KEPT, "")
        self._hidden = routing.hidden_from_engines(event.headers)
        self._endpoint = routing.endpoint_asked(event.headers, end_of_stream=event.end_of_stream)
        if event.end_of_stream:
            return self._unmetered(Phase.REQUEST_HEADERS)
        return AdmitStage.REQUEST_BODY, (Continue(phase=Phase.REQUEST_HEADERS),)

    def _body(self, event: RequestBodyArrived) -> tuple[AdmitStage, Effects]:
        self._began_s = event.at_s
        if len(event.body) > BODY_BYTES_MAX:
            raise ContentTooLarge(f"The request body is larger than {BODY_BYTES_MAX // 1024**2} MiB.")
        if self._endpoint is None:
            return self._unmetered(Phase.REQUEST_BODY)
        request_id, principal = self._caller()
        plan = self._plan = make_plan(
            self._rules,
            request_id=request_id,
            principal=principal,
            endpoint=self._endpoint,
            body=event.body,
            cache_control=self._cache_control,
            workflow=self._workflow,
        )
        self._wait_left = plan.wait_max
        if plan.cache_key:
            return AdmitStage.CACHE_ANSWER, (AskCache(org=principal.org, key=plan.cache_key),)
        return self._reserve(plan, ObserveLookup(result="bypass"))

    def _looked_up(self, event: CacheAnswered) -> tuple[AdmitStage, Effects]:
        plan = self._planned()
        if event.lookup is None:
            return self._reserve(plan, ObserveLookup(result="unavailable"))
        self._store_under = Place(
            key=plan.cache_key, epoch=event.lookup.epoch, ttl_seconds=plan.cache_rule.ttl_seconds
        ).to_text()
        if not plan.directives.read:
            return self._reserve(plan, ObserveLookup(result="bypass"))
        self._cache = CacheStatus.MISS
        answer, most = event.lookup.answer, plan.directives.max_age_s
        if answer is not None and (most is None or event.at_ms - answer.stored_at <= most * 1000):
            try:
                reply = decision.from_cache(plan, answer, now=event.at_ms)
            except NotReplayable:
                return self._reserve(plan, ObserveLookup(result="miss"))
            note = Note(org=plan.principal.org, kind=EventType.CACHE_HIT.value, context=plan.context)
            observed = (ObserveLookup(result="hit"), self._observed("hit"))
            return AdmitStage.DECIDED, (*observed, note, reply, CloseStream())
        return self._reserve(plan, ObserveLookup(result="miss"))

    def _held(self, event: HoldAnswered) -> tuple[AdmitStage, Effects]:
        plan, answer = self._planned(), event.answer
        if isinstance(answer, Refused | Behind):
            return self._wait_or_refuse(plan, answer)
        if not isinstance(answer, Granted):
            raise answer
        self._granted = answer
        reply = decision.metered(
            plan, answer, cache=self._cache, store_under=self._store_under, now=event.at_ms
        )
        reply = routing.toward_engine(reply, plan.request.endpoint, self._hidden)
        self._granted = None
        return AdmitStage.DECIDED, (self._observed("metered"), reply, CloseStream())

    def _wait_or_refuse(self, plan: Plan, answer: Refused | Behind) -> tuple[AdmitStage, Effects]:
        """Raises what the client is told when waiting is of no use."""
        # Behind says nothing of the budget: what the ledger said before it is the better reason.
        self._last_no = answer if isinstance(answer, Refused) or self._last_no is None else self._last_no
        pause = pause_before_retry(answer, self._wait_left)
        if pause is None:
            self._refuse_for_money(self._last_no)
        account = answer.account if isinstance(answer, Behind) else answer.standing.account
        effects: list[Any] = []
        if not self._waits:
            self._waits = True
            # Beyond the wait what the last try and the reply may take.
            effects.append(TakeTime(at_most=Seconds(self._wait_left + hop("admit").deadline / 1000)))
        effects.append(self._turn(plan, account, pause))
        return AdmitStage.TURN, tuple(effects)

    def _turn(self, plan: Plan, account: AccountId, pause: Seconds) -> AwaitTurn:
        return AwaitTurn(
            org=plan.principal.org,
            hold=plan.hold,
            account=account,
            priority=plan.tier.priority,
            pause=pause,
            at_most=self._wait_left,
        )

    def _may_try(self, event: TurnCame) -> tuple[AdmitStage, Effects]:
        self._wait_left = event.left
        if event.left <= 0:
            self._refuse_for_money(self._last_no)
        return AdmitStage.HOLD_ANSWER, (self._asked(self._planned()),)

    def _refuse_for_money(self, reason: Refused | Behind | None) -> NoReturn:
        """Raises RateLimited, QuotaExceeded or one of their kinds."""
        if isinstance(reason, Refused):
            self._reply_headers = limits.refusal_headers(reason)
            raise limits.refusal_error(reason)
        raise RequestsLimited(
            "Other requests of this organization have waited for their turn for longer. Please try again"
            " later.",
            retry_after_s=1,
        )

    def _gone(self, _: PeerGone) -> tuple[AdmitStage, Effects]:
        return AdmitStage.CLOSED, ()

    def _gone_after(self, _: PeerGone | CacheAnswered) -> tuple[AdmitStage, Effects]:
        return self.stage, ()

    def _gone_while_holding(self, _: PeerGone) -> tuple[AdmitStage, Effects]:
        if self._granted is not None:  # granted, and then we failed to say so
            return AdmitStage.CLOSED, (self._void(UNDECIDED),)
        return AdmitStage.ABANDONED, ()

    def _held_for_nobody(self, event: HoldAnswered) -> tuple[AdmitStage, Effects]:
        if isinstance(event.answer, Refused | Behind):
            return AdmitStage.CLOSED, ()
        if isinstance(event.answer, Granted):
            self._granted = event.answer
        return AdmitStage.CLOSED, (self._void(ABANDONED),)

    # --- replies ---

    def _unmetered(self, phase: Phase) -> tuple[AdmitStage, Effects]:
        request_id, principal = self._caller()
        note = Note(
            org=principal.org,
            kind=EventType.REQUEST_UNMETERED.value,
            context={"request_id": request_id, "team": principal.team, "key": principal.key},
        )
        reply = decision.unmetered(phase, request_id, principal)
        return AdmitStage.DECIDED, (self._observed("unmetered"), note, reply, CloseStream())

    def _reserve(self, plan: Plan, observed: ObserveLookup) -> tuple[AdmitStage, Effects]:
        return AdmitStage.HOLD_ANSWER, (observed, self._asked(plan))

    @staticmethod
    def _asked(plan: Plan) -> Reserve:
        priority = plan.tier.priority if plan.wait_max > 0 else None
        return Reserve(request=plan.hold_request(), priority=priority)

    def _refused(self, error: GatewayError) -> Effects:
        """The error as the reply, noted unless the ledger has written its own event."""
        unavailable = isinstance(error, Unavailable)
        # Who only stood behind others was never the ledger's to note.
        asked = self.stage in (AdmitStage.HOLD_ANSWER, AdmitStage.TURN)
        asked = asked and (unavailable or not isinstance(self._last_no, Behind))
        effects: list[Any] = [self._observed("unavailable" if unavailable else "refused", error.code)]
        principal = self._principal
        if principal is not None and not unavailable and not asked:
            context = {"request_id": self._request_id or "", "code": error.code, "key": principal.key}
            context |= {"team": principal.team, "endpoint": self._endpoint.value if self._endpoint else ""}
            effects.append(Note(org=principal.org, kind=EventType.REQUEST_REFUSED.value, context=context))
        if asked and unavailable:
            effects.append(self._void(UNDECIDED))  # the ledger may have held before its answer was lost
        reply = decision.refused(
            error,
            request_id=self._request_id,
            record=self._refusal_record(hold=asked and unavailable),
            headers=self._reply_headers,
        )
        return (*effects, reply, CloseStream())

    def _refusal_record(self, *, hold: bool) -> AdmissionRecord | None:
        if self._plan is not None:
            record = decision.planned_record(Verdict.REFUSED, self._plan)
            return replace(record, hold=self._plan.hold) if hold else record
        if self._principal is None or self._request_id is None:
            return None
        return decision.plain_record(Verdict.REFUSED, self._request_id, self._principal)

    # --- what the stages know ---

    def _caller(self) -> tuple[RequestId, Principal]:
        if self._request_id is None or self._principal is None:
            raise AssertionError("no step runs before the headers have been read")
        return self._request_id, self._principal

    def _planned(self) -> Plan:
        if self._plan is None:
            raise AssertionError("no question is asked before there is a plan")
        return self._plan

    def _void(self, reason: str) -> Void:
        plan = self._planned()
        draw = draw_of(plan, self._granted) if self._granted is not None else None
        return Void(org=plan.principal.org, hold=plan.hold, reason=reason, draw=draw)

    def _observed(self, verdict: str, code: str = _OPEN_ENDED) -> ObserveAdmission:
        return ObserveAdmission(verdict=verdict, code=code, began_s=self._began_s)

    steps: ClassVar[Mapping[tuple[Enum, type], Callable[..., tuple[Enum, Effects]]]] = {
        (AdmitStage.REQUEST_HEADERS, RequestHeadersArrived): _headers,
        (AdmitStage.REQUEST_HEADERS, PeerGone): _gone,
        (AdmitStage.REQUEST_BODY, RequestBodyArrived): _body,
        (AdmitStage.REQUEST_BODY, PeerGone): _gone,
        (AdmitStage.CACHE_ANSWER, CacheAnswered): _looked_up,
        (AdmitStage.CACHE_ANSWER, PeerGone): _gone,
        (AdmitStage.HOLD_ANSWER, HoldAnswered): _held,
        (AdmitStage.HOLD_ANSWER, PeerGone): _gone_while_holding,
        (AdmitStage.TURN, TurnCame): _may_try,
        (AdmitStage.TURN, PeerGone): _gone,
        (AdmitStage.ABANDONED, HoldAnswered): _held_for_nobody,
        (AdmitStage.ABANDONED, PeerGone): _gone_after,
        (AdmitStage.DECIDED, PeerGone): _gone_after,
        (AdmitStage.CLOSED, CacheAnswered): _gone_after,
        (AdmitStage.CLOSED, PeerGone): _gone_after,
    }
