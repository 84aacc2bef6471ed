"""Usage in whole numbers: the same from the segments, from the projection and from the ledger's own sums."""

from __future__ import annotations

import csv
import io
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from gateway.bookkeeper import export
from gateway.bookkeeper.archive import archive
from gateway.bookkeeper.consumption import GROUPS, MEASURES, Sums, Totals, UsageRow, consumption_of
from gateway.bookkeeper.object_store import ObjectStore
from gateway.bookkeeper.projection import DIRECTORY, NoProjection, Projection, usage_rows
from gateway.contract.units import TOKENS_MAX, UnixMillis
from gateway.events.event import Event, EventType
from gateway.events.reading import Reader
from gateway.events.segment import segments_of
from tests.harness.histories import ORGS
from tests.unit.bookkeeper.logged import LOCAL, written


def an_event(
    kind: EventType, *, reason: str = "", amounts: dict[str, int] | None = None, **context: str
) -> Event:
    return Event(
        id="acme/1-0",
        type=kind,
        at_ms=1_800_000_000_000,
        region="local",
        org="acme",
        request_id="r",
        reason=reason,
        amounts={name: str(amount) for name, amount in (amounts or {}).items()},
        context={"team": "t1", "key": "k1", "model": "m", **context},
    )


HELD = {"held": 110, "held_prompt_tokens": 10, "held_completion_tokens": 100, "held_micro_usd": 210}
USED = {"used": 60, "used_prompt_tokens": 20, "used_completion_tokens": 40, "used_micro_usd": 100}
WAS = {"was": 48, "was_prompt_tokens": 15, "was_completion_tokens": 33, "was_micro_usd": 90}
FULL = {name.replace("held", "used"): amount for name, amount in HELD.items()}


@pytest.mark.parametrize(
    ("event", "sums"),
    [
        (
            an_event(EventType.HOLD_SETTLED, amounts=HELD | USED, **{"detail.cached": "7"}),
            Sums(
                requests=1, tokens=60, prompt_tokens=20, completion_tokens=40, micro_usd=100, cached_tokens=7
            ),
        ),
        (
            an_event(EventType.HOLD_SETTLED, reason="unknown", amounts=HELD | FULL),
            Sums(
                requests=1,
                tokens=110,
                prompt_tokens=10,
                completion_tokens=100,
                micro_usd=210,
                unknown_requests=1,
                unknown_tokens=110,
            ),
        ),
        (
            an_event(EventType.HOLD_CORRECTED, amounts=HELD | USED),
            Sums(
                tokens=-50,
                prompt_tokens=10,
                completion_tokens=-60,
                micro_usd=-110,
                unknown_requests=-1,
                unknown_tokens=-110,
            ),
        ),
        (
            an_event(EventType.HOLD_SETTLED, reason="provisional", amounts=HELD | USED),
            Sums(requests=1, tokens=60, prompt_tokens=20, completion_tokens=40, micro_usd=100),
        ),
        (
            an_event(EventType.HOLD_CORRECTED, amounts=HELD | USED | WAS, **{"detail.cached": "7"}),
            Sums(tokens=12, prompt_tokens=5, completion_tokens=7, micro_usd=10),
        ),
        (
            an_event(EventType.ATTEMPT_WASTED, prompt="5", completion="6"),
            Sums(wasted_tokens=11),
        ),
        (an_event(EventType.ATTEMPT_WASTED, prompt="-5", completion="6e3"), Sums()),
        (
            an_event(EventType.LEASE_EXPIRED, amounts=HELD),
            Sums(tokens=110, prompt_tokens=10, completion_tokens=100, micro_usd=210, unknown_tokens=110),
        ),
        (an_event(EventType.LEASE_RETURNED, amounts=HELD), None),
        (
            an_event(EventType.LEASE_RETURNED, reason="reconciled", amounts={"held": 5}),
            Sums(tokens=-5, unknown_tokens=-5),
        ),
        (
            an_event(EventType.HOLD_GRANTED, amounts={"held": 5}, lease_state="expired"),
            Sums(tokens=-5, unknown_tokens=-5),
        ),
        (an_event(EventType.CACHE_HIT), Sums(cache_hits=1)),
        (an_event(EventType.HOLD_VOIDED, amounts=HELD), None),
        (an_event(EventType.HOLD_GRANTED, amounts=HELD), None),
    ],
)
def test_what_each_event_counts(event: Event, sums: Sums | None) -> None:
    found = consumption_of(event)
    assert (found.sums if found else None) == sums
    if found:
        of_lease = event.type is EventType.HOLD_GRANTED
        assert found.groups == {
            "org": "acme",
            "team": "" if of_lease else "t1",
            "user": "",
            "key": "" if of_lease else "k1",
            "model": "" if of_lease else "m",
            "workflow": "",
            "day": "2027-01-15",
        }


def test_a_key_is_charged_for_what_it_drew_late_and_no_less() -> None:
    """The lease died with its worker and was charged whole; then a request out of it is heard of."""
    lease = replace(an_event(EventType.LEASE_EXPIRED, amounts={"held": 1000}), context=None)
    draw = an_event(EventType.HOLD_GRANTED, amounts={"held": 110}, lease_state="expired")
    settled = an_event(EventType.HOLD_SETTLED, amounts=HELD | USED)
    totals = Totals(["key"])
    for event in (lease, draw, settled):
        consumed = consumption_of(event)
        assert consumed is not None
        totals.add(consumed.groups, consumed.sums)
    assert [(row.group["key"], row.sums.tokens) for row in totals.rows()] == [("", 890), ("k1", 60)]


def test_groups_are_checked_and_sorted() -> None:
    with pytest.raises(ValueError, match="'colour'"):
        Totals(["org", "colour"])
    totals = Totals(["key", "org", "key"])
    for org, key in (("b", "1"), ("a", "2"), ("a", "1"), ("a", "2")):
        totals.add({**dict.fromkeys(GROUPS, ""), "org": org, "key": key}, Sums(requests=1))
    assert [(row.group, row.sums.requests) for row in totals.rows()] == [
        ({"key": "1", "org": "a"}, 1),
        ({"key": "1", "org": "b"}, 1),
        ({"key": "2", "org": "a"}, 2),
    ]


def by_segments(books: Path, by: Sequence[str]) -> list[UsageRow]:
    return export.sums(Reader(books, LOCAL), by)


async def test_the_projection_says_what_the_segments_say(tmp_path: Path) -> None:
    ledger = await written(tmp_path, steps=600)
    writer = Projection(tmp_path, LOCAL)
    rows = writer.advance()
    assert rows > 50 and writer.advance() == 0
    for by in ((), ("org",), ("day", "key", "org"), GROUPS):
        found = usage_rows(tmp_path, org=None, by=by, since_ms=0, until_ms=TOKENS_MAX, where={})
        assert found == by_segments(tmp_path, by) and found
    [acme] = usage_rows(tmp_path, org="acme", by=["org"], since_ms=0, until_ms=TOKENS_MAX, where={})
    assert acme == by_segments(tmp_path, ["org"])[0]
    of_model = usage_rows(
        tmp_path, org=None, by=["model"], since_ms=0, until_ms=TOKENS_MAX, where={"model": "m"}
    )
    assert of_model == [row for row in by_segments(tmp_path, ["model"]) if row.group["model"] == "m"]
    lifetime = ledger._orgs[ORGS[0]].counters["key/k1|lifetime|0"]
    assert acme.sums.tokens == lifetime.used
    none = usage_rows(tmp_path, org="' OR 1=1 --", by=[], since_ms=0, until_ms=TOKENS_MAX, where={})
    assert none == []
    with pytest.raises(ValueError, match="'colour'"):
        usage_rows(tmp_path, org=None, by=[], since_ms=0, until_ms=1, where={"colour": "red"})


async def test_the_projection_goes_on_and_is_made_anew(tmp_path: Path) -> None:
    with pytest.raises(NoProjection):
        usage_rows(tmp_path, org=None, by=[], since_ms=0, until_ms=1, where={})
    await written(tmp_path / "one", steps=200, seed=1)
    await written(tmp_path / "two", steps=200, seed=2)
    rows = Projection(tmp_path / "one", LOCAL).advance()
    assert Projection(tmp_path / "one", LOCAL).advance() == 0  # a new start goes on where the table ends
    for _, path in segments_of(tmp_path / "one"):
        path.unlink()
    for _, path in segments_of(tmp_path / "two"):
        path.rename(tmp_path / "one" / path.name)
    Projection(tmp_path / "one", LOCAL).advance()  # of other books: made anew
    found = usage_rows(tmp_path / "one", org=None, by=["org"], since_ms=0, until_ms=TOKENS_MAX, where={})
    assert found == by_segments(tmp_path / "one", ["org"]) and rows > 0
    for path in (tmp_path / "one" / DIRECTORY).rglob("*.lance"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(NoProjection):
        usage_rows(tmp_path / "one", org=None, by=[], since_ms=0, until_ms=TOKENS_MAX, where={})
    assert Projection(tmp_path / "one", LOCAL).rebuild() > 0
    again = usage_rows(tmp_path / "one", org=None, by=["org"], since_ms=0, until_ms=TOKENS_MAX, where={})
    assert again == found


async def test_rows_of_removed_segments_stay(tmp_path: Path) -> None:
    books = tmp_path / "books"
    await written(books)
    last = segments_of(books)[-1][1]
    last.write_bytes(last.read_bytes().splitlines(keepends=True)[0])  # nothing was consumed behind the base
    rows, before = Projection(books, LOCAL).advance(), by_segments(books, ["org"])
    kept = ObjectStore((tmp_path / "kept").as_uri())
    archive(books, LOCAL, kept, now=UnixMillis(2_000_000_000_000), keep_days=1)
    assert Projection(books, LOCAL).advance() == 0 and rows > 0
    found = usage_rows(books, org=None, by=["org"], since_ms=0, until_ms=TOKENS_MAX, where={})
    assert found == before


async def test_exports_have_the_sums_of_the_segments(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    books, out = tmp_path / "books", tmp_path / "usage"
    await written(books)
    rows = by_segments(books, ["org", "day"])
    asked = ["--books", str(books), "--by", "org,day", "--out", str(out)]
    assert export.main([*asked, "--format", "csv"]) == export.WRITTEN
    header, *lines = csv.reader(io.StringIO(out.read_text()))
    assert header == ["org", "day", *MEASURES]
    wanted = [[*row.group.values(), *(str(getattr(row.sums, name)) for name in MEASURES)] for row in rows]
    assert lines == wanted
    assert export.main([*asked, "--format", "parquet", "--json"]) == export.WRITTEN
    table = pq.read_table(out)
    assert table.column_names == header
    assert [[str(value) for value in line.values()] for line in table.to_pylist()] == wanted
    day = rows[0].group["day"]
    assert export.main([*asked, "--format", "csv", "--from", day, "--to", day]) == export.WRITTEN
    assert {line[1] for line in list(csv.reader(io.StringIO(out.read_text())))[1:]} == {day}
    late = [*asked, "--format", "csv", "--from", "2027-01-02", "--to", "2027-01-01"]
    assert export.main(late) == export.NOTHING
    segments_of(books)[1][1].unlink()
    out.unlink()
    assert export.main([*asked, "--format", "csv"]) == export.BROKEN and not out.exists()
    assert "ledger verify" in capsys.readouterr().err


async def test_days_that_are_not_kept_whole_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    books, out = tmp_path / "books", tmp_path / "usage"
    await written(books)
    store = ObjectStore((tmp_path / "kept").as_uri())
    copies = tmp_path / "copies"
    shutil.copytree(books, copies)
    archive(books, LOCAL, store, now=UnixMillis(2_000_000_000_000), keep_days=1)
    asked = ["--by", "org", "--format", "csv", "--out", str(out)]
    assert export.main(["--books", str(books), *asked]) == export.BROKEN and not out.exists()
    whole = export.first_whole_day(books, LOCAL)
    assert whole and f"the first whole day here is {whole}" in capsys.readouterr().err
    assert export.main(["--books", str(books), *asked, "--from", whole]) == export.WRITTEN
    assert export.main(["--books", str(copies), *asked]) == export.WRITTEN
    segments_of(books)[-1][1].unlink()
    assert export.main(["--books", str(books), *asked]) == export.BROKEN
    assert "none is kept" in capsys.readouterr().err


async def test_the_file_is_written_beside_nothing_of_others(tmp_path: Path) -> None:
    await written(tmp_path / "books", steps=20)
    asked = ["--books", str(tmp_path / "books"), "--by", "org", "--format", "csv", "--out"]
    (tmp_path / "usage.new").write_text("somebody's")
    assert export.main([*asked, str(tmp_path / "usage")]) == export.WRITTEN
    assert (tmp_path / "usage.new").read_text() == "somebody's"
    (tmp_path / "link").symlink_to(tmp_path / "usage")
    for wrong in ("", str(tmp_path), str(tmp_path / "link")):
        with pytest.raises(SystemExit):
            export.main([*asked, wrong])
    assert export.main([*asked, str(tmp_path / "none" / "usage")]) == export.BROKEN
    assert {path.name for path in tmp_path.iterdir()} == {"books", "link", "usage", "usage.new"}


@pytest.mark.parametrize(
    "wrong", [["--by", "colour"], ["--by", ""], ["--from", "yesterday"], ["--format", "xls"]]
)
def test_a_wrong_question_is_refused(wrong: list[str], tmp_path: Path) -> None:
    asked = {"--books": str(tmp_path), "--by": "org", "--format": "csv", "--out": str(tmp_path / "o")}
    asked |= {wrong[0]: wrong[1]}
    with pytest.raises(SystemExit):
        export.main([word for pair in asked.items() for word in pair])
