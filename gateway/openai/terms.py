"""What the validator has to know of an endpoint and of a model; the catalogue's Model fulfils it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Protocol


class Endpoint(StrEnum):
    """What engines answer. The value is the name used in records, events and the catalogue."""

    CHAT = "chat.completions"
    COMPLETIONS = "completions"
    EMBEDDINGS = "embeddings"
    TOKENIZE = "tokenize"
    """SGLang's, not OpenAI's: the ids of a prompt. Costs no tokens."""

    @property
    def path(self) -> str:
        """``/v1/chat/completions`` and so on."""
        return _PATHS[self]

    @property
    def generates(self) -> bool:
        """Whether the answer holds completion tokens."""
        return self in (Endpoint.CHAT, Endpoint.COMPLETIONS)


_PATHS: Final = {
    Endpoint.CHAT: "/v1/chat/completions",
    Endpoint.COMPLETIONS: "/v1/completions",
    Endpoint.EMBEDDINGS: "/v1/embeddings",
    Endpoint.TOKENIZE: "/v1/tokenize",
}
_ENDPOINTS: Final = {path: endpoint for endpoint, path in _PATHS.items()}


def endpoint_of(path: str) -> Endpoint | None:
    """The endpoint served at ``path`` (no query string), exact spelling only; None for any other path."""
    return _ENDPOINTS.get(path)


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """What a model serves beyond plain text. A parameter outside it is an UnsupportedParameter."""

    tools: bool = False
    json_object: bool = True
    json_schema: bool = True
    logprobs: bool = False
    reasoning: bool = False
    suffix: bool = False
    """Completions: the engine has a fill-in-the-middle template (``--completion-template``)."""
    dimensions: bool = False
    """Embeddings of fewer dimensions (the engine knows the model as a matryoshka)."""
    developer_role: bool = False
    """The chat template knows the role; without it a developer's message is sent as system."""
    n_max: int = 1
    """Most completions of one prompt."""
    batch_max: int = 1
    """Most prompts (completions, tokenize) or inputs (embeddings) in one request."""


class ModelTerms(Protocol):
    """The part of a catalogue entry that decides whether a request is well-formed."""

    @property
    def endpoints(self) -> frozenset[Endpoint]:
        """Where the model answers."""

    @property
    def capabilities(self) -> Capabilities:
        """What it serves."""

    @property
    def vendor_parameters(self) -> frozenset[str]:
        """Engine parameters beyond OpenAI's that clients may send."""

    @property
    def context_tokens(self) -> int:
        """Prompt and completion together."""

    @property
    def max_completion_tokens(self) -> int:
        """Most tokens of one completion."""

    @property
    def vocabulary_size(self) -> int:
        """Token ids are below it; 0 when it is not known."""
