"""What the cache's codes mean, in words: for ``cache explain``, ``cache report`` and docs/cache.md."""

from __future__ import annotations

from typing import Final

HITS: Final = {
    "exact": "the same request was answered before",
    "canonical": "the same question in another form (case, politeness, punctuation, contractions)",
    "alias": "a judge has found that another stored question asks the same",
    "semantic": "another stored question has the same content words, and no guard objects",
}
"""Kinds of hits."""

NOT_LOOKED_UP: Final = {
    "endpoint": "answers of this endpoint are not cached",
    "mode_off": "the rule of cache.yaml that matches has mode: off",
    "no_store": "the request says Cache-Control: no-store",
    "no_cache": "the request says Cache-Control: no-cache, or calls an earlier answer wrong",
    "several_choices": "the request asks for several choices (n)",
    "tool_result": "the conversation holds a tool's result, and the rule has tool_results: false",
    "not_deterministic": "the answer is sampled (no temperature 0, top_k 1 or seed), and the rule has mode: "
    "deterministic",
    "unavailable": "the cache's store did not answer in time",
}
"""Why a request was not looked up at all."""

EXACT_ONLY: Final = {
    "profile_off": "the rule that matches has profile: off",
    "exact_only": "the request says Cache-Control: exact-only",
    "not_chat": "only chat completions are compared",
    "not_text": "the last message is not a user's, or not one text",
    "empty": "the last message is empty",
    "too_long": "the question is longer than what is compared",
    "forced_tool": "tool_choice makes the answer a call",
    "freshness": "the question asks about the present (today, latest, price of), and the rule has freshness: "
    "false",
    "action": "the question wants something done or made, and the rule has actions: false",
    "personal_data": "the question holds personal data or a secret",
}
"""Why an identical request only could have been answered."""

SEARCHED: Final = {
    "absent": "nothing is stored for this question with this history, model and parameters where this caller "
    "may see it",
    "too_old": "the stored answer is older than the request's max-age",
    "judged": "the stored answer rests on a judge, and the profile, or the request's strict-only, takes none",
    "damaged": "the stored answer cannot be read any more",
    "recall_off": "no recall process is set up, so that nothing was searched",
    "recall_unavailable": "the recall process did not answer in time",
    "no_candidate": "no stored question is there to compare with",
    "same_question": "it is this very question, whose answer was looked up already, and is gone",
    "language": "the question is in another language than the embedder's",
    "below_floor": "the nearest stored question has the same words, and is not similar enough as a whole",
    "near": "the nearest stored question differs in one content word: a judge is asked, off the path",
    "differs": "the nearest stored question differs in a content word",
    "far": "the nearest stored question has other words",
    "bucket_off": "hits of this kind were wrong too often, and are switched off",
    "probation": "hits of this kind were wrong too often: for now they are verified, and not served",
    "gone": "a stored question was found, and its answer is gone: expired, purged or barred",
    "off": "the profile finds nothing by similarity",
}
"""Why nothing was found, or nothing that may be served."""

GUARDS: Final = {
    "language": "are in different languages",
    "code": "name other code, commands or paths",
    "number": "have other numbers",
    "unit": "have other units or currencies",
    "id": "have other ids",
    "date": "have other dates or times",
    "version": "have other versions",
    "negation": "differ in a negation",
    "antonym": "have opposite words",
    "prefix": "have opposite words of one stem (install and uninstall)",
    "comparative": "compare in another direction or degree",
    "quantifier": "have other quantifiers (all, any, only)",
    "entity": "name other people, places or products",
    "acronym": "have other acronyms",
    "owner": "speak of another person's thing (my, your, their)",
    "question_type": "ask for another thing (when, where, how many)",
    "modality": "differ between may, must and can",
    "tense": "speak of another time",
    "condition": "have other conditions",
    "direction": "go in another direction (from and to, before and after)",
    "scope": "differ in what they cover (in, for, with, without, and, or)",
    "order": "have the same words in an order that matters",
    "context": "say other things beside the question (one has a sentence more)",
}
"""What a guard has seen in two questions that are alike else."""

GUARD_PREFIX: Final = "guard."


def in_words(code: str) -> str:
    """What ``code`` means; ``code`` itself where nobody knows it, as of a newer gateway."""
    if code.startswith(GUARD_PREFIX):
        seen = GUARDS.get(code.removeprefix(GUARD_PREFIX))
        return f"the nearest stored question and this one {seen}" if seen else code
    for table in (HITS, NOT_LOOKED_UP, EXACT_ONLY, SEARCHED):
        if code in table:
            return table[code]
    return code


def reasons_table() -> str:
    """Every code, for docs/cache.md."""
    rows = ["| code | meaning |", "|---|---|"]
    for table in (HITS, NOT_LOOKED_UP, EXACT_ONLY, SEARCHED):
        rows += [f"| `{code}` | {words} |" for code, words in table.items()]
    rows += [f"| `{GUARD_PREFIX}{code}` | the questions {words} |" for code, words in GUARDS.items()]
    return "\n".join(rows) + "\n"
