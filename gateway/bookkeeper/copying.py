"""``tidegate ledger archive``, ``backup`` and ``restore``: copies of the books, at a URL.

    python -m gateway.bookkeeper.copying archive --books DIR --to URL [--keep-days N]
    python -m gateway.bookkeeper.copying backup --books DIR --to URL
    python -m gateway.bookkeeper.copying restore --books DIR --from URL

Exit code 0: done. 1: not done, and the line says why. 2: there is nothing to copy, or no such place.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Final

import orjson

from gateway.bookkeeper.archive import ArchiveBusy, ArchiveDiffers, archive
from gateway.bookkeeper.arguments import Parser
from gateway.bookkeeper.backup import BadBackup, backup, restore
from gateway.bookkeeper.checkpoint import BadCheckpoint
from gateway.bookkeeper.object_store import BadStoreUrl, ObjectStore
from gateway.contract.clock import Clock, SystemClock
from gateway.contract.ids import RegionName
from gateway.events.base import BadBase
from gateway.events.recovery import BooksDamaged

DONE, FAILED, NOTHING = 0, 1, 2
KEEP_DAYS_MAX: Final = 36_500
_URL: Final = "file:///DIR, s3://BUCKET/DIR or gs://BUCKET/DIR"


def keep_days(text: str) -> int:
    """1 and more. Any number will do: the checkpoint has the counters. Raises ArgumentTypeError."""
    days = int(text) if text.isascii() and text.isdigit() else 0
    if not 1 <= days <= KEEP_DAYS_MAX:
        raise argparse.ArgumentTypeError(f"days are a whole number from 1 to {KEEP_DAYS_MAX}, got {text!r}")
    return days


def archive_options(parser: argparse.ArgumentParser) -> None:
    """Those of ``archive``, without where the books are."""
    parser.add_argument("--to", required=True, metavar="URL", help=_URL)
    parser.add_argument(
        "--keep-days",
        type=keep_days,
        metavar="N",
        help="then remove archived segments whose last record is older (default: remove none)",
    )
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a line")


def backup_options(parser: argparse.ArgumentParser) -> None:
    """Those of ``backup``."""
    parser.add_argument("--to", required=True, metavar="URL", help=f"{_URL}; each backup its own")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a line")


def restore_options(parser: argparse.ArgumentParser) -> None:
    """Those of ``restore``."""
    parser.add_argument("--from", dest="source", required=True, metavar="URL", help=f"{_URL}, of a backup")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a line")


def archived(
    books: Path, region: RegionName, arguments: argparse.Namespace, clock: Clock
) -> tuple[object, str]:
    """What was done, as fields and as a line."""
    done = archive(
        books, region, ObjectStore(arguments.to), now=clock.unix_ms(), keep_days=arguments.keep_days
    )
    return asdict(done), (
        f"{done.segments} sealed segments in the archive, {done.copied} copied now ({done.copied_bytes} "
        f"bytes), {done.removed} removed here; the books begin with segment {done.first_kept}"
    )


def backed_up(books: Path, region: RegionName, arguments: argparse.Namespace, _: Clock) -> tuple[object, str]:
    """What was done, as fields and as a line."""
    done = backup(books, region, ObjectStore(arguments.to))
    return asdict(done), (
        f"{done.files} files, {done.octets} bytes, up to record {done.count}, head {done.head[:16]}"
    )


def restored(books: Path, region: RegionName, arguments: argparse.Namespace, _: Clock) -> tuple[object, str]:
    """What was done, as fields and as a line. Raises BadBackup for what does not verify."""
    report = restore(books, region, ObjectStore(arguments.source))
    if not report.clean:
        first = report.problems[0]
        raise BadBackup(f"{first.file}:{first.line}: {first.text}; take another backup")
    fields = {"events": report.events, "segments": report.segments, "head": report.head}
    return fields, (
        f"{report.events} records in {report.segments} segments, verified up to head {report.head[:16]}; "
        "rebuild the ledger with 'tidegate ledger replay --apply'"
    )


Copy = Callable[[Path, RegionName, argparse.Namespace, Clock], tuple[object, str]]
VERBS: Final[dict[str, tuple[Copy, Callable[[argparse.ArgumentParser], None]]]] = {
    "archive": (archived, archive_options),
    "backup": (backed_up, backup_options),
    "restore": (restored, restore_options),
}


def perform(verb: str, books: Path, region: RegionName, arguments: argparse.Namespace, clock: Clock) -> int:
    """Do it and say so; returns the exit code."""
    try:
        fields, line = VERBS[verb][0](books, region, arguments, clock)
    except BadStoreUrl as error:
        print(error, file=sys.stderr)
        return NOTHING
    except (BooksDamaged, BadBase, BadCheckpoint) as error:
        print(f"the books are damaged: {error}; 'tidegate ledger verify' lists every place", file=sys.stderr)
        return FAILED
    except (ArchiveDiffers, ArchiveBusy, BadBackup) as error:
        print(error, file=sys.stderr)
        return FAILED
    except OSError as error:
        what = f"{error.strerror or error}: {error.filename or 'the store'}"
        print(f"{what}; look at the URL and the credentials", file=sys.stderr)
        return FAILED
    print(orjson.dumps(fields, option=orjson.OPT_SORT_KEYS).decode() if arguments.json else line)
    return DONE


def main(argv: Sequence[str]) -> int:
    """Run the command with ``argv`` (without the program's name); prints, returns the exit code."""
    parser = Parser(prog="tidegate ledger", description="Copies of the books, at a URL.")
    verbs = parser.add_subparsers(required=True, dest="verb", metavar="VERB", parser_class=Parser)
    for name, (_, options) in VERBS.items():
        verb = verbs.add_parser(name, description=f"{name.capitalize()} the books.")
        verb.add_argument(
            "--books", type=Path, required=True, metavar="DIR", help="directory of the segments"
        )
        verb.add_argument("--region", default="local", help="whose books they are (default: local)")
        options(verb)
    arguments = parser.parse_args(argv)
    if arguments.verb != "restore" and not arguments.books.is_dir():
        where = f"{arguments.books}: no such directory"
        print(f"{where}; start the gateway once, or name it with --books", file=sys.stderr)
        return NOTHING
    return perform(arguments.verb, arguments.books, RegionName(arguments.region), arguments, SystemClock())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
