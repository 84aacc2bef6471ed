"""What may not be stored is found, what only looks like it is not, and no text takes long."""

from __future__ import annotations

import re
import string
import tomllib
from pathlib import Path
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ext_proc.cache.detectors import DETECTORS, EMAIL, IP_ADDRESS, SECRET
from ext_proc.cache.personal_data import CHARS_MAX, LOOKALIKES_MAX, RULES, TOO_LONG, Detector, finds

TABLE: Final = tomllib.loads(Path(__file__).with_name("personal_data_cases.toml").read_text())
_LETTERS: Final = "".join(one + string.digits[place % 10] for place, one in enumerate(string.ascii_letters))
BY_NAME: Final = {one.name: one for one in RULES}


def filled(text: str) -> str:
    """``{A36}`` as 36 letters and digits, ``{U16}`` as capitals: no credential stands in this repository."""
    upper = string.ascii_uppercase
    text = re.sub(r"\{A(\d+)\}", lambda found: _LETTERS[3 : 3 + int(found[1])][::-1], text)
    return re.sub(r"\{U(\d+)\}", lambda found: upper[: int(found[1])], text)


def cases(side: str) -> list[tuple[str, str]]:
    return [(name, text) for name in TABLE for text in TABLE[name][side]]


def test_the_table_is_large_and_names_every_detector() -> None:
    assert set(TABLE) == DETECTORS == set(BY_NAME)
    assert len(cases("finds")) >= 100
    assert len(cases("passes")) >= 150


@pytest.mark.parametrize(("name", "text"), cases("finds"))
def test_found(name: str, text: str) -> None:
    assert BY_NAME[name].finds(filled(text))
    assert BY_NAME[name].finds(f"You asked about this before.\n{filled(text)}\nAnything else?")
    assert finds(filled(text), {name}) == name


@pytest.mark.parametrize(("name", "text"), cases("passes"))
def test_passed(name: str, text: str) -> None:
    assert not BY_NAME[name].finds(filled(text))
    assert not BY_NAME[name].finds(f"You asked about this before.\n{filled(text)}\nAnything else?")


PROSE: Final = """To reset your password, open Settings, choose Security and press "Reset password". We send
a link to the address in your profile; it is good for 30 minutes. In version 4.2.1 (of 2024-03-18) the page
moved to Account > Sign-in. An order can be returned in 30 days; the label of order 2024-000481 costs 4.99.
Our servers run on ports 8080 and 8443; 127.0.0.1 is your own machine. Opening hours: 9:00-17:30, Mon-Fri.
"""


def test_ordinary_answers_hold_nothing() -> None:
    assert finds(PROSE * 6, DETECTORS) is None


def test_only_the_named_detectors_look() -> None:
    text = "Write to jane.doe@acme-widgets.com from 81.2.69.142."
    assert finds(text, {IP_ADDRESS}) == IP_ADDRESS
    assert finds(text, {EMAIL, SECRET}) == EMAIL
    assert finds(text, ()) is None


def test_another_detector_can_be_put_in() -> None:
    class Swans:
        name = "swans"

        def finds(self, text: str) -> bool:
            return "swan" in text

    swans: Detector = Swans()
    assert finds("a swan", {"swans"}, [*RULES, swans]) == "swans"
    assert finds("a swan", DETECTORS, [*RULES, swans]) is None


def test_what_is_too_long_is_not_read_and_not_stored() -> None:
    assert finds("a" * (CHARS_MAX + 1), DETECTORS) == TOO_LONG
    assert finds("a" * 1024 * 1024, ()) is None


def test_a_text_full_of_lookalikes_is_taken_to_hold_a_find() -> None:
    assert not BY_NAME[IP_ADDRESS].finds("10.0.0.1 " * LOOKALIKES_MAX)
    assert BY_NAME[IP_ADDRESS].finds("10.0.0.1 " * (LOOKALIKES_MAX + 1))


# --- no text takes long: the steps of a pattern grow with the text, not with its square ---

LENGTH: Final = 16 * 1024
LONG: Final = ("a", "1 ", "password: ")
HOSTILE: Final = (
    *("a", "1", " ", "@", "a@", "a.", "1 ", "1-", "12 ", "1234 ", "+1", "+ ", "0", "00 ", "(", "(0", "\n"),
    *("10.0.0.1 ", "1.1.1.", "2001:", "2:", ":", "eyJ", "eyJa.", "sk-", "sk-a", "ghp_", "tg-", "tg-a", "://"),
    *("://a:", "://a:pw@", "password: ", "password:", "bearer ", "bearer a", "DE89 ", "DE89", "de12 a", "A-"),
    *(
        "-----BEGIN ",
        "call ",
        "call 1",
        "tel. (",
        "passport ",
        "passport: a",
        "X",
        "XX12",
        "é",
        "\u0661",
        "ssn ",
    ),
    *("123-45-", "a1", "'", '"', "password is is ", "a_b", "@a.", "a@a.a", "1.2.3.4.", "ABCPE"),
)


def test_hostile_texts_are_read_by_each_rule() -> None:
    """Quadratic work on any of these would take minutes and end the run by its time limit."""
    texts = [piece * (LENGTH // len(piece)) for piece in HOSTILE]
    texts += [piece * (1024 * 1024 // len(piece)) for piece in LONG]
    for text in texts:
        for rule in RULES:
            rule.finds(text)


@given(st.text(st.sampled_from("a1 .-+@:/(=\n'eyJskDE89_"), max_size=200))
def test_any_text_is_read(text: str) -> None:
    found = {rule.name for rule in RULES if rule.finds(text)}
    first = finds(text, DETECTORS)
    assert (first is None) == (not found)
    assert first is None or first in found
