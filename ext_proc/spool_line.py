"""A settle or void as one line of a spool file: eight hex digits of CRC-32, a space, JSON, a line's end.

Version 1. A reader meets the lines of the release before it: a worker that starts takes over what an older
one left.
"""

from __future__ import annotations

import binascii
from typing import Any, Final

import orjson

from ext_proc.vocabulary import Resolution, Settle, Void
from gateway.budget.certainty import Certainty
from gateway.budget.ledger import Draw
from gateway.budget.measure import Amounts
from gateway.contract.ids import HoldId, OrgId
from gateway.contract.units import Tokens, UnixMillis

VERSION: Final = 1


class BadLine(ValueError):
    """Torn, or of a version that is not known."""


def line_of(deed: Resolution) -> bytes:
    """With its end."""
    fields: dict[str, object] = {"v": VERSION, "org": deed.org, "hold": deed.hold}
    if isinstance(deed, Settle):
        fields |= {"verb": "settle", "used": deed.used.numbers(), "certainty": deed.certainty.value}
        fields["unknown"] = deed.certainty is Certainty.UNKNOWN  # all that the release before reads of it
        fields["detail"] = dict(deed.detail)
    else:
        fields |= {"verb": "void", "reason": deed.reason}
    if deed.draw is not None:
        fields["draw"] = _draw_fields(deed.draw)
    text = orjson.dumps(fields)
    return b"%08x %s\n" % (binascii.crc32(text), text)


def resolution_of(line: bytes) -> Resolution:
    """Of a line without its end. Raises BadLine."""
    checksum, _, text = line.partition(b" ")
    if checksum != b"%08x" % binascii.crc32(text):
        raise BadLine("spool: the line is torn")
    try:
        fields: dict[str, Any] = orjson.loads(text)
        if fields["v"] != VERSION:
            raise BadLine(f"spool: the line must be of version {VERSION}, got {fields['v']!r}")
        org, hold = OrgId(fields["org"]), HoldId(fields["hold"])
        draw = _draw(fields["draw"], hold) if "draw" in fields else None
        if fields["verb"] == "void":
            return Void(org=org, hold=hold, reason=fields["reason"], draw=draw)
        return Settle(
            org=org,
            hold=hold,
            used=Amounts.of_numbers(fields["used"]),
            certainty=_certainty(fields),
            detail=fields["detail"],
            draw=draw,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise BadLine(f"spool: {type(error).__name__}") from error


def _certainty(fields: dict[str, Any]) -> Certainty:
    """The release before wrote whether it was unknown."""
    if "certainty" in fields:
        return Certainty(fields["certainty"])
    return Certainty.UNKNOWN if fields["unknown"] else Certainty.EXACT


def _draw_fields(draw: Draw) -> dict[str, object]:
    return {
        "lease": draw.lease,
        "windows": draw.windows,
        "amounts": draw.amounts.numbers(),
        "units": draw.units,
        "expires_at": draw.expires_at,
        "policy_version": draw.policy_version,
        "context": dict(draw.context),
    }


def _draw(fields: dict[str, Any], hold: HoldId) -> Draw:
    return Draw(
        lease=HoldId(fields["lease"]),
        windows=tuple(fields["windows"]),
        hold=hold,
        amounts=Amounts.of_numbers(fields["amounts"]),
        units=Tokens(fields["units"]),
        expires_at=UnixMillis(fields["expires_at"]),
        policy_version=fields["policy_version"],
        context=fields["context"],
    )
