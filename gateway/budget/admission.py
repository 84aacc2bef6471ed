"""The admission record: all that later hops need to know of admit's decision.

It travels as dynamic metadata in the namespace ``tidegate.admit``; nothing is shared between
admit and tap in memory, so any worker can take any message. Every value is a string (a Struct
holds numbers as doubles, which would round amounts) or a flat list of strings.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from gateway.budget.ledger import Draw
from gateway.budget.measure import Amounts
from gateway.contract.ids import HoldId, KeyId, OrgId, RequestId
from gateway.contract.units import Tokens, UnixMillis

RECORD_VERSION: Final = "2"
FIRST_VERSION: Final = "1"
"""Still read: in a rollout the tap of a new worker meets what the admit of an old one has written."""


class NotAnAdmission(ValueError):
    """The metadata does not hold an admission record of a known version."""


class Verdict(StrEnum):
    """The second gate lets METERED and UNMETERED through; anything else, or nothing, is denied."""

    METERED = "metered"
    UNMETERED = "unmetered"
    REFUSED = "refused"
    """admit answered itself with an error; the record is for the access log."""
    ANSWERED = "answered"
    """admit answered itself from the cache."""


class CacheStatus(StrEnum):
    """What the cache said when the request was admitted."""

    HIT = "hit"
    MISS = "miss"
    BYPASS = "bypass"


@dataclass(frozen=True, slots=True, kw_only=True)
class AdmissionRecord:
    """Version 2. For ``unmetered`` only decision, request_id, org and key have a meaning."""

    decision: Verdict
    request_id: RequestId
    org: OrgId
    key: KeyId
    hold: HoldId = HoldId("")
    held: Amounts = Amounts()
    """What is held: prompt bound + completions x max_tokens, and their cost."""
    hold_expires_at: UnixMillis = UnixMillis(0)
    """When the hold is charged in full, in the store's time; 0 in records of version 1."""
    price: str = ""
    """``<prompt>,<cached>,<completion>,<request>``: pico-USD a token, the last micro-USD a request; empty
    in records of version 1 and of what costs nothing."""
    lease: HoldId = HoldId("")
    """The worker's lease that funds the hold; empty where the ledger itself has decided."""
    lease_windows: tuple[str, ...] = ()
    """Its window ids (gateway.budget.window.window_id)."""
    prompt_bound: Tokens = Tokens(0)
    """Upper bound of the prompt's tokens that the hold was made with."""
    completion_max: Tokens = Tokens(0)
    """max_tokens the engine was told, for each of ``choices``."""
    choices: int = 1
    """n x prompts: how often ``completion_max`` can be produced."""
    endpoint: str = ""
    """``chat.completions``, ``completions``, ``embeddings`` or ``tokenize``."""
    model: str = ""
    """Catalogue name after alias resolution."""
    revision: str = ""
    stream: bool = False
    usage_asked: bool = False
    """The client asked for stream_options.include_usage."""
    continuous_usage_asked: bool = False
    """The client asked for continuous_usage_stats."""
    cache: CacheStatus = CacheStatus.BYPASS
    cache_reason: str = ""
    """Why the cache had no answer: a code, of x-tidegate-cache-reason; empty for a hit, and in records of an
    older admit."""
    cache_key: str = ""
    """Where the tap stores a cacheable answer (ext_proc/cache/place.py); empty: do not store."""
    clamp: str = ""
    """The lowered max_tokens as text, for the response header; empty when nothing was clamped."""
    limit_tokens: str = ""
    remaining_tokens: str = ""
    reset_tokens: str = ""
    """Values of the x-ratelimit-*-tokens response headers; reset is a duration (``6s``)."""
    limit_requests: str = ""
    remaining_requests: str = ""
    reset_requests: str = ""
    """Of the x-ratelimit-*-requests response headers."""
    remaining_micro_usd: str = ""
    """Of x-tidegate-remaining-micro-usd; empty where no money is limited."""
    over: str = ""
    """Soft windows above their limit, of x-tidegate-budget-warning; empty for none."""
    policy_version: int = 0
    usage_max: Tokens = Tokens(0)
    """More tokens than this fit no context that the request can fill, and a report of more is no report;
    0 in records of an older admit: not known."""
    admitted_at_ms: UnixMillis = UnixMillis(0)
    """When admit had the whole request: the tap's times to the first token count from here."""
    event_context: str = ""
    """JSON object of the event fields that settle, void and expiry repeat (see gateway.events)."""

    @property
    def amount(self) -> Tokens:
        """Tokens held."""
        return self.held.tokens

    def draw(self) -> Draw | None:
        """What a settle or void tells a ledger that has not heard of the hold yet; None without a lease.
        Raises ValueError for a record that admit cannot have written."""
        if not self.lease:
            return None
        context = json.loads(self.event_context or "{}")
        return Draw(
            lease=self.lease,
            windows=self.lease_windows,
            hold=self.hold,
            amounts=self.held,
            units=self.completion_max,
            expires_at=self.hold_expires_at,
            policy_version=self.policy_version,
            context={str(name): str(text) for name, text in context.items()},
        )

    def to_fields(self) -> dict[str, str]:
        """Flat strings, as they stand in the metadata."""
        return {
            "v": RECORD_VERSION,
            "decision": self.decision.value,
            "request_id": self.request_id,
            "org": self.org,
            "key": self.key,
            "hold": self.hold,
            "held": self.held.text(),
            "hold_expires_at": str(self.hold_expires_at),
            "price": self.price,
            "lease": self.lease,
            "lease_windows": " ".join(self.lease_windows),
            "prompt_bound": str(self.prompt_bound),
            "completion_max": str(self.completion_max),
            "choices": str(self.choices),
            "endpoint": self.endpoint,
            "model": self.model,
            "revision": self.revision,
            "stream": "true" if self.stream else "false",
            "usage_asked": "true" if self.usage_asked else "false",
            "continuous_usage_asked": "true" if self.continuous_usage_asked else "false",
            "cache": self.cache.value,
            "cache_reason": self.cache_reason,
            "cache_key": self.cache_key,
            "clamp": self.clamp,
            "limit_tokens": self.limit_tokens,
            "remaining_tokens": self.remaining_tokens,
            "reset_tokens": self.reset_tokens,
            "limit_requests": self.limit_requests,
            "remaining_requests": self.remaining_requests,
            "reset_requests": self.reset_requests,
            "remaining_micro_usd": self.remaining_micro_usd,
            "over": self.over,
            "policy_version": str(self.policy_version),
            "usage_max": str(self.usage_max),
            "admitted_at_ms": str(self.admitted_at_ms),
            "event_context": self.event_context,
        }

    @classmethod
    def from_fields(cls, fields: Mapping[str, object]) -> AdmissionRecord:
        """Read what ``to_fields`` wrote, in version 1 too. Raises NotAnAdmission."""
        texts = {name: value for name, value in fields.items() if isinstance(value, str)}
        if texts.get("v") not in (RECORD_VERSION, FIRST_VERSION):
            raise NotAnAdmission(
                f"tidegate.admit: version must be {RECORD_VERSION!r}, got {texts.get('v')!r}"
            )
        if texts["v"] == FIRST_VERSION:
            texts = {**_ADDED, **texts, "held": f"{texts.get('amount')},0,0,0"}
        try:
            return cls(
                decision=Verdict(texts["decision"]),
                request_id=RequestId(texts["request_id"]),
                org=OrgId(texts["org"]),
                key=KeyId(texts["key"]),
                hold=HoldId(texts["hold"]),
                held=Amounts.of_text(texts["held"]),
                hold_expires_at=UnixMillis(int(texts["hold_expires_at"])),
                price=texts["price"],
                lease=HoldId(texts["lease"]),
                lease_windows=tuple(texts["lease_windows"].split()),
                prompt_bound=Tokens(int(texts["prompt_bound"])),
                completion_max=Tokens(int(texts["completion_max"])),
                choices=int(texts["choices"]),
                endpoint=texts["endpoint"],
                model=texts["model"],
                revision=texts["revision"],
                stream=texts["stream"] == "true",
                usage_asked=texts["usage_asked"] == "true",
                continuous_usage_asked=texts["continuous_usage_asked"] == "true",
                cache=CacheStatus(texts["cache"]),
                cache_key=texts["cache_key"],
                clamp=texts["clamp"],
                policy_version=int(texts["policy_version"]),
                usage_max=Tokens(int(texts["usage_max"])),
                admitted_at_ms=UnixMillis(int(texts["admitted_at_ms"])),
                event_context=texts["event_context"],
                cache_reason=texts.get("cache_reason", ""),
                **{name: texts[name] for name in _SHOWN},
            )
        except (KeyError, ValueError) as error:
            raise NotAnAdmission(f"tidegate.admit: {error}") from error


_SHOWN: Final = (
    "limit_tokens",
    "remaining_tokens",
    "reset_tokens",
    "limit_requests",
    "remaining_requests",
    "reset_requests",
    "remaining_micro_usd",
    "over",
)
"""Texts that are response headers as they are."""
_ADDED: Final = {
    **dict.fromkeys(("price", "lease", "lease_windows", *_SHOWN), ""),
    **dict.fromkeys(("hold_expires_at", "usage_max", "admitted_at_ms"), "0"),
}
"""What version 1 did not have, or not from its beginning."""
