"""The twin's language model: deterministic text. Pure.

An answer's token is one word with the space before it; of a given text, and of JSON, four characters.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

BYTES_PER_TOKEN: Final = 4
"""Of prompts."""
LITERAL_CHARS: Final = 4
"""In a token of a given text."""
VOCABULARY: Final = 49152
"""SmolLM2's; ids of ``/tokenize`` lie below it."""

_TEXT: Final = """
tide gate water river harbour stone bridge lock canal ship sail wind rain cloud storm light lamp glass
window door house street market bread salt sugar coffee tea café naïve jalapeño São 日本 東京 measure count
ledger budget token minute month region engine model answer question prompt stream chunk first second
third early late open closed narrow wide deep shallow calm rough quick slow bright dark warm cold north
south east west spring summer autumn winter morning evening noon the a of and to in is was for with on
by from as at that this it not are be has have had one two
"""
WORDS: Final = tuple(_TEXT.split())
"""Some are not ASCII, so that a byte split inside a character is met."""


END_TOKEN: Final = 2
"""SmolLM2's end token, which SGLang reports as ``matched_stop``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A function's call within an answer: its JSON ``arguments``, and the places in the answer's text where
    its name is complete, its arguments begin and it ends."""

    name: str
    arguments: str
    named_at: int
    arguments_at: int
    end: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A choice's whole answer before its first token is sent.

    ``tokens`` are its tokens; ``pieces`` what a stream shows for each (a stop sequence and what
    follows it are never shown); ``finish`` is ``stop``, ``length`` or ``tool_calls``; ``matched`` the
    stop sequence or the end token's id. ``calls`` are what it calls in place of showing a text.
    """

    tokens: tuple[str, ...]
    pieces: tuple[str, ...]
    finish: str
    matched: str | int | None
    calls: tuple[Call, ...] = ()

    @property
    def text(self) -> str:
        """What a client sees in the end."""
        return "".join(self.pieces)


def _words(seed: int, length: int) -> list[str]:
    if length == 0:
        return []
    chooser = random.Random(seed)
    words = chooser.choices(WORDS, k=length)
    tokens = [words[0].capitalize(), *(" " + word for word in words[1:])]
    for place in range(chooser.randint(6, 14), length - 1, 11):
        tokens[place] += "."
    tokens[-1] += "."
    return tokens


def literal_tokens(text: str) -> list[str]:
    """A given text in tokens."""
    return [text[start : start + LITERAL_CHARS] for start in range(0, len(text), LITERAL_CHARS)]


def plan(
    identity: bytes,
    *,
    natural: tuple[int, int],
    max_tokens: int,
    stop: Sequence[str] = (),
    endless: bool = False,
    literal: str | None = None,
) -> Plan:
    """The answer for ``identity`` (model, prompt, seed and choice, joined).

    ``natural`` bounds the length the model would choose; ``endless`` (``ignore_eos``) goes on to
    ``max_tokens``; ``literal`` replaces the words by a given text, four characters a token.
    """
    seed = int.from_bytes(hashlib.blake2b(identity, digest_size=8).digest(), "big")
    shortest, longest = natural
    length = max_tokens if endless else shortest + seed % (longest - shortest + 1)
    tokens = _words(seed, length) if literal is None else literal_tokens(literal)
    finish, matched = ("length", None) if endless or len(tokens) > max_tokens else ("stop", END_TOKEN)
    return _stopped(tokens[:max_tokens], stop, finish, matched)


def _stopped(tokens: list[str], stop: Sequence[str], finish: str, matched: str | int | None) -> Plan:
    shown, seen = "", ""
    if stop:
        for count, token in enumerate(tokens, start=1):
            seen += token
            found = [(seen.find(text), text) for text in stop if text and text in seen]
            if found:
                at, text = min(found)
                shown, tokens, finish, matched = seen[:at], tokens[:count], "stop", text
                break
        else:
            shown = seen
    pieces, sent = [], 0
    for token in tokens:
        piece = token if not stop else shown[sent : sent + len(token)]
        sent += len(piece)
        pieces.append(piece)
    return Plan(tokens=tuple(tokens), pieces=tuple(pieces), finish=finish, matched=matched)
