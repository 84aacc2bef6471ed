"""Whether an answer may be repeated to this request, word for word or by similarity. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from ext_proc.cache.directives import Ceiling, Directives
from ext_proc.cache.last_question import last_question
from ext_proc.cache.policy import CACHED_ENDPOINTS, CacheMode, CacheRule, Profile
from ext_proc.cache.wording import asks_for_action, asks_for_the_present
from gateway.openai.requests import WireRequest
from gateway.openai.terms import Endpoint

SIMILAR_CHARS_MAX: Final = 512
"""Longest question that is compared. Some 64 tokens are 300 characters; longer ones practically never come
again in other words, and reading one costs time on every miss."""


class Ineligible(StrEnum):
    """Why not. The first five are about any hit, the others about similar ones."""

    ENDPOINT = "endpoint"
    MODE_OFF = "mode_off"
    NO_STORE = "no_store"
    """The client's Cache-Control."""
    SEVERAL_CHOICES = "several_choices"
    TOOL_RESULT = "tool_result"
    NOT_DETERMINISTIC = "not_deterministic"
    PROFILE_OFF = "profile_off"
    EXACT_ONLY = "exact_only"
    """The client's Cache-Control."""
    NOT_CHAT = "not_chat"
    NOT_TEXT = "not_text"
    """The last message is not a user's, or not one text."""
    EMPTY = "empty"
    TOO_LONG = "too_long"
    FORCED_TOOL = "forced_tool"
    """tool_choice makes the answer a call."""
    FRESHNESS = "freshness"
    ACTION = "action"


@dataclass(frozen=True, slots=True, kw_only=True)
class Eligibility:
    """``exact``: identical requests may be looked up and stored. ``similar``: so may similar ones, as
    ``profile`` says, which is OFF else. ``reason``: what stands against the first that is False."""

    exact: bool
    similar: bool
    profile: Profile = Profile.OFF
    reason: Ineligible | None = None


def eligible(rule: CacheRule, request: WireRequest, directives: Directives) -> Eligibility:
    """What ``rule`` and the client's ``directives`` allow for ``request``."""
    against = _against_any(rule, request, directives)
    if against is not None:
        return Eligibility(exact=False, similar=False, reason=against)
    against = _against_similar(rule, request, directives)
    if against is not None:
        return Eligibility(exact=True, similar=False, reason=against)
    return Eligibility(exact=True, similar=True, profile=directives.ceiling.within(rule.profile))


def _against_any(rule: CacheRule, request: WireRequest, directives: Directives) -> Ineligible | None:
    if request.endpoint not in CACHED_ENDPOINTS:
        return Ineligible.ENDPOINT
    if rule.mode is CacheMode.OFF:
        return Ineligible.MODE_OFF
    if not directives.write:
        return Ineligible.NO_STORE
    if request.choices != 1:
        return Ineligible.SEVERAL_CHOICES
    if not rule.tool_results and _holds_tool_result(request):
        return Ineligible.TOOL_RESULT
    if rule.mode is CacheMode.DETERMINISTIC and not _deterministic(request):
        return Ineligible.NOT_DETERMINISTIC
    return None


def _against_similar(rule: CacheRule, request: WireRequest, directives: Directives) -> Ineligible | None:
    if rule.profile is Profile.OFF:
        return Ineligible.PROFILE_OFF
    if directives.ceiling is Ceiling.EXACT:
        return Ineligible.EXACT_ONLY
    if request.endpoint is not Endpoint.CHAT:
        return Ineligible.NOT_CHAT
    text = last_question(request)
    if text is None:
        return Ineligible.NOT_TEXT
    if not text.strip():
        return Ineligible.EMPTY
    if len(text) > SIMILAR_CHARS_MAX:
        return Ineligible.TOO_LONG
    if _forces_tool(request.fields.get("tool_choice")):
        return Ineligible.FORCED_TOOL
    if not rule.freshness and asks_for_the_present(text):
        return Ineligible.FRESHNESS
    if not rule.actions and asks_for_action(text, able="tools" in request.fields):
        return Ineligible.ACTION
    return None


def _deterministic(request: WireRequest) -> bool:
    """Asks for one and the same answer, as far as an engine can promise it."""
    sampling = request.sampling
    return request.endpoint is Endpoint.EMBEDDINGS or sampling.greedy or sampling.seed is not None


def _holds_tool_result(request: WireRequest) -> bool:
    return any(message["role"] == "tool" for message in request.fields.get("messages", ()))


def _forces_tool(choice: Any) -> bool:
    return choice == "required" or isinstance(choice, dict)
