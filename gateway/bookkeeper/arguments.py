"""Command lines of this package's programs. Errors in one line: ``tidegate ledger`` hands its options on to
them, and a list of theirs would name some that it has not."""

from __future__ import annotations

import argparse
import sys
from typing import NoReturn


class Parser(argparse.ArgumentParser):
    """Exit code 2 for a bad command line."""

    def error(self, message: str) -> NoReturn:
        sys.stderr.write(f"{self.prog}: {message}: see '{self.prog} --help'\n")
        raise SystemExit(2)
