"""What several commands take: the parser, where the state is, and checks of numbers."""

from __future__ import annotations

import argparse
import os
import pwd
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final, NoReturn, TypeAlias, TypeVar

from mesh.local.layout import BASE, DEFAULT_STATE, Layout, layout_of

T = TypeVar("T")
DEFAULT_PORT: Final = 8080


class Parser(argparse.ArgumentParser):
    """Errors in one line, with the mend."""

    def error(self, message: str) -> NoReturn:
        sys.stderr.write(f"{self.prog}: {message}: see '{self.prog} --help'\n")
        raise SystemExit(2)


Commands: TypeAlias = "argparse._SubParsersAction[Parser]"
"""Where ``add`` of each module puts its commands."""


def port(text: str) -> int:
    """A TCP port that has one above it. Raises ArgumentTypeError."""
    number = int(text) if text.isascii() and text.isdigit() else 0
    if not 1 <= number <= 65534:
        raise argparse.ArgumentTypeError(f"a port is a number from 1 to 65534, got {text!r}")
    return number


def count(text: str) -> int:
    """1 to 256. Raises ArgumentTypeError."""
    number = int(text) if text.isascii() and text.isdigit() else 0
    if not 1 <= number <= 256:
        raise argparse.ArgumentTypeError(f"must be 1 to 256, got {text!r}")
    return number


def seconds(text: str) -> float:
    """Over 0, at most an hour. Raises ArgumentTypeError."""
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number <= 3600:
        raise argparse.ArgumentTypeError(f"must be over 0 and at most 3600 seconds, got {text!r}")
    return number


def state_option(parser: argparse.ArgumentParser) -> None:
    """``--state DIR``."""
    parser.add_argument(
        "--state",
        type=Path,
        metavar="DIR",
        default=DEFAULT_STATE,
        help="state directory (default: .tidegate in the checkout)",
    )


def mesh_option(parser: argparse.ArgumentParser) -> None:
    """``--mesh DIR``."""
    parser.add_argument(
        "--mesh",
        type=Path,
        metavar="DIR",
        default=BASE,
        help="kustomize directory of the policy (default: mesh/base)",
    )


def json_option(parser: argparse.ArgumentParser) -> None:
    """``--json``."""
    parser.add_argument("--json", action="store_true", help="one JSON object with stable keys")


def by_options(parser: argparse.ArgumentParser) -> None:
    """``--reason`` and ``--actor``, of everything that changes something."""
    parser.add_argument("--reason", required=True, metavar="WORDS", help="why, for the audit event")
    parser.add_argument("--actor", default=_actor(), metavar="NAME", help="who, for it (%(default)s)")


def _actor() -> str:
    """Who runs this."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:  # a container's user without a name
        return f"uid-{os.getuid()}"


def parsed(parse: Callable[[], T]) -> T:
    """What ``parse`` makes of an argument; one that it refuses is a bad command line."""
    from gateway.admin.change import BadValue

    try:
        return parse()
    except BadValue as error:
        sys.stderr.write(f"tidegate: {error}\n")
        raise SystemExit(2) from None


def layout(arguments: argparse.Namespace) -> Layout:
    """Of ``--state``."""
    return layout_of(arguments.state)
