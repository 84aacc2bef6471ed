"""``tidegate ledger export``: what was consumed, summed from the segments themselves, as CSV or Parquet.

    python -m gateway.bookkeeper.export --books DIR --format csv --by org,model,day --out usage.csv

Every record is checked on the way: figures come from books that are what was written, or not at all. Days of
which segments were archived and removed are refused: their sums would be too small. Exit code 0: written. 1:
the books are damaged, have not all that was asked for, or the file cannot be written. 2: there is nothing to
export, or the question makes no sense.
"""

from __future__ import annotations

import argparse
import csv
import io
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Final

import orjson

from gateway.bookkeeper.arguments import Parser
from gateway.bookkeeper.consumption import GROUPS, MEASURES, Totals, UsageRow, consumption_of, day_of
from gateway.budget.calendar import DAY_MS
from gateway.config.durable_file import replace_durably
from gateway.contract.ids import RegionName
from gateway.contract.units import TOKENS_MAX
from gateway.events.base import BadBase, read_base
from gateway.events.reading import Reader
from gateway.events.recovery import BooksDamaged

WRITTEN, BROKEN, NOTHING = 0, 1, 2
FORMATS: Final = ("csv", "parquet")


def sums(
    reader: Reader, by: Sequence[str], *, since_ms: int = 0, until_ms: int = TOKENS_MAX
) -> list[UsageRow]:
    """Of ``since_ms <= at < until_ms``. Raises ValueError, BooksDamaged, OSError."""
    totals = Totals(by)
    for record in reader:
        consumed = consumption_of(record.event)
        if consumed is not None and since_ms <= consumed.at_ms < until_ms:
            totals.add(consumed.groups, consumed.sums)
    return totals.rows()


def first_whole_day(directory: Path, region: RegionName) -> str | None:
    """The first day of which no segment was archived and removed: empty where none was, None where all were.
    Raises BadBase, BooksDamaged, OSError."""
    if not read_base(directory, region).count:
        return ""
    kept = Reader(directory, region).read(1)
    return day_of(kept[0].event.at_ms + DAY_MS) if kept else None


def as_csv(rows: Iterable[UsageRow], by: Sequence[str]) -> bytes:
    """RFC 4180, UTF-8, with a header line."""
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow([*by, *MEASURES])
    for row in rows:
        writer.writerow([*row.group.values(), *(getattr(row.sums, name) for name in MEASURES)])
    return text.getvalue().encode()


def as_parquet(rows: Sequence[UsageRow], by: Sequence[str]) -> bytes:
    """Groups are strings, sums 64-bit integers."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = {name: pa.array([row.group[name] for row in rows], pa.string()) for name in by}
    columns |= {name: pa.array([getattr(row.sums, name) for row in rows], pa.int64()) for name in MEASURES}
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(columns), sink)
    return bytes(sink.getvalue())


def groups_of(text: str) -> tuple[str, ...]:
    """``org,model,day``. Raises ArgumentTypeError."""
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    wrong = [name for name in names if name not in GROUPS]
    if wrong or not names:
        given = f"{wrong[0]!r} is none" if wrong else "none is given"
        raise argparse.ArgumentTypeError(f"group by some of {', '.join(GROUPS)}: {given}")
    return names


def day_start_ms(text: str) -> int:
    """The first millisecond of a day of UTC, as 2027-01-31. Raises ArgumentTypeError."""
    try:
        day = date.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"a day is written 2027-01-31, got {text!r}") from None
    return int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp()) * 1000


def file_of(text: str) -> Path:
    """One that is there as a file, or not yet: the file would take the place of a link (as /dev/stdout is) or
    of a device. Raises ArgumentTypeError."""
    path = Path(text)
    if not path.name or path.is_symlink() or (path.exists() and not path.is_file()):
        raise argparse.ArgumentTypeError(f"name a file, got {text!r}")
    return path


def add_options(parser: argparse.ArgumentParser) -> None:
    """Those of the export itself, without where the books are."""
    parser.add_argument("--format", choices=FORMATS, required=True)
    parser.add_argument("--by", type=groups_of, required=True, metavar="NAME,...", help=", ".join(GROUPS))
    parser.add_argument("--from", dest="since", type=day_start_ms, metavar="DAY", help="first day (UTC)")
    parser.add_argument("--to", dest="until", type=day_start_ms, metavar="DAY", help="last day (UTC)")
    parser.add_argument("--out", type=file_of, required=True, metavar="FILE", help="replaced if it is there")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a line")


def export(books: Path, region: RegionName, arguments: argparse.Namespace) -> int:
    """Write the file and say so; returns the exit code."""
    by: tuple[str, ...] = arguments.by
    since = 0 if arguments.since is None else arguments.since
    until = TOKENS_MAX if arguments.until is None else arguments.until + DAY_MS
    if until <= since:
        line = "--to lies before --from: give the first day with --from and the last with --to"
        return _refused(line, code=NOTHING)
    if not books.is_dir():
        where = f"{books}: no such directory"
        return _refused(f"{where}; start the gateway once, or name it with --books", code=NOTHING)
    try:
        whole = first_whole_day(books, region)
        if whole is None or (whole and since < day_start_ms(whole)):
            kept = "none is kept here" if whole is None else f"the first whole day here is {whole}"
            return _refused(
                f"segments of these days were archived and removed, {kept}: say --from, or export from a "
                "copy of the archive with 'python -m gateway.bookkeeper.export --books DIR'"
            )
        reader = Reader(books, region)
        rows = sums(reader, by, since_ms=since, until_ms=until)
    except (BooksDamaged, BadBase) as error:
        return _refused(f"the books are damaged: {error}; 'tidegate ledger verify' lists every place")
    data = as_csv(rows, by) if arguments.format == "csv" else as_parquet(rows, by)
    try:
        replace_durably(arguments.out, data, mode=0o600)
    except OSError as error:
        return _refused(f"{arguments.out}: {error.strerror or error}; name another file with --out")
    if arguments.json:
        fields = {"file": str(arguments.out), "rows": len(rows), "bytes": len(data), "head": reader.mark.hash}
        print(orjson.dumps(fields, option=orjson.OPT_SORT_KEYS).decode())
    else:
        mark = reader.mark
        noun = "row" if len(rows) == 1 else "rows"
        print(f"{arguments.out}: {len(rows)} {noun} from {mark.seq} records, head {mark.hash[:16]}")
    return WRITTEN


def _refused(line: str, *, code: int = BROKEN) -> int:
    print(line, file=sys.stderr)
    return code


def main(argv: Sequence[str]) -> int:
    """Run the command with ``argv`` (without the program's name); prints, returns the exit code."""
    parser = Parser(
        prog="tidegate ledger export",
        description="Sum up what was consumed, from the event segments, into a CSV or Parquet file.",
        epilog="example: tidegate ledger export --format csv --by org,model,day --out usage.csv",
    )
    parser.add_argument("--books", type=Path, required=True, metavar="DIR", help="directory of the segments")
    parser.add_argument("--region", default="local", help="whose books they are (default: local)")
    add_options(parser)
    arguments = parser.parse_args(argv)
    return export(arguments.books, RegionName(arguments.region), arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
