"""Finds personal data and secrets in answers, so that they are not stored. Pure.

Rules and tables, no model: shapes, check digits, words beside a number. Each rule reads a text once: no
pattern repeats what holds a repetition of the same characters, and what only looks like a find is counted.
"""

from __future__ import annotations

import ipaddress
import re
import tomllib
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Protocol

from ext_proc.cache import check_digits, detectors
from ext_proc.cache.national_ids import holds_national_id
from ext_proc.cache.secrets_in_text import holds_secret

LOOKALIKES_MAX: Final = 500
"""More candidates than that are no prose: a text that has so many is taken to hold a find."""
CHARS_MAX: Final = 64 * 1024
"""Of one text, some 16,000 tokens: prose of that length takes 20 ms, a text made to be slow some 150 ms. A
longer one is not read, and TOO_LONG is found in it."""
TOO_LONG: Final = "too_long"
_TABLE: Final[Mapping[str, Any]] = tomllib.loads(
    Path(__file__).with_name("tables").joinpath("personal_data.toml").read_text(encoding="utf-8")
)
NUMBER_DIGITS_LEAST: Final = 7
"""Of a telephone number in one country; cards and ids have more."""
TRUNK_DIGITS_LEAST: Final = 9
"""Of one with its leading 0: two times of the clock (0930-1030) have 8."""
NAME_CHARS_MAX: Final = 40
"""Before a number, in which a word may say what it is."""
_NUMBER: Final = re.compile(r"[+(\d][\d .\-/()+]{6,}")


class Detector(Protocol):
    """One kind of personal data."""

    @property
    def name(self) -> str:
        """As cache.yaml writes it."""

    def finds(self, text: str) -> bool:
        """Whether ``text`` holds such data. In time linear in its length."""


def _counted(found: Iterator[re.Match[str]]) -> Iterator[tuple[re.Match[str], bool]]:
    """Each match, and whether it is one too many."""
    for count, match in enumerate(found, 1):
        yield match, count > LOOKALIKES_MAX


def _numbers(text: str) -> Iterator[tuple[int, int]]:
    """Where seven digits and more stand among nothing but separators: start, and end with what may look
    ahead. The patterns of numbers are tried there alone."""
    for found in _NUMBER.finditer(text):
        if sum(map(str.isdecimal, found[0])) >= NUMBER_DIGITS_LEAST:
            yield found.start(), min(len(text), found.end() + 3)


class Email:
    """Addresses of people: not of roles (support@), nor at names that are kept for examples."""

    name = detectors.EMAIL
    _domain = re.compile(r"@((?:[\w-]{1,63}\.){1,8}[^\W\d_]{2,24})(?![\w-])")
    _local_reversed = re.compile(r"[\w.%+'-]{1,64}")
    _roles = frozenset(_TABLE["email"]["roles"])
    _kept = tuple("." + one for one in _TABLE["email"]["domains"]) + tuple(_TABLE["email"]["suffixes"])

    def finds(self, text: str) -> bool:
        """See Detector."""
        return any(
            late or self._personal(text, match) for match, late in _counted(self._domain.finditer(text))
        )

    def _personal(self, text: str, found: re.Match[str]) -> bool:
        at = found.start()
        local = self._local_reversed.match(text[max(0, at - 65) : at][::-1])
        if local is None or f".{found[1]}".lower().endswith(self._kept):
            return False
        return local[0][::-1].lower() not in self._roles


class Phone:
    """International and North American numbers, national ones with a leading 0 in groups, and any after a
    word that says so. Dates are none."""

    name = detectors.PHONE
    _international = re.compile(
        r"[+0](?<![\w+.].)(?:(?<=\+)|0(?=\d{1,3}[ .-]))(\d(?:[ .\-/()]{0,2}\d){7,14})(?!\d)"
    )
    _american = re.compile(
        r"[(1-9](?<![\w.+/-].)(?<!\d .)(?:(?<=1)[ .-]\(?[2-9]|(?<=\()[2-9]|(?<=[2-9]))"
        r"\d\d(?:\) ?\d{3}[ .-]|([.-])\d{3}\1| [2-9]\d\d )\d{4}(?!\w|[.-]\d)"
    )
    _trunk = re.compile(
        r"[(0](?<![\w.+/:-].)(?<!\d .)(?:(?<=\()0\d{1,4}\) ?|(?<=0)\d{2,4}[ /-])\d{3,8}(?:[ -]\d{1,6})?"
        r"(?![\w.:-]\d|\w)"
        r"|0(?<![\w.].)[1-9](?:([ .])\d\d)(?:\1\d\d){3}(?!\d)"
    )
    _date = re.compile(r"\d{4}[-/.]\d\d?[-/.]\d\d?(?!\d)|\d\d?[-/.]\d\d?[-/.]\d{4}(?!\d)")
    _any = re.compile(r"[(+]?\d(?:[ .\-/()]{0,2}\d){6,14}(?!\d)")
    _codes = frozenset(_TABLE["phone"]["calling_codes"])
    _named = re.compile(
        rf"(?<!\w)(?:{'|'.join(map(re.escape, _TABLE['phone']['words']))})"
        r"(?: number| no\.?| us| me| at| on| is|:|#){0,4}[ :#]{0,3}\Z"
    )

    def finds(self, text: str) -> bool:
        """See Detector."""
        return any(
            count >= LOOKALIKES_MAX or self._stands_at(text, *place)
            for count, place in enumerate(_numbers(text))
        )

    def _stands_at(self, text: str, start: int, end: int) -> bool:
        if self._american.search(text, start, end):
            return True
        for found in self._trunk.finditer(text, start, end):
            if sum(map(str.isdecimal, found[0])) >= TRUNK_DIGITS_LEAST:
                return True
        for found in self._international.finditer(text, start, end):
            if any(found[1][:length] in self._codes for length in (1, 2, 3)):
                return True
        named = self._any.match(text, start, end)
        if named is None or self._date.match(text, start, end):
            return False
        return self._named.search(text[max(0, start - NAME_CHARS_MAX) : start].lower()) is not None


class PaymentCard:
    """Card numbers in one piece or in the groups printed on cards, of a scheme's range, with Luhn's digit."""

    name = detectors.PAYMENT_CARD
    _whole = re.compile(r"\d(?<![\d.].)\d{12,18}(?!\d)")
    _fours = re.compile(r"\d(?<![\d.].)(?=(\d{3}([ -])\d{4}\2\d{4}\2\d{1,4}(?:\2\d{3})?)(?!\d))")
    _sixes = re.compile(r"\d(?<![\d.].)(?=(\d{3}([ -])\d{6}\2\d{4,5})(?!\d))")

    def __init__(self) -> None:
        """The schemes of the table."""
        self._schemes = [
            (range(one["first"][0], one["first"][1] + 1), one["digits"], frozenset(one["lengths"]))
            for one in _TABLE["payment_card"]["schemes"]
        ]

    def finds(self, text: str) -> bool:
        """See Detector."""
        return any(late or self._is_card(digits) for digits, late in self._candidates(text))

    def _candidates(self, text: str) -> Iterator[tuple[str, bool]]:
        count = 0
        for start, end in _numbers(text):
            for shape in (self._whole, self._fours, self._sixes):
                for found in shape.finditer(text, start, end):
                    count += 1
                    digits = found[0] + (found[1] if shape.groups else "")
                    yield digits.replace(" ", "").replace("-", ""), count > LOOKALIKES_MAX

    def _is_card(self, digits: str) -> bool:
        known = any(
            len(digits) in lengths and int(digits[:count]) in first for first, count, lengths in self._schemes
        )
        return known and len(set(digits)) > 1 and check_digits.luhn(digits)


class Iban:
    """IBANs of the registry's countries, with their check digits."""

    name = detectors.IBAN
    _checks = re.compile(
        r"[0-9]{2}(?<=[A-Za-z]{2}[0-9]{2})(?<![A-Za-z0-9]....)(?=((?:[ -]?[A-Za-z0-9]){11,30}))"
    )
    _lengths: Mapping[str, int] = _TABLE["iban"]["lengths"]

    def finds(self, text: str) -> bool:
        """See Detector."""
        return any(
            late or self._is_iban(text, match) for match, late in _counted(self._checks.finditer(text))
        )

    def _is_iban(self, text: str, match: re.Match[str]) -> bool:
        country = text[match.start() - 2 : match.start()].upper()
        found = country + match[0] + match[1].replace(" ", "").replace("-", "").upper()
        length = self._lengths.get(country, 0)
        return bool(length) and len(found) >= length and check_digits.iban(found[:length])


class NationalId:
    """See ``national_ids``."""

    name = detectors.NATIONAL_ID

    def finds(self, text: str) -> bool:
        """See Detector."""
        return holds_national_id(text, _numbers(text), LOOKALIKES_MAX)


class IpAddress:
    """Addresses of the public internet: not private, reserved or documentation's ones, nor resolvers that
    manuals name, nor versions and chapters."""

    name = detectors.IP_ADDRESS
    _v4 = re.compile(r"\d(?<![\w.-].)\d{0,2}\.(?:\d{1,3}\.){2}\d{1,3}(?!\w|\.\d|-\w)")
    _v6 = re.compile(r"[23](?<![\w:.].)[0-9A-Fa-f]{3}:[0-9A-Fa-f:]{2,35}")
    _compared = ("==", ">=", "<=", "~=", "!=")
    _public = frozenset(_TABLE["ip_address"]["public"])
    _before = re.compile(
        rf"(?<!\w)(?:{'|'.join(map(re.escape, _TABLE['ip_address']['words']))})[ :#=]{{0,2}}\Z"
    )

    def finds(self, text: str) -> bool:
        """See Detector."""
        if text.count(".") >= 3:
            for match, late in _counted(self._v4.finditer(text)):
                if late or self._names_somebody(match[0], text[max(0, match.start() - 16) : match.start()]):
                    return True
        if text.count(":") >= 2:
            for match, late in _counted(self._v6.finditer(text)):
                if late or self._names_somebody(match[0].rstrip(":"), ""):
                    return True
        return False

    def _names_somebody(self, found: str, before: str) -> bool:
        try:
            address = ipaddress.ip_address(found)
        except ValueError:
            return False
        if not address.is_global or found in self._public or before.endswith(self._compared):
            return False
        return self._before.search(before.lower()) is None


class Secret:
    """See ``secrets_in_text``."""

    name = detectors.SECRET

    def finds(self, text: str) -> bool:
        """See Detector."""
        return holds_secret(text, LOOKALIKES_MAX)


RULES: Final[Sequence[Detector]] = (
    Secret(),
    Email(),
    PaymentCard(),
    Iban(),
    NationalId(),
    Phone(),
    IpAddress(),
)
"""All of them; the names are ``detectors.DETECTORS``."""


def finds(text: str, names: Collection[str], among: Sequence[Detector] = RULES) -> str | None:
    """The name of the first of ``among`` with one of ``names`` that finds something; TOO_LONG for a text
    that is not read; None for nothing."""
    if names and len(text) > CHARS_MAX:
        return TOO_LONG
    return next((one.name for one in among if one.name in names and one.finds(text)), None)
