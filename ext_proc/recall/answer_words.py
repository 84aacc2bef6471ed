"""Closed word classes by which two answers are compared: English and what is most common in German, French,
Spanish and Portuguese, from those languages' grammars. A word that is missing makes a comparison less sure,
never wrong by itself."""

from __future__ import annotations

from typing import Final


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


NEGATIONS: Final = _words(
    "no not never none nothing neither nor cannot without nicht kein keine keinen niemals ohne pas jamais "
    "aucun sans nunca ningún sin nem não sem"
)
"""An odd number of them turns a statement round. French *ne* is not here: it comes with *pas*."""
YES: Final = _words("yes yeah yep correct true ja oui sí sim certainly absolutely")
"""First words of an answer that affirms."""
NO: Final = _words("no nope incorrect false nein non não")
"""First words of an answer that denies."""
FUNCTION_WORDS: Final = _words(
    "a an the of to in on at by for from with and or as is are was were be been it its this that these those "
    "you your i we they he she his her our their can could may might will would should do does did have has "
    "had if so than then there here which who what when where how also more most very just about into over "
    "der die das ein eine und oder ist sind zu von mit für auf le la les un une et ou est sont de du des à "
    "ne si el los las y o es son en por para con"
)
"""Words that say nothing by themselves."""
