"""What replay knew at a record, as bytes and back: it stands for the segments that were archived and removed.

Canonical JSON: the same state has the same bytes, whose SHA-256 is kept in ``base.json``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Final

import orjson

from gateway.bookkeeper.replay import CounterState, OrgState
from gateway.budget.certainty import Certainty
from gateway.budget.ledger import LeaseState, Outcome
from gateway.budget.measure import Amounts
from gateway.budget.outbox import window_of, window_text
from gateway.budget.rebuilt import RebuiltHold, RebuiltLease, RebuiltOverride
from gateway.contract.ids import AccountId, HoldId, OrgId
from gateway.contract.units import UnixMillis

VERSION: Final = 2


class BadCheckpoint(ValueError):
    """Not what ``dump`` wrote."""


def dump(orgs: Mapping[OrgId, OrgState]) -> bytes:
    """The state of every org."""
    fields = {"version": VERSION, "orgs": {name: _org_fields(state) for name, state in orgs.items()}}
    return orjson.dumps(fields, option=orjson.OPT_SORT_KEYS | orjson.OPT_APPEND_NEWLINE)


def load(data: bytes) -> dict[OrgId, OrgState]:
    """What ``dump`` wrote. Raises BadCheckpoint."""
    try:
        fields = orjson.loads(data)
        if fields["version"] != VERSION:
            raise BadCheckpoint(f"version {fields['version']}: this program reads {VERSION}")
        return {OrgId(name): _org_of(org) for name, org in fields["orgs"].items()}
    except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        raise BadCheckpoint(f"{type(error).__name__} in the checkpoint") from None


def _org_fields(state: OrgState) -> dict[str, Any]:
    return {
        "clock_ms": state.clock_ms,
        "counters": {name: asdict(one) for name, one in state.counters.items()},
        "holds": {name: asdict(one) for name, one in state.holds.items()},
        "leases": {name: asdict(one) for name, one in state.leases.items()},
        "overrides": {
            name: {"windows": [window_text(window) for window in one.windows], "frozen": one.frozen}
            for name, one in state.overrides.items()
        },
        "adjusted": state.adjusted,
    }


def _org_of(fields: Mapping[str, Any]) -> OrgState:
    return OrgState(
        clock_ms=fields["clock_ms"],
        counters={name: CounterState(**one) for name, one in fields["counters"].items()},
        holds={HoldId(name): _hold_of(one) for name, one in fields["holds"].items()},
        leases={HoldId(name): _lease_of(one) for name, one in fields["leases"].items()},
        overrides={
            AccountId(name): RebuiltOverride(
                windows=tuple(window_of(text) for text in one["windows"]), frozen=one["frozen"]
            )
            for name, one in fields["overrides"].items()
        },
        adjusted={HoldId(name): UnixMillis(until) for name, until in fields["adjusted"].items()},
    )


def _hold_of(fields: Mapping[str, Any]) -> RebuiltHold:
    return RebuiltHold(
        **{
            **fields,
            "windows": tuple(fields["windows"]),
            "amounts": Amounts(**fields["amounts"]),
            "posted": Amounts(**fields["posted"]),
            "outcome": Outcome(fields["outcome"]),
            "certainty": Certainty(fields["certainty"]),
        }
    )


def _lease_of(fields: Mapping[str, Any]) -> RebuiltLease:
    return RebuiltLease(
        **{
            **fields,
            "windows": tuple(fields["windows"]),
            "rest": Amounts(**fields["rest"]),
            "state": LeaseState(fields["state"]),
        }
    )
