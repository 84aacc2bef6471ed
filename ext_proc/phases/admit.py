"""The admit filter: may this request go on, how much may it use, do we know the answer already?

    REQUEST_HEADERS -> REQUEST_BODY -> SEARCH -> HOLD_ANSWER -> DECIDED
                                   \\________/    |  ^      ^
                                             |   TURN      |
                                             HIT_HOLD -----+
A stream that dies before its decision was handed to Envoy releases what it holds; one that dies later
does not: whether the decision arrived cannot be known here, and a hold released under a request that
runs would make its tokens free. The access log or expiry then resolves it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import Enum, auto
from typing import Any, ClassVar, Final, NoReturn

from ext_proc.observations import ObserveAdmission
from ext_proc.phases import decision, limits, routing
from ext_proc.phases.hit import barred, hit_deeds, hit_settled, tried_deeds
from ext_proc.phases.plan import Plan, draw_of, make_plan
from ext_proc.phases.search import Answer, Found, Missed, Search, Step
from ext_proc.rules import AdmitRules
from ext_proc.stream import Effects, Machine
from ext_proc.vocabulary import (
    AwaitLanding,
    AwaitTurn,
    Behind,
    CacheAnswered,
    CloseStream,
    Continue,
    Effect,
    Event,
    Expect,
    FlightJoined,
    HoldAnswered,
    Land,
    Landed,
    Note,
    PeerGone,
    Phase,
    RecallAnswered,
    RequestBodyArrived,
    RequestHeadersArrived,
    Reserve,
    TakeTime,
    TurnCame,
    Void,
)
from ext_proc.waiting import pause_before_retry
from gateway.budget.ledger import Granted, Refused
from gateway.contract.errors import (
    ContentTooLarge,
    GatewayError,
    NotCached,
    RequestsLimited,
    Unavailable,
)
from gateway.contract.headers import CACHE_FEEDBACK_KEPT, WORKFLOW_KEPT
from gateway.contract.ids import AccountId, RequestId
from gateway.contract.principal import Principal
from gateway.contract.units import Seconds, UnixMillis
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
    SEARCH = auto()
    """Is the answer known already? (search.py)"""
    HIT_HOLD = auto()
    """It is, and it has a price."""
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
        self._cache_feedback = ""
        self._workflow = ""
        self._hidden: tuple[str, ...] = ()
        self._plan: Plan | None = None
        self._search: Search | None = None
        self._missed = Missed(reason="", looked=False)
        self._hit: tuple[Effect, ...] = ()
        """The answer of a hit that is being paid."""
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
        self._cache_feedback = event.headers.get(CACHE_FEEDBACK_KEPT, "")
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
            cache_feedback=self._cache_feedback,
            workflow=self._workflow,
        )
        self._wait_left = plan.wait_max
        self._search = Search(plan)
        stage, effects = self._follow(self._search.begin(), event.at_ms)
        return stage, (*barred(plan), *effects)

    def _searched(self, event: Answer) -> tuple[AdmitStage, Effects]:
        return self._follow(self._searching().receive(event), event.at_ms)

    def _follow(self, step: Step, now: UnixMillis) -> tuple[AdmitStage, Effects]:
        match step:
            case Found():
                return self._answered(step, now)
            case Missed():
                return self._not_found(step)
            case AwaitLanding(at_most=at_most):
                return AdmitStage.SEARCH, (*self._take_time(Seconds(at_most + self._wait_left)), step)
            case question:
                return AdmitStage.SEARCH, (question,)

    def _answered(self, found: Found, now: UnixMillis) -> tuple[AdmitStage, Effects]:
        plan = self._planned()
        try:
            reply = decision.from_cache(plan, found, now=now, trace=self._searching().trace)
        except NotReplayable:
            return self._not_found(Missed(reason="damaged", looked=True))
        hit = (*hit_deeds(plan, found), self._observed("hit"), reply, CloseStream())
        if plan.caching.rule.hit_micro_usd:
            self._hit = hit
            return AdmitStage.HIT_HOLD, (*self._land(), Reserve(request=plan.hit_request()))
        return AdmitStage.DECIDED, (*self._land(), *hit)

    def _not_found(self, missed: Missed) -> tuple[AdmitStage, Effects]:
        """Raises NotCached where the client wants an engine's answer in no case."""
        plan = self._planned()
        self._missed = missed
        if plan.caching.directives.only_if_cached:
            self._reply_headers = decision.not_cached_headers(missed, self._searching().trace)
            raise NotCached(f"The cache has no answer that may be served ({missed.reason}).")
        untold = self._searching().untold()
        expected = () if untold is None else (Expect(ask=untold),)
        deeds = (missed.observed, *expected, *tried_deeds(plan, missed))
        return AdmitStage.HOLD_ANSWER, (*deeds, self._asked(plan))

    def _hit_paid(self, event: HoldAnswered) -> tuple[AdmitStage, Effects]:
        plan, answer = self._planned(), event.answer
        if isinstance(answer, Refused | Behind):
            self._refuse_for_money(answer)
        if not isinstance(answer, Granted):
            raise answer
        return AdmitStage.DECIDED, (hit_settled(plan, answer), *self._hit)

    def _held(self, event: HoldAnswered) -> tuple[AdmitStage, Effects]:
        plan, answer = self._planned(), event.answer
        if isinstance(answer, Refused | Behind):
            return self._wait_or_refuse(plan, answer)
        if not isinstance(answer, Granted):
            raise answer
        self._granted = answer
        place = self._searching().place()
        reply = decision.metered(plan, answer, missed=self._missed, place=place, now=event.at_ms)
        reply = routing.toward_engine(reply, plan.request.endpoint, self._hidden)
        self._granted, self._search = None, None
        return AdmitStage.DECIDED, (self._observed("metered"), reply, CloseStream())

    def _wait_or_refuse(self, plan: Plan, answer: Refused | Behind) -> tuple[AdmitStage, Effects]:
        """Raises what the client is told when waiting is of no use."""
        # Behind says nothing of the budget: what the ledger said before it is the better reason.
        self._last_no = answer if isinstance(answer, Refused) or self._last_no is None else self._last_no
        pause = pause_before_retry(answer, self._wait_left)
        if pause is None:
            self._refuse_for_money(self._last_no)
        account = answer.account if isinstance(answer, Behind) else answer.standing.account
        return AdmitStage.TURN, (*self._take_time(self._wait_left), self._turn(plan, account, pause))

    def _take_time(self, wait: Seconds) -> tuple[TakeTime, ...]:
        """Envoy takes it once: the first that waits asks for all waits."""
        if self._waits:
            return ()
        self._waits = True
        # Beyond the wait what the last try and the reply may take.
        return (TakeTime(at_most=Seconds(wait + hop("admit").deadline / 1000)),)

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
        return AdmitStage.CLOSED, self._land()

    def _gone_after(self, _: PeerGone | Answer) -> tuple[AdmitStage, Effects]:
        return self.stage, ()

    def _joined_for_nobody(self, event: FlightJoined) -> tuple[AdmitStage, Effects]:
        if self._search is not None:
            self._search.receive(event)
        return self.stage, self._land()

    def _gone_while_holding(self, _: PeerGone) -> tuple[AdmitStage, Effects]:
        if self._granted is not None:  # granted, and then we failed to say so
            return AdmitStage.CLOSED, (self._void(UNDECIDED), *self._land())
        return AdmitStage.ABANDONED, ()

    def _held_for_nobody(self, event: HoldAnswered) -> tuple[AdmitStage, Effects]:
        if isinstance(event.answer, Refused | Behind):
            return AdmitStage.CLOSED, self._land()
        if isinstance(event.answer, Granted):
            self._granted = event.answer
        return AdmitStage.CLOSED, (self._void(ABANDONED), *self._land())

    # --- replies ---

    def _unmetered(self, phase: Phase) -> tuple[AdmitStage, Effects]:
        request_id, principal = self._caller()
        note = decision.unmetered_note(request_id, principal)
        reply = decision.unmetered(phase, request_id, principal)
        return AdmitStage.DECIDED, (self._observed("unmetered"), note, reply, CloseStream())

    @staticmethod
    def _asked(plan: Plan) -> Reserve:
        priority = plan.tier.priority if plan.wait_max > 0 else None
        return Reserve(request=plan.hold_request(), priority=priority)

    def _refused(self, error: GatewayError) -> Effects:
        """The error as the reply, noted unless the ledger has written its own event."""
        unavailable = isinstance(error, Unavailable)
        # Who only stood behind others was never the ledger's to note.
        asked = self.stage in (AdmitStage.HIT_HOLD, AdmitStage.HOLD_ANSWER, AdmitStage.TURN)
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
            record=decision.refusal_record(
                self._plan, self._request_id, principal, self._missed, hold=asked and unavailable
            ),
            headers=self._reply_headers,
        )
        return (*effects, *self._land(), reply, CloseStream())

    def _land(self) -> Effects:
        """What is not asked of an engine will not be stored."""
        search = self._search
        if search is None or not search.leads:
            return ()
        self._search = None
        return (Land(org=self._planned().principal.org, key=search.key),)

    # --- what the stages know ---

    def _caller(self) -> tuple[RequestId, Principal]:
        if self._request_id is None or self._principal is None:
            raise AssertionError("no step runs before the headers have been read")
        return self._request_id, self._principal

    def _planned(self) -> Plan:
        if self._plan is None:
            raise AssertionError("no question is asked before there is a plan")
        return self._plan

    def _searching(self) -> Search:
        if self._search is None:
            raise AssertionError("a search begins with its plan, and lasts until the decision")
        return self._search

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
        (AdmitStage.SEARCH, CacheAnswered): _searched,
        (AdmitStage.SEARCH, RecallAnswered): _searched,
        (AdmitStage.SEARCH, FlightJoined): _searched,
        (AdmitStage.SEARCH, Landed): _searched,
        (AdmitStage.SEARCH, PeerGone): _gone,
        (AdmitStage.HIT_HOLD, HoldAnswered): _hit_paid,
        (AdmitStage.HIT_HOLD, PeerGone): _gone_while_holding,
        (AdmitStage.HOLD_ANSWER, HoldAnswered): _held,
        (AdmitStage.HOLD_ANSWER, PeerGone): _gone_while_holding,
        (AdmitStage.TURN, TurnCame): _may_try,
        (AdmitStage.TURN, PeerGone): _gone,
        (AdmitStage.ABANDONED, HoldAnswered): _held_for_nobody,
        (AdmitStage.ABANDONED, PeerGone): _gone_after,
        (AdmitStage.DECIDED, PeerGone): _gone_after,
        (AdmitStage.CLOSED, CacheAnswered): _gone_after,
        (AdmitStage.CLOSED, RecallAnswered): _gone_after,
        (AdmitStage.CLOSED, FlightJoined): _joined_for_nobody,
        (AdmitStage.CLOSED, PeerGone): _gone_after,
    }
