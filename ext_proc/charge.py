"""What one attempt is charged, in the ledger's words and the event's."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Final

from gateway.contract.units import Tokens
from gateway.openai.answers import Usage

NOTHING: Final = Usage(prompt=Tokens(0), completion=Tokens(0))


@dataclass(frozen=True, slots=True, kw_only=True)
class Charge:
    """What to settle. With ``unknown`` the whole hold is posted and ``used`` is 0."""

    used: Tokens
    unknown: bool
    estimated: bool
    """The amount is the last report, not the final one, or reports contradicted each other."""
    prompt: Tokens
    completion: Tokens
    cached: Tokens
    detail: Mapping[str, str]
    """For the event: prompt, completion, cached, finish_reason, ended, flags (comma separated)."""

    @classmethod
    def of(
        cls,
        usage: Usage,
        *,
        unknown: bool,
        estimated: bool,
        finish_reason: str,
        ended: str,
        flags: Collection[str],
    ) -> Charge:
        """``usage``: NOTHING where none was seen."""
        return cls(
            used=Tokens(0) if unknown else usage.total,
            unknown=unknown,
            estimated=estimated,
            prompt=usage.prompt,
            completion=usage.completion,
            cached=usage.cached,
            detail={
                "prompt": str(usage.prompt),
                "completion": str(usage.completion),
                "cached": str(usage.cached),
                "finish_reason": finish_reason,
                "ended": ended,
                "flags": ",".join(sorted(flags)),
            },
        )
