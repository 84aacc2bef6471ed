"""Who says whether two texts mean the same: a protocol, and the user's own engine behind it."""

from __future__ import annotations

import asyncio
from typing import Final, Protocol

from ext_proc.recall.judging import (
    CONTROLS,
    Verdict,
    answer_texts,
    both,
    judge_request,
    question_texts,
    read_verdict,
)
from ext_proc.recall.operator_client import CouldNotAsk
from ext_proc.recall.operator_paths import CHAT
from gateway.contract.clock import Clock
from gateway.contract.ids import ModelName

FIT_S: Final = 3600.0
"""How long the controls count: a model may be replaced under its name."""
MODELS_MAX: Final = 256
"""Whose fitness is remembered; a catalogue has fewer."""


class Asks(Protocol):
    """Asks the gateway (OperatorClient). Raises CouldNotAsk."""

    async def ask(self, path: str, body: bytes) -> bytes:
        """The JSON answer."""


class Verifier(Protocol):
    """Raises CouldNotAsk, also ``unfit`` when the verifier is not to be believed. ``model``: who answered,
    for a verifier without a model of its own."""

    async def same_question(self, model: ModelName, first: str, second: str) -> Verdict:
        """Whether one answer is right for both."""

    async def same_answer(self, model: ModelName, question: str, first: str, second: str) -> Verdict:
        """Whether both tell the asker the same."""


class EngineVerifier:
    """A yes/no question at temperature 0, in both orders, to an engine that tells the controls apart."""

    def __init__(self, client: Asks, clock: Clock, *, model: ModelName | None = None) -> None:
        """``model``: who judges; None: the model that answered."""
        self._client = client
        self._clock = clock
        self._model = model
        self._fit: dict[ModelName, tuple[bool, float]] = {}
        self._testing = asyncio.Lock()

    async def same_question(self, model: ModelName, first: str, second: str) -> Verdict:
        """Whether one answer is right for both."""
        judge = await self._fit_judge(model)
        return await self._same_question(judge, first, second)

    async def same_answer(self, model: ModelName, question: str, first: str, second: str) -> Verdict:
        """Whether both tell the asker the same."""
        judge = await self._fit_judge(model)
        forth, back = answer_texts(question, first, second), answer_texts(question, second, first)
        return await self._in_both_orders(judge, forth, back)

    async def _same_question(self, judge: ModelName, first: str, second: str) -> Verdict:
        return await self._in_both_orders(judge, question_texts(first, second), question_texts(second, first))

    async def _in_both_orders(
        self, judge: ModelName, forth: tuple[str, str] | None, back: tuple[str, str] | None
    ) -> Verdict:
        if forth is None or back is None:
            return Verdict.UNSURE
        first = read_verdict(await self._client.ask(CHAT, judge_request(judge, forth)))
        if first is Verdict.UNSURE:
            return first
        return both(first, read_verdict(await self._client.ask(CHAT, judge_request(judge, back))))

    async def _fit_judge(self, model: ModelName) -> ModelName:
        judge = self._model or model
        async with self._testing:
            fit, until_s = self._fit.get(judge, (False, 0.0))
            if self._clock.monotonic_s() >= until_s or judge not in self._fit:
                fit = await self._passes_controls(judge)
                if len(self._fit) >= MODELS_MAX:
                    self._fit.clear()
                self._fit[judge] = (fit, self._clock.monotonic_s() + FIT_S)
        if not fit:
            raise CouldNotAsk("unfit", again=False)
        return judge

    async def _passes_controls(self, judge: ModelName) -> bool:
        for control in CONTROLS:
            right = Verdict.YES if control.same else Verdict.NO
            if await self._same_question(judge, control.first, control.second) is not right:
                return False
        return True
