"""Numbers as written and as spoken, with their units, clock times and ordinals, in one spelling each."""

from __future__ import annotations

import re
from typing import Final

from ext_proc.cache.question import tables

UNITS: Final = {name: unit for group in tables.groups("units") for unit in group[:1] for name in group}
"""Every way a unit is written, in lower case, to its one name; units of one kind are never converted."""
UNIT_NAMES: Final = frozenset(UNITS.values())
CASED_UNITS: Final = frozenset({"Mb", "Gb", "Kb", "Tb", "MW", "mW", "MM", "PB", "Pb", "M", "G", "K"})
"""Units whose case is their meaning: a megabit is no megabyte."""
ONES: Final = {
    word: value
    for value, word in enumerate(
        [
            "zero",
            "one",
            "two",
            "three",
            "four",
            "five",
            "six",
            "seven",
            "eight",
            "nine",
            "ten",
            "eleven",
            "twelve",
            "thirteen",
            "fourteen",
            "fifteen",
            "sixteen",
            "seventeen",
            "eighteen",
            "nineteen",
        ]
    )
}
TENS: Final = {
    word: 10 * value
    for value, word in enumerate(
        ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"], start=2
    )
}
SCALES: Final = {"hundred": 100, "thousand": 1_000, "million": 1_000_000, "billion": 1_000_000_000}
SPOKEN: Final = frozenset([*ONES, *TENS, *SCALES])
ORDINALS: Final = {
    word: str(value) + suffix
    for value, (word, suffix) in enumerate(
        zip(
            [
                "first",
                "_",
                "third",
                "fourth",
                "fifth",
                "sixth",
                "seventh",
                "eighth",
                "ninth",
                "tenth",
                "eleventh",
                "twelfth",
            ],
            ["st", "nd", "rd", "th", "th", "th", "th", "th", "th", "th", "th", "th"],
            strict=True,
        ),
        start=1,
    )
}
"""Not "second", which is also a unit of time."""
CLOCK: Final = re.compile(r"(\d{1,2})(?:[:.](\d{2}))?(?::(\d{2}))?\s?([ap])?\.?m?\.?", re.IGNORECASE)
PRONOUN_ONE: Final = tables.words("function", "before one")
"""Before "one", these make it a pronoun."""


def parts(number: str, unit: str, currency: str) -> list[str]:
    """Tokens of a number in digits with the letters written to it and the currency sign before it."""
    if re.fullmatch(r"[-+]?\d{1,3}(,\d{3})+(\.\d+)?", number):
        number = number.replace(",", "")
    folded = unit.lower()
    if folded in ("st", "nd", "rd", "th"):
        return [number + folded]
    if unit in CASED_UNITS:
        return [number + unit]
    if folded in UNITS:
        return [number, UNITS[folded], *([currency] if currency else [])]
    if unit:
        return [number + folded, *([currency] if currency else [])]
    return [number, *([currency] if currency else [])]


def clock(text: str) -> list[str]:
    """One token for a time of day: "7 pm", "7:00pm" and "19:00" are "7:00pm", "07:00" is "7:00am"; "7:00"
    may be either and stays what it is."""
    match = CLOCK.fullmatch(text.strip())
    if match is None:
        return [text.lower()]
    hour, minute, second, half = match.groups()
    if half is None and second is None and (hour[0] == "0" or 12 < int(hour) < 24):
        return [f"{int(hour) % 12 or 12}:{minute}{'pm' if int(hour) > 12 else 'am'}"]
    if half is None:
        return [f"{hour}:{minute or '00'}" + (f":{second}" if second else "")]
    return [f"{int(hour)}:{minute or '00'}{half.lower()}m"]


def spoken(words: list[str]) -> list[str]:
    """`words` (lower case) with numbers in words turned into digits and units into their one name."""
    if not any(word in SPOKEN or word in ORDINALS or word in UNITS for word in words):
        return words
    found: list[str] = []
    index = 0
    while index < len(words):
        word = words[index]
        if word in SPOKEN and not (word in SCALES and not _starts_scale(found)):
            if word == "one" and found and found[-1] in PRONOUN_ONE:
                found.append(word)
                index += 1
                continue
            value, taken = _value(words, index)
            if word in SCALES:
                value *= int(found.pop())
            found.append(str(value))
            index += taken
        elif word in ORDINALS:
            found.append(ORDINALS[word])
            index += 1
        elif word in UNITS and found and found[-1][-1:].isdigit():
            found.append(UNITS[word])
            index += 1
        else:
            found.append(word)
            index += 1
    return found


def _starts_scale(found: list[str]) -> bool:
    return bool(found) and found[-1].isdigit() and len(found[-1]) < 7


def _value(words: list[str], start: int) -> tuple[int, int]:
    """Value of the number in words that begins at `start`, and how many words it takes."""
    total = current = 0
    index = start
    previous = ""
    while index < len(words):
        word = words[index]
        if word in SCALES:
            current = (current or 1) * SCALES[word]
            if SCALES[word] >= 1_000:
                total, current = total + current, 0
        elif word in TENS and previous in ("", "scale"):
            current += TENS[word]
        elif word in ONES and (previous in ("", "scale") or (previous == "tens" and 0 < ONES[word] < 10)):
            current += ONES[word]
        elif (
            word == "and"
            and previous == "scale"
            and words[index + 1 : index + 2]
            and words[index + 1] in {*ONES, *TENS}
        ):
            index += 1
            continue
        else:
            break
        previous = "scale" if word in SCALES else "tens" if word in TENS else "ones"
        index += 1
    return total + current, index - start
