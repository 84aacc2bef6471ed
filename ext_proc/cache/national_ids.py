"""Numbers that states give to people: shapes and check digits. Pure.

Sources: the issuers' rules as named in ``check_digits``; SSA (SSN randomization, 2011), HMRC NIM39110
(national insurance numbers), Income Tax Department of India (PAN), ESDC (Canadian SIN).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from typing import Final

from ext_proc.cache import check_digits

_SEPARATORS: Final = str.maketrans("", "", " .-+")


def _any(_: str) -> bool:
    """The shape says it all."""
    return True


def _shape(first: str, rest: str) -> re.Pattern[str]:
    """Standing alone: in no longer word or number. Beginning with a set of characters, the search skips the
    others at once."""
    return re.compile(rf"{first}(?<![\w.-].)(?<!\d .){rest}(?![\w-]|[. ]\d)")


Kind = tuple[re.Pattern[str], Callable[[str], bool]]
_NUMBERS: Final[tuple[Kind, ...]] = (
    # United States, social security
    (_shape(r"[0-8]", r"\d\d(?<!000)(?<!666)([- ])(?!00)\d{2}\1(?!0000)\d{4}"), _any),
    # Germany, tax id
    (_shape(r"[1-9]", r"\d ?\d{3} ?\d{3} ?\d{3}"), check_digits.german_tax_id),
    # Poland
    (_shape(r"\d", r"\d{10}"), check_digits.pesel),
    # France, social security
    (_shape(r"[12]", r" ?\d\d ?\d\d ?\d\d ?\d{3} ?\d{3} ?\d\d"), check_digits.french_nir),
    # Sweden
    (_shape(r"\d", r"\d{5}(?:\d{2})?[-+]\d{4}"), check_digits.swedish_id),
    # Canada
    (_shape(r"[1-79]", r"\d\d([- ])\d{3}\1\d{3}"), check_digits.luhn),
    # India, Aadhaar
    (_shape(r"[2-9]", r"\d{3}([- ])\d{4}\1\d{4}"), check_digits.verhoeff),
    # Brazil
    (_shape(r"\d", r"\d\d\.\d{3}\.\d{3}-\d{2}"), check_digits.cpf),
    # China
    (_shape(r"[1-6]", r"\d{17}"), check_digits.chinese_id),
)
"""Of digits and separators alone."""
_WITH_LETTERS: Final[tuple[Kind, ...]] = (
    # United Kingdom, national insurance
    (
        _shape(
            r"[A-CEGHJ-PR-TW-Z]",
            r"[A-CEGHJ-NPR-TW-Z](?<!BG)(?<!GB)(?<!KN)(?<!NK)(?<!NT)(?<!TN)(?<!ZZ) ?\d\d ?\d\d ?\d\d ?[A-D]",
        ),
        _any,
    ),
    # France, born in Corsica
    (_shape(r"[12]", r" ?\d\d ?\d\d ?2[AB] ?\d{3} ?\d{3} ?\d\d"), check_digits.french_nir),
    # Spain
    (_shape(r"[\dXYZ]", r"(?:(?<=\d)\d{7}|(?<=[XYZ])-?\d{7})-?[A-HJ-NP-TV-Z]"), check_digits.spanish_id),
    # Italy
    (_shape(r"[A-Z]", r"[A-Z]{5}\d\d[A-EHLMPRST]\d\d[A-Z]\d{3}[A-Z]"), check_digits.italian_fiscal_code),
    # India, PAN
    (_shape(r"[A-Z]", r"[A-Z]{2}[ABCFGHLJPT][A-Z]\d{4}[A-Z]"), _any),
    # China
    (_shape(r"[1-6]", r"\d{16}X"), check_digits.chinese_id),
)
RUN_DIGITS_LEAST: Final = 4
"""Of an Indian PAN; the others have more."""
_RUN: Final = re.compile(r"[A-Z\d][A-Z\d +-]{8,}")
_FINNISH: Final = _shape(r"[0-3]", r"\d[01]\d{3}[-+A-FU-Y]\d{3}[0-9A-FHJ-NPR-Y]")
_NAMES: Final = (
    *("ssn", "social security", "passport", "bsn", "aadhaar", "national id", "driver's license", "tax id"),
    *("driver's licence", "drivers license", "drivers licence", "driver license", "taxpayer id", "steuer-id"),
    *("national insurance", "steuerid", "personalausweis", "personalausweisnummer", "id card"),
)
_NAMED: Final = re.compile(
    r"(?: number| no\.?)?[ :#=]{1,3}(?:is |was )?(?=[a-z]{0,3}[0-9])[a-z0-9]{6,14}(?!\w)"
)


def holds_national_id(text: str, numbers: Iterable[tuple[int, int]], most: int) -> bool:
    """Whether one stands in ``text``, or more than ``most`` that only look like one. ``numbers``: where
    digits and separators stand, the only places where those without letters can be."""
    left = most
    for found, good in _candidates(text, numbers):
        left -= 1
        if left < 0 or good(found[0].translate(_SEPARATORS)):
            return True
    finnish = (
        check_digits.finnish_id(found[0])
        for place in _runs(text)
        for found in _FINNISH.finditer(text, *place)
    )
    return any(finnish) or holds_named(text.lower(), _NAMES, _NAMED)


def _candidates(
    text: str, numbers: Iterable[tuple[int, int]]
) -> Iterator[tuple[re.Match[str], Callable[[str], bool]]]:
    for kinds, places in ((_NUMBERS, numbers), (_WITH_LETTERS, _runs(text))):
        for start, end in places:
            for shape, good in kinds:
                yield from ((found, good) for found in shape.finditer(text, start, end))


def _runs(text: str) -> Iterator[tuple[int, int]]:
    """Where capitals, digits and separators stand, as many as the shortest number with letters has: start,
    and end with what may look ahead."""
    for found in _RUN.finditer(text):
        if sum(map(str.isdecimal, found[0])) >= RUN_DIGITS_LEAST:
            yield found.start(), min(len(text), found.end() + 3)


def holds_named(folded: str, names: Iterable[str], value: re.Pattern[str]) -> bool:
    """Whether ``value`` stands right behind one of ``names`` in ``folded``, which begins no longer word."""
    return any(True for name in names for _ in values_behind(folded, folded, name, value))


def values_behind(folded: str, text: str, name: str, value: re.Pattern[str]) -> Iterator[re.Match[str]]:
    """Matches of ``value`` in ``text`` right behind each ``name`` of its folded form."""
    at = folded.find(name)
    while at >= 0:
        found = value.match(text, at + len(name))
        if found and not folded[at - 1 : at].isalnum():
            yield found
        at = folded.find(name, at + len(name))
