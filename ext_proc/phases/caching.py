"""What a request may take from the cache and leave there: the policy's rule, the client's wish, the keys."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from ext_proc.cache.directives import Directives
from ext_proc.cache.eligibility import eligible
from ext_proc.cache.last_question import last_question
from ext_proc.cache.partition import Asked, asked_of
from ext_proc.cache.personal_data import finds
from ext_proc.cache.policy import CacheRule, Profile
from ext_proc.rules import AdmitRules
from gateway.contract.errors import InvalidRequest
from gateway.contract.ids import RequestId
from gateway.contract.principal import Principal
from gateway.contract.units import Tokens
from gateway.models.catalogue import Model
from gateway.openai.requests import WireRequest

TAGS_IN_METADATA: Final = "cache_tags"
"""Key of OpenAI's ``metadata``: names by which an operator can purge, separated by commas."""
TAGS_MAX: Final = 8
TAG_CHARS_MAX: Final = 64
"""Each entry carries its tags; more is a label for something else."""
_TAG_CHARS: Final = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.:-")


@dataclass(frozen=True, slots=True, kw_only=True)
class Caching:
    """Of one request. ``sought`` is None when an answer may be neither read nor stored. ``reason``: the code
    of what stands against that, or against another question's answer."""

    rule: CacheRule
    version: str
    directives: Directives
    sought: Asked | None
    reason: str
    profile: Profile
    """The policy's, or less where the client asks for less; OFF where nothing similar is served."""
    tags: tuple[str, ...]

    @property
    def similar(self) -> bool:
        """Whether another question's answer may be served."""
        return self.profile is not Profile.OFF


def caching_of(
    rules: AdmitRules,
    principal: Principal,
    model: Model,
    request: WireRequest,
    wanted: Tokens,
    directives: Directives,
) -> Caching:
    """``wanted``: max_tokens before any clamp. Raises InvalidRequest for tags that are none."""
    policy = rules.caching
    rule = policy.rule_for(principal, model.name, request.endpoint)
    judged = eligible(rule, request, directives)
    reason = judged.reason.value if judged.reason is not None else ""
    sought, profile = None, judged.profile
    if judged.exact:
        if judged.similar and _personal(request, rule):
            # Its words would be kept beside its vector, and met by others of the partition.
            profile, reason = Profile.OFF, "personal_data"
        key, similar = rules.secrets.partition_key(), profile is not Profile.OFF
        sought = asked_of(key, principal, model, request, rule, wanted, similar=similar)
    return Caching(
        rule=rule,
        version=str(policy.version),
        directives=directives,
        sought=sought,
        reason=reason,
        profile=profile,
        tags=(*rule.tags, *_tags(request.labels)),
    )


def _personal(request: WireRequest, rule: CacheRule) -> bool:
    question = last_question(request)
    return question is not None and finds(question, rule.personal_data) is not None


def drawn(request_id: RequestId, share: float) -> bool:
    """Whether this request is among the ``share`` of all; the same for each worker that asks."""
    number = int.from_bytes(hashlib.sha256(request_id.encode()).digest()[:8], "big")
    return number < share * 2**64


def _tags(labels: Mapping[str, str]) -> tuple[str, ...]:
    said = labels.get(TAGS_IN_METADATA, "")
    tags = tuple(tag.strip() for tag in said.split(",")) if said else ()
    if len(tags) > TAGS_MAX or not all(
        0 < len(tag) <= TAG_CHARS_MAX and _TAG_CHARS.issuperset(tag) for tag in tags
    ):
        raise InvalidRequest(
            f"metadata.{TAGS_IN_METADATA}: up to {TAGS_MAX} names of 1 to {TAG_CHARS_MAX} letters, digits and"
            " _ . : - each, separated by commas.",
            code="invalid_cache_tags",
            param=f"metadata.{TAGS_IN_METADATA}",
        )
    return tags
