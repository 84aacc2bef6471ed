"""An answer's tokens as SGLang's bytes: events of a stream, or one document, of a chat or a completion."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from inference.twin import calls, logprobs, shapes
from inference.twin.prompt import Prompt
from inference.twin.request import Job
from inference.twin.shapes import Json
from inference.twin.words import Plan


class Writer(Protocol):
    """Of one request. ``counted`` is a choice's usage, or None to leave it out."""

    def new(self, index: int, plan: Plan, first: int, end: int, counted: Json | None) -> list[bytes]:
        """Events of tokens ``first`` to ``end`` (exclusive) of a choice."""

    def ended(self, index: int, plan: Plan, reason: str) -> list[bytes]:
        """Events that end a choice; ``reason`` is ``abort``, or empty for the plan's own."""

    def usage(self, counted: Json) -> bytes:
        """The event of the whole request's usage."""

    def whole(self, plans: Sequence[Plan], position: int, reason: str, counted: Json | None) -> Json:
        """The answer that is not streamed, of the first ``position`` tokens."""


@dataclass(frozen=True, slots=True)
class _Ids:
    """The ids of an answer: like SGLang, which keeps the caller's for a single choice only."""

    choices: tuple[str, ...]

    @staticmethod
    def of(job: Job) -> _Ids:
        count = job.choices
        alone = job.rid if count == 1 else None
        return _Ids(tuple(alone or uuid.uuid4().hex for _ in range(count)))


def writer(job: Job, created: int) -> Writer:
    """The one for ``job``; ``created`` in seconds since 1970."""
    return ChatWriter(job, created) if job.kind == "chat" else TextWriter(job, created)


class ChatWriter:
    """Of a chat."""

    def __init__(self, job: Job, created: int) -> None:
        """``created`` in seconds since 1970."""
        self._job, self._created, self._ids = job, created, _Ids.of(job).choices
        self._frames = shapes.ChatFrames(job.model, created)

    def new(self, index: int, plan: Plan, first: int, end: int, counted: Json | None) -> list[bytes]:
        """As Writer."""
        identity, frames = self._ids[index], self._frames
        found = [frames.role(identity, index)] if first == 0 else []
        told = None
        if self._job.logprobs is not None and first < end:
            told = logprobs.of_chat(plan.tokens[first:end], self._job.logprobs)
        if plan.calls:
            for place, name, arguments in calls.shown(plan, first, end):
                part = shapes.call_part(place, name and _call_id(), name, arguments)
                found.append(frames.parsed(identity, index, None, part, counted))
        elif text := "".join(plan.pieces[first:end]):
            if not self._job.tools:
                return [*found, frames.content(identity, index, text, counted, told)]
            found.append(frames.parsed(identity, index, text, None, counted))
        if told is not None:
            found.append(frames.content(identity, index, "", counted, told))
        return found

    def ended(self, index: int, plan: Plan, reason: str) -> list[bytes]:
        """As Writer."""
        finish, matched = (reason, None) if reason else (plan.finish, plan.matched)
        return [self._frames.finish(self._ids[-1], index, finish, matched)]

    def usage(self, counted: Json) -> bytes:
        """As Writer."""
        return self._frames.usage(self._ids[-1], counted)

    def whole(self, plans: Sequence[Plan], position: int, reason: str, counted: Json | None) -> Json:
        """As Writer."""
        job = self._job
        choices = [self._choice(index, plan, position, reason) for index, plan in enumerate(plans)]
        first = min(position, len(plans[0].tokens))
        return shapes.answer("chat", self._ids[0], self._created, job.model, choices, counted, first)

    def _choice(self, index: int, plan: Plan, position: int, reason: str) -> Json:
        whole = calls.complete(plan, position)
        text = "".join(plan.pieces[:position])
        if plan.calls:
            # What is no whole call stays as the model wrote it, if none is whole.
            text = "" if whole else "".join(plan.tokens[:position])
        shown = [
            shapes.call_part(place, _call_id(), call.name, call.arguments) for place, call in enumerate(whole)
        ]
        finish = reason or plan.finish
        matched = None if finish in (reason, "tool_calls") else plan.matched
        asked = self._job.logprobs
        told = None if asked is None else logprobs.of_chat(plan.tokens[:position], asked)
        return shapes.chat_choice(index, text, shown, finish, matched, told)


class TextWriter:
    """Of a completion."""

    def __init__(self, job: Job, created: int) -> None:
        """``created`` in seconds since 1970."""
        self._job, self._created, self._ids = job, created, _Ids.of(job).choices
        self._frames = shapes.TextFrames(job.model, created)

    def new(self, index: int, plan: Plan, first: int, end: int, counted: Json | None) -> list[bytes]:
        """As Writer."""
        over = end == len(plan.tokens)
        finish, matched = (plan.finish, plan.matched) if over else (None, None)
        text = "".join(plan.pieces[first:end])
        if first == 0 and self._job.echo:
            text = self._prompt(index).text + text
        told = self._logprobs(index, plan, first, end) if first < end else None
        choice = shapes.text_choice(index, text, finish, matched, told)
        return [self._frames.content(self._ids[index], choice, counted)]

    def ended(self, index: int, plan: Plan, reason: str) -> list[bytes]:
        """As Writer."""
        if not reason:
            return []
        choice = shapes.text_choice(index, "", reason, None, None)
        return [self._frames.content(self._ids[index], choice, None)]

    def usage(self, counted: Json) -> bytes:
        """As Writer."""
        return self._frames.usage(self._ids[-1], counted)

    def whole(self, plans: Sequence[Plan], position: int, reason: str, counted: Json | None) -> Json:
        """As Writer."""
        choices: list[Json] = []
        for index, plan in enumerate(plans):
            text = "".join(plan.pieces[:position])
            if self._job.echo:
                text = self._prompt(index).text + text
            finish, matched = (reason, None) if reason else (plan.finish, plan.matched)
            told = self._logprobs(index, plan, 0, position)
            choices.append(shapes.text_choice(index, text, finish, matched, told))
        first = min(position, len(plans[0].tokens))
        identity, model = self._ids[0], self._job.model
        return shapes.answer("text", identity, self._created, model, choices, counted, first)

    def _prompt(self, index: int) -> Prompt:
        return self._job.prompts[index // self._job.n]

    def _logprobs(self, index: int, plan: Plan, first: int, end: int) -> Json | None:
        top = self._job.logprobs
        if top is None:
            return None
        with_prompt = first == 0 and self._job.echo and top > 0
        prompt = self._prompt(index).pieces() if with_prompt else ()
        return logprobs.of_text(plan.tokens[first:end], top, prompt)


_CALL_ID_DIGITS: Final = 24


def _call_id() -> str:
    return f"call_{uuid.uuid4().hex[:_CALL_ID_DIGITS]}"
