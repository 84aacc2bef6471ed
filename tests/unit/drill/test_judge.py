"""The judge on books made by hand: each way in which money can go wrong is a figure above 0."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from gateway.events.event import Event, EventType
from inference.twin.truth import Attempt
from mesh.drill.crash import Toll
from mesh.drill.judge import (
    AccountBooks,
    BookFigures,
    Ending,
    Reconciled,
    Seen,
    book_figures,
    ending_of,
)

ORG = "acme"
NOBODY_DIED = Toll(kills_by_label={})


def attempt(rid: str, tokens: int, *, outcome: str = "stop", number: int = 0) -> Attempt:
    """10 prompt tokens, and ``tokens`` in all."""
    return Attempt(
        attempt=number,
        rid=rid,
        path="/v1/chat/completions",
        model="m",
        stream=True,
        priority=0,
        start_ms=1,
        prompt_tokens=10,
        completion_tokens=tokens - 10,
        outcome=outcome,
        end_ms=2,
    )


def event(kind: EventType, rid: str, **changes: Any) -> Event:
    made = Event(
        id=f"{ORG}/{rid}/{kind}",
        type=kind,
        at_ms=1,
        region="r",
        org=ORG,
        request_id=rid,
        hold=rid,
        amounts={"held": "100"},
        accounts=("org|month|0", "key/k|month|0"),
    )
    return dataclasses.replace(made, **changes)


def granted(*rids: str) -> list[Event]:
    return [event(EventType.HOLD_GRANTED, rid) for rid in rids]


def settled(*rids: str) -> list[Event]:
    return [event(EventType.HOLD_SETTLED, rid) for rid in rids]


def books(used: int, *, limit: int = 1_000, held: int = 0) -> list[AccountBooks]:
    return [
        AccountBooks(org=ORG, account="org", limit=-1, used=used, held=held),
        AccountBooks(org=ORG, account="key/k", limit=limit, used=used, held=held),
    ]


def figures(
    attempts: list[Attempt],
    events: list[Event],
    accounts: list[AccountBooks],
    *,
    reconciled: Reconciled | None = None,
    seen: tuple[Seen, ...] = (),
    toll: Toll = NOBODY_DIED,
) -> BookFigures:
    return book_figures(attempts, events, accounts, reconciled or Reconciled(), seen, toll)


CLEAN = ([attempt("a", 30), attempt("b", 50)], [*granted("a", "b"), *settled("a", "b")])


def test_books_that_say_what_was_produced_are_clean() -> None:
    found = figures(*CLEAN, books(80))
    assert (found.produced, found.used, found.holds) == (80, 80, 2)
    assert (found.overspent, found.drift, found.unknown, found.leaked_holds) == (0, 0, 0, 0)


def test_what_was_charged_twice_or_not_at_all_is_drift_on_every_account() -> None:
    assert figures(*CLEAN, books(130)).drift == 100
    assert figures(*CLEAN, books(30)).drift == 100


def test_opposite_errors_of_two_accounts_do_not_cancel() -> None:
    org, key = books(80)
    pair = [dataclasses.replace(org, used=90), dataclasses.replace(key, used=70)]
    assert figures(*CLEAN, pair).drift == 20


def test_production_beyond_the_limit_is_overspent_though_the_books_agree() -> None:
    found = figures(*CLEAN, books(80, limit=75))
    assert (found.overspent, found.drift) == (5, 0)


def test_a_hold_that_never_ends_is_leaked() -> None:
    attempts, _ = CLEAN
    assert figures(attempts, [*granted("a", "b"), *settled("a")], books(80, held=100)).leaked_holds == 1


def test_held_tokens_without_a_hold_are_leaked_too() -> None:
    assert figures(*CLEAN, books(80, held=7)).leaked_holds == 2


def test_a_lease_that_is_out_is_leaked() -> None:
    attempts, events = CLEAN
    events = [*events, event(EventType.LEASE_GRANTED, "lease/1")]
    assert figures(attempts, events, books(80)).leaked_holds == 1
    events = [*events, event(EventType.LEASE_RETURNED, "lease/1")]
    assert figures(attempts, events, books(80)).leaked_holds == 0


def test_what_stays_unknown_is_no_drift_and_bounded_by_the_holds_of_lost_taps() -> None:
    attempts, events = CLEAN
    reconciled = Reconciled(
        unknown={"b": 100}, unknown_windows={"b": (ORG, ("org|month|0", "key/k|month|0"))}
    )
    toll = Toll(kills_by_label={}, lost_taps=frozenset({"b"}))
    found = figures(attempts, events, books(130), reconciled=reconciled, toll=toll)
    assert (found.drift, found.unknown, found.unknown_most, found.unexplained) == (0, 100, 100, 0)
    found = figures(attempts, events, books(130), reconciled=reconciled)
    assert (found.unknown_most, found.unexplained) == (0, 100)


def test_what_is_unknown_in_one_org_is_nothing_to_another() -> None:
    attempts, events = CLEAN
    reconciled = Reconciled(unknown={"x": 100}, unknown_windows={"x": ("other", ("org|month|0",))})
    other = AccountBooks(org="other", account="org", limit=-1, used=100, held=0)
    assert figures(attempts, events, [*books(80), other], reconciled=reconciled).drift == 0


def lease(kind: EventType, name: str, rest: int) -> Event:
    return event(kind, f"lease/{name}/1", amounts={"held": str(rest)})


def kept(**tokens: int) -> Reconciled:
    """Leases that stay charged, by worker."""
    windows = (ORG, ("org|month|0",))
    return Reconciled(
        unknown={f"lease/{name}/1": count for name, count in tokens.items()},
        unknown_windows={f"lease/{name}/1": windows for name in tokens},
    )


LEASED = [lease(EventType.LEASE_GRANTED, "w", 90), lease(EventType.LEASE_EXPIRED, "w", 60)]
W_DIED = Toll(kills_by_label={}, drawn=frozenset({"whose"}), workers=frozenset({"w"}))


@pytest.mark.parametrize(
    ("toll", "drift"),
    [
        (W_DIED, 0),
        (NOBODY_DIED, 40),
        (dataclasses.replace(W_DIED, drawn=frozenset()), 40),
    ],
)
def test_tokens_of_a_request_that_no_event_names_are_drift_unless_a_dead_workers_lease_pays(
    toll: Toll, drift: int
) -> None:
    attempts, events = CLEAN
    attempts = [*attempts, attempt("whose", 40)]
    assert figures(attempts, events, books(80), toll=toll).drift == 40, "no lease stays charged"
    org, key = books(80)
    found = figures(
        attempts,
        [*events, *LEASED],
        [dataclasses.replace(org, used=140), key],
        reconciled=kept(w=60),
        toll=toll,
    )
    assert found.drift == drift


def test_leases_may_be_unknown_only_where_a_draw_is_untold_and_only_those_of_killed_workers() -> None:
    attempts, events = CLEAN
    untold = [*attempts, attempt("whose", 40)]
    other = [lease(EventType.LEASE_GRANTED, "v", 50), lease(EventType.LEASE_EXPIRED, "v", 50)]

    def judged(attempts: list[Attempt]) -> tuple[int, int, int]:
        reconciled = kept(w=60, v=50)
        found = figures(attempts, [*events, *LEASED, *other], books(80), reconciled=reconciled, toll=W_DIED)
        return found.untold, found.unknown_most, found.unexplained

    assert judged(untold) == (1, 60, 50)
    assert judged(attempts) == (0, 0, 110)
    back = lease(EventType.LEASE_RETURNED, "w", 60)
    assert figures(untold, [*events, *LEASED, back], books(80), toll=W_DIED).unknown_most == 0


@pytest.mark.parametrize(
    ("attempts", "ending", "drift"),
    [
        ([attempt("a", 30, outcome="client_gone")], Ending.LEFT, 0),
        ([attempt("a", 20, outcome="stop"), attempt("a", 10)], Ending.ANSWERED, 0),
        ([attempt("a", 30)], Ending.LOST, 0),
        ([attempt("a", 30)], Ending.ANSWERED, 40),
    ],
)
def test_waste_counts_only_where_the_truth_log_bears_it_out(
    attempts: list[Attempt], ending: Ending, drift: int
) -> None:
    events = [*granted("a"), *settled("a")]
    seen = (Seen(ending=ending, rid="a"),)
    found = figures(attempts, events, books(10), reconciled=Reconciled(waste={"a": 20}), seen=seen)
    assert (found.drift, found.waste) == (drift, 0 if drift else 20)


@pytest.mark.parametrize(("received", "drift"), [(0, 0), (4, 0), (5, 2), (20, 32)])
def test_what_a_client_had_when_it_left_is_no_waste(received: int, drift: int) -> None:
    """14 are charged of 30: the prompt's 10 and 4 more."""
    seen = (Seen(ending=Ending.LEFT, rid="a", received=received),)
    attempts = [attempt("a", 30, outcome="client_gone")]
    events, reconciled = [*granted("a"), *settled("a")], Reconciled(waste={"a": 16})
    assert figures(attempts, events, books(14), reconciled=reconciled, seen=seen).drift == drift


def test_an_attempt_that_was_refused_has_produced_nothing() -> None:
    attempts = [attempt("a", 30, outcome="refused"), attempt("a", 30, number=1)]
    assert figures(attempts, [*granted("a"), *settled("a")], books(30)).drift == 0


@pytest.mark.parametrize(
    ("status", "code", "whole", "ending"),
    [
        (200, "", True, Ending.ANSWERED),
        (200, "", False, Ending.LOST),
        (429, "insufficient_quota", True, Ending.OVER_BUDGET),
        (503, "admission_unavailable", True, Ending.CLOSED),
        (503, "budget_unavailable", True, Ending.CLOSED),
        (503, "engine_unavailable", True, Ending.LOST),
        (502, "bad_gateway", True, Ending.LOST),
        (0, "", False, Ending.LOST),
    ],
)
def test_a_refusal_by_rule_is_not_lost(status: int, code: str, whole: bool, ending: Ending) -> None:
    assert ending_of(status, code, whole=whole) is ending
