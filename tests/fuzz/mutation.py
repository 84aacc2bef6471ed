"""Small changes to bytes, texts and JSON values, from a seeded source: a million must fit in minutes."""

from __future__ import annotations

import itertools
import random
from typing import Any, Final

STRANGE_BYTES: Final = (
    *(
        b"\0",
        b"\n",
        b"\r",
        b"\r\n",
        b"\n\n",
        b'"',
        b"\\",
        b"{",
        b"}",
        b"[",
        b"]",
        b":",
        b",",
        b".",
        b"=",
        b"-",
    ),
    *(
        b"\xff",
        b"\xc3\x28",
        b"\xed\xa0\x80",
        b"\xef\xbb\xbf",
        b"\\ud800",
        b"\\u0000",
        b"data:",
        b"data: [DONE]",
    ),
    *(
        b"null",
        b"true",
        b"NaN",
        b"1e999",
        b"-0",
        b"9" * 30,
        b"[" * 80,
        b"{}",
        b"[]",
        b" ",
        b"\t",
        b"#",
        b"&a",
        b"*a",
    ),
    *(b"!!python/object:os.system", b"<<: ", b"? ", b"| ", b"- ", b"%YAML 9.9\n", b"---\n", b"...\n"),
)
STRANGE_VALUES: Final[tuple[Any, ...]] = (
    *(None, True, False, 0, 1, -1, 2, 64, 10**9, 2**53, 2**63 - 1, -(2**63), 0.0, -0.0, 0.5, 1.5, 1e300),
    *("", " ", "a", "x" * 300, "\0", "é", "\u2028", "🙂", "user", "assistant", "auto", "none", "json_object"),
    *("../../etc/passwd", "a\r\nb: c", "[DONE]", "stop", "-1", "1e9", "https://x", "*", "NaN", "true"),
    *(
        [],
        [None],
        [0],
        [1, 2, 3],
        [""],
        ["a", "a"],
        [[]],
        [{}],
        [True],
        [1.5],
        {},
        {"": 0},
        {"a": None},
        {"type": "text"},
    ),
)


def changed_bytes(rng: random.Random, data: bytes, other: bytes = b"") -> bytes:
    """One to four changes; ``other`` is a second input to take pieces from."""
    made = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        at = rng.randrange(len(made) + 1)
        match rng.randrange(7):
            case 0 if at < len(made):
                made[at] ^= 1 << rng.randrange(8)
            case 1 if at < len(made):
                made[at] = rng.randrange(256)
            case 2:
                made[at:at] = rng.choice(STRANGE_BYTES)
            case 3:
                del made[at : at + rng.choice((1, 1, 2, 5, 20))]
            case 4:
                length = rng.choice((1, 4, 30))
                made[at:at] = made[at : at + length]
            case 5:
                source = rng.randrange(len(other) + 1)
                made[at:at] = other[source : source + rng.choice((4, 20, 100))]
            case _:
                del made[at:]
                made += rng.choice(STRANGE_BYTES)
    return bytes(made)


def changed_text(rng: random.Random, text: str, alphabet: str) -> str:
    """One or two characters of ``text`` changed, put in, taken out, or the end cut off."""
    for _ in range(rng.choice((1, 1, 2))):
        at = rng.randrange(len(text) + 1)
        match rng.randrange(4):
            case 0:
                text = text[:at] + rng.choice(alphabet) + text[at + 1 :]
            case 1:
                text = text[:at] + rng.choice(alphabet) + text[at:]
            case 2:
                text = text[:at] + text[at + 1 :]
            case _:
                text = text[:at] if rng.random() < 0.2 else text[:at] + text[at:][::-1]
    return text


def changed_value(rng: random.Random, value: Any, names: tuple[str, ...]) -> Any:
    """A copy of a JSON value with one place in it replaced, left out, doubled or named otherwise.

    Goes down from the top, so that what is near it changes as often as what is deep inside.
    """
    if isinstance(value, dict) and value and rng.random() < 0.85:
        name = rng.choice(tuple(value))
        match rng.randrange(8):
            case 0:
                return {key: inner for key, inner in value.items() if key != name}
            case 1:
                return {**value, rng.choice(names): rng.choice(STRANGE_VALUES)}
            case 2:
                return {rng.choice(names) if key == name else key: inner for key, inner in value.items()}
            case _:
                return {**value, name: changed_value(rng, value[name], names)}
    if isinstance(value, list) and value and rng.random() < 0.85:
        at = rng.randrange(len(value))
        match rng.randrange(6):
            case 0:
                return value[:at] + value[at + 1 :]
            case 1:
                return [*value, *value[at:]]
            case 2:
                return [*value[:at], rng.choice(STRANGE_VALUES), *value[at:]]
            case _:
                return [*value[:at], changed_value(rng, value[at], names), *value[at + 1 :]]
    if isinstance(value, str) and value and rng.random() < 0.3:
        return value + rng.choice(("", "\0", " ", "\u200b", "x", value))
    # A number that no float can hold, and which a second change may meet, is replaced.
    if type(value) is int and abs(value) < 2**1023 and rng.random() < 0.5:
        return rng.choice((value + 1, value - 1, -value, value * 10, float(value), str(value)))
    return rng.choice(STRANGE_VALUES)


def cut_up(rng: random.Random, data: bytes) -> list[bytes]:
    """``data`` in up to five pieces; some may be empty."""
    cuts = sorted(rng.randrange(len(data) + 1) for _ in range(rng.randrange(5)))
    edges = [0, *cuts, len(data)]
    return [data[start:end] for start, end in itertools.pairwise(edges)]
