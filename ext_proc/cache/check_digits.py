"""Check digits: what tells a real number from one that only looks like it. Pure.

Each takes text of the right shape and length; letters are capitals.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

_DNI_LETTERS: Final = "TRWAGMYFPDXBNJZSQVHLCKE"
_HETU_LETTERS: Final = "0123456789ABCDEFHJKLMNPRSTUVWXY"
_FISCAL_ODD: Final = (
    1,
    0,
    5,
    7,
    9,
    13,
    15,
    17,
    19,
    21,
    2,
    4,
    18,
    20,
    11,
    3,
    6,
    8,
    12,
    14,
    16,
    10,
    22,
    25,
    24,
    23,
)
"""Values of A to Z, and of 0 to 9, at odd places of a codice fiscale (decree of 23 December 1976)."""
# Verhoeff, Error Detecting Decimal Codes, 1969: the dihedral group of ten, and its permutation.
_DIHEDRAL: Final = (
    (0, 1, 2, 3, 4, 5, 6, 7, 8, 9),
    (1, 2, 3, 4, 0, 6, 7, 8, 9, 5),
    (2, 3, 4, 0, 1, 7, 8, 9, 5, 6),
    (3, 4, 0, 1, 2, 8, 9, 5, 6, 7),
    (4, 0, 1, 2, 3, 9, 5, 6, 7, 8),
    (5, 9, 8, 7, 6, 0, 4, 3, 2, 1),
    (6, 5, 9, 8, 7, 1, 0, 4, 3, 2),
    (7, 6, 5, 9, 8, 2, 1, 0, 4, 3),
    (8, 7, 6, 5, 9, 3, 2, 1, 0, 4),
    (9, 8, 7, 6, 5, 4, 3, 2, 1, 0),
)
_PERMUTED: Final = (1, 5, 7, 6, 2, 8, 3, 0, 9, 4)


def luhn(digits: str) -> bool:
    """ISO/IEC 7812-1, annex B."""
    doubled = (sum(divmod(2 * int(one), 10)) for one in digits[-2::-2])
    return (sum(map(int, digits[-1::-2])) + sum(doubled)) % 10 == 0


def iban(text: str) -> bool:
    """ISO 13616: mod 97 is 1."""
    return int("".join(str(int(one, 36)) for one in text[4:] + text[:4])) % 97 == 1


def verhoeff(digits: str) -> bool:
    """Aadhaar."""
    check = 0
    for place, one in enumerate(reversed(digits)):
        value = int(one)
        for _ in range(place % 8):
            value = _PERMUTED[value]
        check = _DIHEDRAL[check][value]
    return check == 0


def german_tax_id(digits: str) -> bool:
    """ISO 7064 mod 11,10; of the first ten digits some stand twice or thrice, the first is not 0."""
    product = 10
    for one in digits[:10]:
        product = ((int(one) + product) % 10 or 10) * 2 % 11
    most = max(digits[:10].count(one) for one in digits[:10])
    return digits[0] != "0" and most in (2, 3) and (11 - product) % 10 == int(digits[10])


def french_nir(text: str) -> bool:
    """INSEE: the last two are 97 less the rest mod 97; Corsica's 2A and 2B count as 19 and 18."""
    number = text[:13].replace("2A", "19").replace("2B", "18")
    return number.isdecimal() and 97 - int(number) % 97 == int(text[13:])


def spanish_id(text: str) -> bool:
    """DNI and NIE: a letter by the number mod 23; X, Y and Z count as 0, 1 and 2."""
    first = str("XYZ".find(text[0])) if text[0] in "XYZ" else text[0]
    return _DNI_LETTERS[int(first + text[1:8]) % 23] == text[8]


def italian_fiscal_code(text: str) -> bool:
    """The last letter by the values of the fifteen characters before it."""

    def value(place: int, one: str) -> int:
        index = int(one) if one.isdecimal() else ord(one) - ord("A")
        return _FISCAL_ODD[index] if place % 2 == 0 else index

    return sum(value(place, one) for place, one in enumerate(text[:15])) % 26 == ord(text[15]) - ord("A")


def finnish_id(text: str) -> bool:
    """HETU ``ddmmyy-nnnc``: c by the nine digits mod 31."""
    return _HETU_LETTERS[int(text[:6] + text[7:10]) % 31] == text[10]


def weighted(digits: str, weights: Sequence[int]) -> int:
    """Sum of the digits times their weights."""
    return sum(int(one) * weight for one, weight in zip(digits, weights, strict=False))


def pesel(digits: str) -> bool:
    """Poland: weights 1, 3, 7, 9; the month holds the century."""
    month, day = int(digits[2:4]) % 20, int(digits[4:6])
    check = -weighted(digits[:10], (1, 3, 7, 9, 1, 3, 7, 9, 1, 3)) % 10
    return 1 <= month <= 12 and 1 <= day <= 31 and check == int(digits[10])


def cpf(digits: str) -> bool:
    """Brazil: two digits mod 11; eleven times the same digit is none."""
    for length in (9, 10):
        check = weighted(digits[:length], range(length + 1, 1, -1)) * 10 % 11 % 10
        if check != int(digits[length]):
            return False
    return len(set(digits)) > 1


def chinese_id(text: str) -> bool:
    """GB 11643: a date, and ISO 7064 mod 11-2, X for 10."""
    month, day = int(text[10:12]), int(text[12:14])
    if text[6:8] not in ("19", "20") or not 1 <= month <= 12 or not 1 <= day <= 31:
        return False
    weights = [2**power % 11 for power in range(17, 0, -1)]
    return "10X98765432"[weighted(text[:17], weights) % 11] == text[17]


def swedish_id(digits: str) -> bool:
    """Personnummer, ten digits, or twelve with the century: Luhn, and a date (60 more for a coordination
    number)."""
    digits = digits[-10:]
    return luhn(digits) and 1 <= int(digits[2:4]) <= 12 and 1 <= int(digits[4:6]) % 60 <= 31
