"""Credentials in a text: keys by their issuers' prefixes, private keys, JWTs, passwords. Pure."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from ext_proc.cache.national_ids import values_behind

_TABLE: Final = tomllib.loads(
    Path(__file__).with_name("tables").joinpath("personal_data.toml").read_text(encoding="utf-8")
)["secret"]
_PREFIXED: Final = {
    one["prefix"]: re.compile(
        rf"{re.escape(one['prefix'])}(?<![A-Za-z0-9_]{re.escape(one['prefix'])})[{one['then']}]{{{one['least']}}}"
    )
    for one in _TABLE["prefixes"]
}
_OWN_KEY: Final = re.compile(r"tg-(?<![A-Za-z0-9]tg-)[a-z0-9][a-z0-9_-]{0,62}-[A-Za-z0-9_-]{43}")
_PEM: Final = re.compile(r"-----BEGIN [A-Z0-9 ]{0,32}PRIVATE KEY(?: BLOCK)?-----")
_JWT: Final = re.compile(r"eyJ(?<![\w-]eyJ)[\w-]{8,}\.[\w-]{8,}\.")
_IN_URL: Final = re.compile(r"://[^\s/:@]{1,64}:([^\s/@]{1,128})@")
_BEARER: Final = re.compile(r"\s{1,3}([\w.~+/-]{20,512})")
_WORDS: Final = tuple(_TABLE["words"])
_NAMED: Final = re.compile(
    r"[\"'`*]{0,3}\s{0,3}(?:[Ii]s now|[Ii]s|[Ww]as|ist|=>|:=|=|:)\s{0,3}[\"'`*]{0,3}([^\s\"'`]{6,128})"
)
_PARTS: Final = tuple(_TABLE["placeholder_parts"])
_BLANK: Final = frozenset(_TABLE["placeholder_words"])
_CALL: Final = re.compile(r"[A-Za-z_][\w.]*[(\[]")


def holds_secret(text: str, most: int) -> bool:
    """Whether one stands in ``text``, or more than ``most`` that only look like one."""
    if any(prefix in text and shape.search(text) for prefix, shape in _PREFIXED.items()):
        return True
    if "tg-" in text and _OWN_KEY.search(text):
        return True
    if ("-----BEGIN" in text and _PEM.search(text)) or ("eyJ" in text and _JWT.search(text)):
        return True
    if "://" in text and any(not _is_blank(found[1]) for found in _IN_URL.finditer(text)):
        return True
    return any(count >= most or _is_real(value) for count, value in enumerate(_values(text)))


def _values(text: str) -> Iterator[str]:
    """What is said to be a password, a token and so on."""
    # str.lower() makes two characters of a dotted capital I: places in both texts must be the same.
    folded = text.replace("\u0130", "I").lower()
    yield from (found[1] for found in values_behind(folded, text, "bearer", _BEARER))
    for word in _WORDS:
        for found in values_behind(folded, text, word, _NAMED):
            yield found[1].rstrip(".,;:!?)*]")


def _is_blank(value: str) -> bool:
    folded = value.lower()
    return folded in _BLANK or any(part in folded for part in _PARTS)


def _is_real(value: str) -> bool:
    """A letter and a digit at least, and nothing that manuals write for a value or code for a call."""
    mixed = any(map(str.isalpha, value)) and any(map(str.isdecimal, value))
    return len(value) >= 6 and mixed and not _is_blank(value) and not _CALL.match(value)
