"""The table of every field of OpenAI's requests and answers on the served paths, and what becomes of it.

Rows of requests are read off the checks that judge requests; rows of answers stand in answer_fields.py.
``python -m gateway.openai.fields`` writes docs/openai-fields.md.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import orjson

from gateway.openai import checks, messages
from gateway.openai.answer_fields import ANSWERS, State
from gateway.openai.checks import Check
from gateway.openai.combinations import NEEDS
from gateway.openai.parameters import CHAT_ONLY, FOR_US, GATEWAY_OWNED, PARAMETERS, UNSERVED, VENDOR
from gateway.openai.terms import Endpoint

FILE: Final = Path(__file__).resolve().parents[2] / "docs" / "openai-fields.md"
_ENGINE_READS: Final[Mapping[str, str]] = {
    "].name": "the chat template decides whether the model sees it; SGLang keeps a user's from it",
    "].reasoning_content": "the chat template decides whether the model sees it",
    "].function.strict": "honoured where the engine's tool-call parser has a grammar of its own",
    ".json_schema.strict": "the engine binds the answer to the schema in any case",
    "parallel_tool_calls": "a wish: the engine's parser may still make several calls",
}
"""What the engine is told and may leave undone, by the end of the place."""
_REWRITTEN: Final[Mapping[str, str]] = {
    "messages[role=developer]": "sent as system unless the catalogue says that the template knows the role",
    "messages[role=assistant].refusal": "sent as text of the assistant's turn",
    "messages[role=assistant].content[type=refusal]": "sent as text of the assistant's turn",
    "messages[role=assistant].reasoning": "sent as reasoning_content",
    "messages[role=assistant].annotations": "empty only; not sent",
    "messages[role=assistant].tool_calls[type=function].index": "not sent",
    "max_tokens": "clamped to what the budget can pay",
    "max_completion_tokens": "sent as max_tokens, clamped to what the budget can pay",
    "stream_options.include_usage": "the engine always reports usage; shown when asked for",
    "stream_options.continuous_usage_stats": "the engine always reports usage; shown when asked for",
}
"""What reaches the engine in another form."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One field. ``place``: ``messages[role=user].content[type=text].text``."""

    place: str
    state: State
    note: str = ""


def request_rows(endpoint: Endpoint) -> Iterator[Row]:
    """Every field of a request to ``endpoint``, served or refused, in order of the checks."""
    for name, check in PARAMETERS[endpoint].items():
        yield from _walk(name, check)
    for name, reason in UNSERVED[endpoint].items():
        yield Row(place=name, state=State.REFUSED, note=reason)
    if endpoint.generates:
        for name, check in VENDOR.items():
            if endpoint is Endpoint.CHAT or name not in CHAT_ONLY:
                note = f"SGLang's, where the catalogue's entry allows it: {_described(check)}"
                yield Row(place=name, state=State.PASSED_ON, note=note)


def _walk(place: str, check: Check) -> Iterator[Row]:
    """``check`` at ``place``, and all that lies below it."""
    rule = messages.EACH if check is messages.messages else check
    yield _row(place, rule)
    yield from _below(place, rule)


def _below(place: str, rule: Check) -> Iterator[Row]:
    if isinstance(rule, checks.Object):
        for name, inner in rule.fields.items():
            yield from _walk(f"{place}.{name}", inner)
    elif isinstance(rule, checks.Either):
        yield from _below(place, rule.other)
    elif isinstance(rule, checks.Array):
        yield from _below(place, rule.item)
    elif isinstance(rule, checks.Variants):
        for kind, inner in rule.by.items():
            yield from _walk(f"{place}[{rule.tag}={kind}]", inner)


def _row(place: str, rule: Check) -> Row:
    if isinstance(rule, checks.Refused):
        return Row(place=place, state=State.REFUSED, note=rule.reason)
    notes = [_described(rule)]
    if place in FOR_US:
        notes.append(f"not sent: {FOR_US[place]}")
    if place in _REWRITTEN:
        notes.append(_REWRITTEN[place])
    if place in NEEDS:
        notes.append(f"needs the capability {NEEDS[place]} in the catalogue's entry")
    read = [note for end, note in _ENGINE_READS.items() if place.endswith(end)]
    state = State.PASSED_ON if read else State.SUPPORTED
    return Row(place=place, state=state, note=_joined([*notes, *read]))


def _joined(notes: Iterable[str]) -> str:
    return "; ".join(note for note in notes if note)


def _described(rule: Check) -> str:
    """What the check lets through, in a few words."""
    match rule:
        case checks.Whole(least=least, most=most):
            return f"integer from {least}" if most == checks.Whole(0).most else f"integer, {least} to {most}"
        case checks.Number(least=least, most=most, above=above):
            return f"number, {'above ' if above else ''}{least:g} to {most:g}"
        case checks.Text(most=most):
            return "string" if most is None else f"string of at most {most} characters"
        case checks.OneOf(values=values):
            return ", ".join(values)
        case checks.Array(item=item, least=least, most=most):
            return f"array of {least} to {most}: {_described(item)}".removesuffix(": ")
        case checks.Either(text=text, other=other):
            return f"{_described(text)}; or {_described(other)}".removesuffix("; or ")
        case checks.Only(check=check, served=served):
            return f"{_described(check)}; only {', '.join(map(_word, served))} is served, others are refused"
        case checks.TextMap(most=most, name_chars=names, value_chars=values):
            return f"at most {most} pairs, {names} and {values} characters"
        case checks.Object() | checks.Variants():
            return ""
        case _:
            return _told(rule)


def _told(rule: Check) -> str:
    """Of a check that is a function: its first sentence."""
    if rule is checks.boolean:
        return "boolean"
    text = (inspect.getdoc(rule) or "").replace("\n", " ").replace("``", "")
    return text.partition(". ")[0].rstrip(".")


def _word(value: object) -> str:
    return orjson.dumps(value).decode().strip('"')


def _table(rows: Iterable[Row]) -> Iterator[str]:
    yield "| field | state | note |"
    yield "|---|---|---|"
    for row in rows:
        note = row.note.replace("|", "\\|")
        yield f"| `{row.place}` | {row.state.value} | {note} |"
    yield ""


def as_markdown() -> str:
    """The whole document."""
    lines = [
        "# Fields of OpenAI's API",
        "",
        "Written by `python -m gateway.openai.fields`; do not edit. A field that is not in these tables is",
        "refused with `unknown_parameter` and its name as `param`. `null` is as good as leaving a field out.",
        "",
    ]
    for endpoint in Endpoint:
        lines += [f"## Request to {endpoint.path}", "", *_table(_shown_rows(endpoint))]
    owned = ", ".join(f"`{name}`" for name in sorted(GATEWAY_OWNED))
    lines += [f"Set by the gateway alone, a client's are left out: {owned}.", ""]
    for name, answers in ANSWERS.items():
        rows = (Row(place=place, state=state, note=note) for place, (state, note) in answers.items())
        lines += [f"## Answer: {name}", "", *_table(rows)]
    return "\n".join(lines)


def _shown_rows(endpoint: Endpoint) -> Iterator[Row]:
    """Messages and tools in full under chat only: tokenize takes the same."""
    for row in request_rows(endpoint):
        if endpoint is Endpoint.TOKENIZE and row.place.startswith(("messages[", "tools[")):
            continue
        yield row


def main() -> None:
    """Write the document."""
    FILE.parent.mkdir(exist_ok=True)
    FILE.write_text(as_markdown())


if __name__ == "__main__":
    main()
