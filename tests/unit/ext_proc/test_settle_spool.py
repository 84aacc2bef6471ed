"""What the ledger did not take is on disk until it does, whoever dies meanwhile."""

from __future__ import annotations

import asyncio
import binascii
import os
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import orjson
import pytest

from ext_proc import settle_spool
from ext_proc.settle_spool import SettleSpool
from ext_proc.spool_line import BadLine, line_of, resolution_of
from ext_proc.vocabulary import Resolution, Settle, Void
from gateway.budget.certainty import Certainty
from gateway.budget.ledger import Draw
from gateway.budget.measure import Amounts
from gateway.contract.errors import LedgerUnavailable
from gateway.contract.ids import HoldId, OrgId
from gateway.contract.units import Tokens, UnixMillis
from gateway.telemetry.log import logger

ORG = OrgId("acme")
DRAW = Draw(
    lease=HoldId("lease/w/1"),
    windows=("org|minute|60000", "org|month|0"),
    hold=HoldId("h"),
    amounts=Amounts.of(3, 4, micro_usd=5),
    units=Tokens(4),
    expires_at=UnixMillis(1_800_000_000_000),
    policy_version=7,
    context={"request_id": "h", "model": "m"},
)


def settle(hold: str) -> Settle:
    used = Amounts.of(1, 2, micro_usd=3)
    return Settle(
        org=ORG, hold=HoldId(hold), used=used, certainty=Certainty.EXACT, detail={"ended": "complete"}
    )


class Ledger:
    """Takes deeds while it is there."""

    def __init__(self) -> None:
        self.away = True
        self.taken: list[Resolution] = []
        self.asked = asyncio.Event()

    async def carry_out(self, deed: Resolution) -> None:
        self.asked.set()
        if self.away:
            raise LedgerUnavailable("away")
        self.taken.append(deed)


def spool_in(directory: Path, ledger: Ledger, counted: Counter[str], **more: int) -> SettleSpool:
    return SettleSpool(
        directory, ledger.carry_out, logger("test"), count=lambda what: counted.update((what,)), **more
    )


@pytest.mark.parametrize(
    "deed",
    [
        settle("h"),
        Settle(org=ORG, hold=HoldId("h"), used=Amounts(), certainty=Certainty.UNKNOWN, detail={}, draw=DRAW),
        replace(settle("h"), certainty=Certainty.PROVISIONAL),
        Void(org=ORG, hold=HoldId("h"), reason="undecided"),
        Void(org=ORG, hold=HoldId("h"), reason="abandoned", draw=DRAW),
    ],
)
def test_a_line_says_all_of_a_deed(deed: Resolution) -> None:
    line = line_of(deed)
    assert line.endswith(b"\n")
    assert resolution_of(line[:-1]) == deed


@pytest.mark.parametrize(("unknown", "certainty"), [(True, Certainty.UNKNOWN), (False, Certainty.EXACT)])
def test_a_line_of_the_release_before_is_read(unknown: bool, certainty: Certainty) -> None:
    """And what this one writes says to that release whether it is unknown."""
    fields = {"v": 1, "org": ORG, "hold": "h", "verb": "settle", "used": [3, 1, 2, 3], "unknown": unknown}
    text = orjson.dumps(fields | {"detail": {"ended": "complete"}})
    deed = resolution_of(b"%08x %s" % (binascii.crc32(text), text))
    assert deed == replace(settle("h"), certainty=certainty)
    assert orjson.loads(line_of(deed).partition(b" ")[2])["unknown"] is unknown


def test_any_flipped_byte_of_a_line_is_noticed() -> None:
    line = line_of(settle("h"))[:-1]
    for at in range(len(line)):
        torn = line[:at] + bytes([line[at] ^ 1]) + line[at + 1 :]
        with pytest.raises(BadLine):
            resolution_of(torn)


async def test_what_is_kept_is_delivered_in_order_once_the_ledger_is_back(tmp_path: Path) -> None:
    ledger, counted = Ledger(), Counter[str]()
    spool = spool_in(tmp_path, ledger, counted)
    deeds = [settle(f"h{number}") for number in range(3 * settle_spool.BATCH_MAX + 1)]
    for deed in deeds:
        spool.add(deed)
    assert not await spool.deliver()
    ledger.away = False
    assert await spool.deliver()
    assert ledger.taken == deeds
    (file,) = tmp_path.glob("*.spool")
    assert file.stat().st_size == 0
    assert file.stat().st_mode & 0o777 == 0o600
    await spool.close()
    assert list(tmp_path.iterdir()) == []
    assert counted == {"kept": len(deeds), "delivered": len(deeds)}


async def test_the_loop_delivers_what_is_added(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settle_spool, "AGAIN_S", 0.0)
    ledger, counted = Ledger(), Counter[str]()
    spool = spool_in(tmp_path, ledger, counted)
    running = asyncio.create_task(spool.run())
    spool.add(settle("h"))
    await ledger.asked.wait()
    ledger.away = False
    async with asyncio.timeout(20):
        while not ledger.taken:
            ledger.asked.clear()
            await ledger.asked.wait()
    running.cancel()
    await spool.close()
    assert set(map(line_of, ledger.taken)) == {line_of(settle("h"))}, "at least once"


KEEPS = """
import asyncio, sys
from pathlib import Path
from tests.unit.ext_proc.test_settle_spool import Ledger, settle, spool_in
from collections import Counter

async def main():
    spool = spool_in(Path(sys.argv[1]), Ledger(), Counter())
    spool.add(settle("one"))
    spool.add(settle("two"))
    print("kept", flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


def keeper(directory: Path) -> subprocess.Popen[bytes]:
    """A process that keeps two settles, and lives."""
    process = subprocess.Popen([sys.executable, "-c", KEEPS, str(directory)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    with process.stdout as told:
        assert told.readline() == b"kept\n"
    return process


async def test_the_next_process_takes_over_what_a_killed_one_kept_and_nothing_of_a_living_one(
    tmp_path: Path,
) -> None:
    process = keeper(tmp_path)
    ledger, counted = Ledger(), Counter[str]()
    ledger.away = False
    early = asyncio.create_task(spool_in(tmp_path, ledger, counted).run())
    await asyncio.sleep(0)
    early.cancel()
    await asyncio.wait((early,))
    assert ledger.taken == [], "its worker lives"
    process.kill()
    process.wait()
    (file,) = tmp_path.glob("*.spool")
    with file.open("ab") as torn:
        torn.write(b"0badc0de {half a li")
    late = asyncio.create_task(spool_in(tmp_path, ledger, counted).run())
    deadline = time.monotonic() + 20
    while file.exists():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.001)
    late.cancel()
    await asyncio.wait((late,))
    assert ledger.taken == [settle("one"), settle("two")]
    assert counted == {"delivered": 2, "unreadable": 1}


async def test_what_does_not_fit_is_counted(tmp_path: Path) -> None:
    ledger, counted = Ledger(), Counter[str]()
    line = len(line_of(settle("h0")))
    spool = spool_in(tmp_path, ledger, counted, bytes_max=2 * line)
    for number in range(5):
        spool.add(settle(f"h{number}"))
    assert counted == {"kept": 2, "dropped": 3}
    await spool.close()


async def test_a_full_disk_leaves_no_half_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger, counted = Ledger(), Counter[str]()
    spool = spool_in(tmp_path, ledger, counted)
    spool.add(settle("h0"))
    whole = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: whole(descriptor, data[:5]))
    spool.add(settle("h1"))
    monkeypatch.undo()
    spool.add(settle("h2"))
    ledger.away = False
    await spool.deliver()
    await spool.close()
    assert [deed.hold for deed in ledger.taken] == ["h0", "h2"]
    assert counted == {"kept": 2, "dropped": 1, "delivered": 2}


async def test_a_directory_that_cannot_be_written_costs_the_deed_and_nothing_else(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    ledger, counted = Ledger(), Counter[str]()
    spool_in(blocked, ledger, counted).add(settle("h"))
    assert counted == {"dropped": 1}


async def test_a_deed_the_ledger_never_takes_stops_no_other(tmp_path: Path) -> None:
    ledger, counted = Ledger(), Counter[str]()
    ledger.away = False

    async def carry_out(deed: Resolution) -> None:
        if deed.hold == "bad":
            raise ValueError("draw: of another hold")
        await ledger.carry_out(deed)

    spool = SettleSpool(tmp_path, carry_out, logger("test"), count=lambda what: counted.update((what,)))
    spool.add(settle("bad"))
    spool.add(settle("good"))
    await spool.close()
    assert [deed.hold for deed in ledger.taken] == ["good"]
    assert counted["unreadable"] == 1
