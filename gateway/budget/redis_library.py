"""The text of the Lua library, and the words that Python and Lua exchange.

Arguments are what ``FCALL`` takes; replies are one text with spaces between fields, because a text is read
faster than an array of them, and lists in it are separated by semicolons: no field has either.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Final

from gateway.budget.calendar import zone_offsets
from gateway.budget.certainty import Certainty
from gateway.budget.ledger import Draw, Granted, HoldRequest, Leased, LeaseRequest, Outcome, Refused, Resolved
from gateway.budget.measure import Amounts, Measure
from gateway.budget.outbox import window_text
from gateway.budget.window import UNLIMITED, Account, Enforcement, Standing, Window
from gateway.contract.ids import AccountId, HoldId
from gateway.contract.units import Millis, Tokens, UnixMillis

_PARTS: Final = ("ledger", "ledger_records", "ledger_holds", "ledger_leases", "ledger_verbs")
_ZONES_MAX: Final = 700
"""There are about 600 names."""
_LISTS_MAX: Final = 4096
"""Lists of windows whose text is remembered: a policy shares one among all accounts of a kind."""


@lru_cache(maxsize=1)
def library_text() -> str:
    """The library ``tidegate_ledger_v2``, as FUNCTION LOAD takes it."""
    here = Path(__file__)
    return "".join(here.with_name(f"{part}.lua").read_text(encoding="utf-8") for part in _PARTS)


@lru_cache(maxsize=_ZONES_MAX)
def zone_text(zone: str) -> str:
    """``from offset;from offset;...`` in ms. Raises ValueError for a name that is no zone."""
    return ";".join(f"{begin} {offset}" for begin, offset in zone_offsets(zone))


_texts: dict[int, tuple[tuple[Window, ...], str]] = {}


def windows_text(windows: tuple[Window, ...]) -> str:
    """Remembered by identity: lists live as long as their policy, and hashing them costs more than the rest
    of a call. The list is kept beside its text, so that no other can take its identity."""
    known = _texts.get(id(windows))
    if known is None:
        if len(_texts) >= _LISTS_MAX:
            _texts.clear()
        known = _texts[id(windows)] = (windows, ";".join(map(window_text, windows)))
    return known[1]


def accounts_arguments(accounts: Sequence[Account]) -> list[str | int]:
    """How many, then each with its windows."""
    arguments: list[str | int] = [len(accounts)]
    for account in accounts:
        arguments += (account.id, windows_text(account.windows))
    return arguments


def pairs(values: Mapping[str, str]) -> list[str]:
    """Flat."""
    return [text for pair in values.items() for text in pair]


def reserve_arguments(request: HoldRequest) -> list[str | int]:
    """Of tg2_reserve, after epoch and time."""
    price = request.price
    return [
        *(request.hold, request.fixed, request.choices, request.units_wanted, request.units_needed),
        *(price.prompt, price.completion, price.request, request.ttl, request.policy_version),
        *accounts_arguments(request.accounts),
        *pairs(request.context),
    ]


def lease_arguments(request: LeaseRequest) -> list[str | int]:
    """Of tg2_lease, after epoch and time."""
    return [
        *(request.lease, *request.wanted.numbers(), request.wanted_requests, *request.least.numbers()),
        *(request.share, request.ttl, request.policy_version),
        *accounts_arguments(request.accounts),
        *pairs(request.context),
    ]


def draw_arguments(draw: Draw) -> list[str | int]:
    """One draw."""
    numbers = (*draw.amounts.numbers(), draw.units, draw.expires_at, draw.policy_version)
    windows = " ".join(draw.windows)
    return [draw.lease, draw.hold, *numbers, windows, len(draw.context), *pairs(draw.context)]


def maybe_draw(draw: Draw | None) -> list[str | int]:
    """None or one."""
    return [0] if draw is None else [1, *draw_arguments(draw)]


def used_arguments(used: Amounts, certainty: Certainty) -> tuple[int, ...]:
    """Of tg2_settle: the amounts and how much is known."""
    return *used.numbers(), int(certainty)


def standing_of(text: str) -> Standing:
    """``account|measure|span|limit|used|held|resets|enforcement|frozen``."""
    account, measure, span, limit, used, held, resets_at, enforcement, frozen = text.split("|")
    return Standing(
        account=AccountId(account),
        measure=Measure(measure),
        span=span,
        limit=int(limit),
        used=int(used),
        held=int(held),
        resets_at=UnixMillis(int(resets_at)),
        enforcement=Enforcement(enforcement),
        frozen=frozen == "1",
    )


def _standings(text: str) -> tuple[Standing, ...]:
    return tuple(map(standing_of, text.split(";"))) if text else ()


def _tightest(text: str, more: str) -> dict[Measure, Standing]:
    """``text``: of tokens, as version 1 writes it, or an unlimited window."""
    found = {one.measure: one for one in _standings(more)}
    if text:
        account, span, limit, used, held, resets_at = text.split("|")
        if int(limit) != UNLIMITED:
            found[Measure.TOKENS] = Standing(
                account=AccountId(account),
                measure=Measure.TOKENS,
                span=span,
                limit=int(limit),
                used=int(used),
                held=int(held),
                resets_at=UnixMillis(int(resets_at)),
            )
    return found


def decision_of(hold: HoldId, reply: str) -> Granted | Refused:
    """What tg2_reserve answered."""
    verdict, *fields = reply.split(" ")
    if verdict == "refused":
        needed, retry_after, recalled, standing = fields
        return Refused(
            standing=standing_of(standing),
            needed=int(needed),
            retry_after=Millis(int(retry_after)),
            recalled=recalled == "1",
        )
    units, expires_at, repeated, conflict, lease, tightest, more, over = fields[4:]
    return Granted(
        hold=hold,
        amounts=Amounts.of_numbers(map(int, fields[:4])),
        units=Tokens(int(units)),
        tightest=_tightest(tightest, more),
        expires_at=UnixMillis(int(expires_at)),
        over=_standings(over),
        lease=HoldId(lease),
        repeated=repeated == "1",
        policy_conflict=conflict == "1",
    )


def resolved_of(reply: str) -> Resolved:
    """What tg2_settle, tg2_void and tg2_extend answered."""
    outcome, first, *posted, overdraft = reply.split(" ")
    return Resolved(
        outcome=Outcome(outcome),
        first=first == "1",
        posted=Amounts.of_numbers(map(int, posted)),
        overdraft=Tokens(int(overdraft)),
    )


def leased_of(lease: HoldId, reply: str) -> Leased:
    """What tg2_lease answered, where it made one."""
    *amounts, requests, windows, expires_at, lasts, conflict, tightest, over = reply.split(" ")
    return Leased(
        lease=lease,
        amounts=Amounts.of_numbers(map(int, amounts)),
        requests=int(requests),
        windows=tuple(windows.split(",")) if windows else (),
        tightest={one.measure: one for one in _standings(tightest)},
        over=_standings(over),
        expires_at=UnixMillis(int(expires_at)),
        lasts=Millis(int(lasts)),
        policy_conflict=conflict == "1",
    )
