"""What a client asks of the cache in one request. Pure. A client can only tighten what is served to it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from ext_proc.cache.policy import Profile
from gateway.contract.errors import InvalidRequest
from gateway.contract.headers import CACHE_FEEDBACK

_SECONDS: Final = re.compile(r"[0-9]{1,9}")
# RFC 9111, 5.2: token [ "=" ( token / quoted-string ) ]. A quoted string is read whole, commas too.
_DIRECTIVE: Final = re.compile(r"""([!#$%&'*+.^_`|~0-9a-z-]+)[ \t]*(?:=[ \t]*("(?:[^"\\]|\\.)*"|[^,\s]*))?""")
_FEEDBACK: Final = re.compile(r'[ \t]*wrong[ \t]*;[ \t]*entry="?([0-9a-f]{64})"?[ \t]*', re.IGNORECASE)


class Ceiling(StrEnum):
    """The least alike that a client takes."""

    EXACT = "exact"
    """Answers of the very same request: no canonical, alias or semantic hit."""
    STRICT = "strict"
    """Also of the same canonical text or content words: no alias."""
    POLICY = "policy"
    """Whatever the rule serves."""

    def within(self, profile: Profile) -> Profile:
        """The stricter of the two."""
        if self is Ceiling.EXACT:
            return Profile.OFF
        return Profile.STRICT if self is Ceiling.STRICT and profile is Profile.VERIFIED else profile


@dataclass(frozen=True, slots=True, kw_only=True)
class Directives:
    """RFC 9111, 5.2.1: no-store neither reads nor writes, no-cache only writes, max-age bounds the age of
    what is read, only-if-cached asks no engine. ``exact-only`` and ``strict-only`` are extensions (5.2.3)."""

    read: bool = True
    write: bool = True
    max_age_s: int | None = None
    only_if_cached: bool = False
    ceiling: Ceiling = Ceiling.POLICY
    wrong_entry: str = ""
    """An entry whose answer the client calls wrong: 64 hex digits, or empty."""


def read_directives(cache_control: str, feedback: str = "") -> Directives:
    """``cache_control``, ``feedback``: the headers' values, empty for none. Unknown directives mean
    nothing; a max-age that is no number is stale at once (RFC 9111, 4.2.1), and of several the least
    counts. Raises InvalidRequest for a feedback that cannot be read: dropped, the wrong answer would be
    served again."""
    named: dict[str, list[str]] = {}
    for name, value in _DIRECTIVE.findall(cache_control.lower()):
        named.setdefault(name, []).append(value.strip('"'))
    ages = [int(text) if _SECONDS.fullmatch(text) else 0 for text in named.get("max-age", ())]
    ceiling = Ceiling.POLICY
    if "exact-only" in named:
        ceiling = Ceiling.EXACT
    elif "strict-only" in named:
        ceiling = Ceiling.STRICT
    return Directives(
        read=not named.keys() & {"no-store", "no-cache"},
        write="no-store" not in named,
        max_age_s=min(ages, default=None),
        only_if_cached="only-if-cached" in named,
        ceiling=ceiling,
        wrong_entry=_wrong_entry(feedback),
    )


def _wrong_entry(feedback: str) -> str:
    if not feedback:
        return ""
    read = _FEEDBACK.fullmatch(feedback)
    if read is None:
        raise InvalidRequest(
            f'{CACHE_FEEDBACK}: expected wrong; entry="<64 hex digits>", the entry as'
            " x-tidegate-cache-entry has it.",
            param=CACHE_FEEDBACK,
        )
    return read[1].lower()
