"""Tokens of one line of English text: words, numbers, times, dates, code and the marks that carry meaning."""

from __future__ import annotations

import re
from typing import Final

from ext_proc.cache.question import numbers, tables

SENTENCE_END: Final = "."
COMMA: Final = ","

TOKEN: Final = re.compile(  # repetitions before a mark to be found are bounded: no text costs quadratic time
    r"""
    (?P<plain>(?<!\S)[A-Za-z]+(?!\S))
  | (?P<symbol>(?<!\S)(?:'[*+/%!&@\#$?:;.,"()\[\]-]{1,4}' | "[*+/%!&@\#$?:;.,'()\[\]-]{1,4}")(?=[\s.,?!]|\Z)
      | (?<!\S)(?:[*+/%@\#$'"] | (?![?!.;:-]{2,4}(?:\s|\Z))[*+/%!&@\#$?:;'"()\[\]-]{2,4})(?=\s|[?.!]?\Z)
      | (?:(?<=does\s)|(?<=\sthe\s)|(?<=\suse\s)|(?<=between\s)|(?<=\sis\s))[!&?:;.,-]{1,3}(?=\s)
      | (?<=\d\s)-(?=\s\d)
      | (?<!\S)[!&?:;.,-]{1,3}(?=\s(?:mean|operator|sign|symbol|character)s?\b)
      | (?<!\S)(?:\*{1,2}|!)[A-Za-z_]\w{0,80}(?![\w*]))
  | (?P<code>
        https?://\S+ | www\.\S+ | [\w.+-]{1,64}@[\w-]{1,64}(?:\.[\w-]{1,64})+
      | (?:[A-Za-z]:\\|~/|\.{1,2}/|(?<![\w/])/(?=[A-Za-z]))[\w./\\~-]*\w
      | \w[\w.]{0,80}\(\) | \w{1,80}(?:::\w+)+ | \w{1,80}->\w+
      | (?<![\w-])--?[A-Za-z][\w-]*
      | [A-Za-z][A-Za-z0-9]*_\w* | _+\w+
      | (?<![\w.])\.[A-Za-z]\w{0,7}\b
      | (?<!\w)[A-Za-z](?:\+\+|\#)(?!\w)
      | (?<!\w)(?!(?:[A-Za-z]\.){2})[A-Za-z][\w-]{0,80}(?:\.[a-z]\w{0,80})+(?![\w'])
      | \#\w+
    )
  | (?P<dotted>(?<!\w)(?:[A-Za-z]\.){2,})
  | (?P<date>(?<!\w)(?:\d{4}-\d{1,2}-\d{1,2}|\d{1,2}/\d{1,2}/\d{2,4}|\d{1,2}\.\d{1,2}\.\d{4})(?!\w))
  | (?P<time>(?<![\w.:])\d{1,2}(?:[:.]\d{2})?\s?[ap]\.?m(?:\.(?=\s*\S)|\b)
      |(?<![\w.:])\d{1,2}:\d{2}(?::\d{2})?(?!\w))
  | (?P<id>(?<!\w)(?:[A-Za-z]{1,80}-?\d[\w.-]{0,80}\w|[A-Za-z]+\d|[A-Za-z]+-\d|\d+[A-Za-z]+\d\w*))
  | (?P<number>(?:(?<![\w)\]])(?<![\d)\]]\s)[-+](?=\d))?
      (?:\d{1,3}(?:,\d{3})+(?![\d,])(?:\.\d+)?|\d+(?:\.\d+)*(?:,\d+)*(?:/\d+)?))
    (?P<unit>[A-Za-z\u00b5\u00b0\u03bc]+(?![\w']))?
  | (?P<word>[^\W\d_]+(?:'[^\W\d_]+)*'?)
  | (?P<mark>\S)
    """,
    re.VERBOSE,
)
PREFIXES: Final = tables.words("affixes", "joined")
"""Before a hyphen these make one word with what follows: "non-refundable" is "nonrefundable"."""
AGAIN: Final = re.compile(
    rf"(?:{'|'.join(sorted(tables.words('affixes', 'again')))})(?:s|ed|ing)?\b",
    re.IGNORECASE,
)
"""Behind "re-" and "co-" these make another word than without the hyphen: "re-sign", "resign"."""
SILENT: Final = frozenset("\"'()[]{}!\u00ab\u00bb\u00a1\u00bf*")
"""Marks that say nothing in a question. `*` stands here for emphasis; between numbers it is kept."""
STANDING: Final = {
    "&": "and",
    "%": "percent",
    "$": "dollar",
    "\u00a3": "gbp",
    "\u20ac": "eur",
    "\u00a5": "yen",
    "\u00b0": "degree",
}
MONEY: Final = frozenset("$\u00a3\u20ac\u00a5")
DASHES: Final = frozenset("-\u2013\u2014")
PAUSES: Final = frozenset(",:;")
ENDS: Final = frozenset(".?!\u2026")


def split(text: str) -> list[str]:
    """Tokens of `text`, with the case and the spelling they have there.

    Numbers and units stand apart ("2kg" is "2", "kg"), a currency sign follows its number, hyphenated words
    come apart except after a prefix, ends of sentences are ".", pauses ",".
    """
    found: list[str] = []
    currency = ""
    joins = False
    for match in TOKEN.finditer(text):
        kind = match.lastgroup
        token = match.group()
        if kind == "mark":
            following = text[match.end() : match.end() + 1]
            preceding = text[match.start() - 1 : match.start()]
            if token in MONEY and following.isdigit():
                currency = STANDING[token]
            elif token in "-\u2013" and _is_hyphen(preceding, following):
                joins = bool(found) and found[-1].lower() in PREFIXES
                joins = joins and AGAIN.match(text, match.end()) is None
            else:
                _mark(found, token, preceding, following)
            continue
        if kind in ("number", "unit"):
            found.extend(numbers.parts(match.group("number"), match.group("unit") or "", currency))
            currency = ""
        elif (kind == "word" and joins) or (token in numbers.CASED_UNITS and found and found[-1].isdigit()):
            found[-1] += token
        elif kind == "symbol":
            found.append(quoted(token))
        elif kind == "time":
            found.extend(numbers.clock(token))
        elif kind == "dotted":
            found.append(token.replace(".", ""))
            if match.end() == len(text):
                _end(found)
        elif kind == "word" and token.endswith("'") and not token.endswith("s'"):
            found.append(token.rstrip("'"))
        else:
            found.append(token)
        joins = False
    while found and found[-1] in (COMMA, SENTENCE_END):
        found.pop()
    return found


def quoted(symbol: str) -> str:
    """A symbol that is asked about, in single quotes, so that no mark of the sentence is taken for it; a
    word with an operator before it as it stands."""
    if symbol[-1].isalnum() or symbol[-1] == "_":
        return symbol
    return (
        symbol
        if len(symbol) > 2 and symbol[0] == symbol[-1] == "'"
        else f"'{symbol.strip(chr(34)) or symbol}'"
    )


def _is_hyphen(preceding: str, following: str) -> bool:
    """Whether a dash joins two words; between digits it is a range or a minus."""
    return preceding.isalnum() and following.isalnum() and not (preceding.isdigit() and following.isdigit())


def _mark(found: list[str], mark: str, preceding: str, following: str) -> None:
    if mark in ENDS:
        if not following or following.isspace() or following in ENDS or following in SILENT:
            _end(found)
        else:
            found.append(mark)
    elif mark in PAUSES or (mark in DASHES and preceding.isspace() and following.isspace()):
        if found and found[-1] not in (COMMA, SENTENCE_END):
            found.append(COMMA)
    elif mark in STANDING:
        found.append(STANDING[mark])
    elif mark in DASHES:
        found.append("-")
    elif mark not in SILENT or (mark == "*" and preceding.isdigit()):
        found.append(mark)


def _end(found: list[str]) -> None:
    if found and found[-1] == COMMA:
        found.pop()
    if found and found[-1] != SENTENCE_END:
        found.append(SENTENCE_END)
