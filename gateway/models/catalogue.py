"""The model catalogue: one immutable snapshot of models.yaml.

The schema is published beside this file (catalogue.schema.json). Names and aliases form one
name space: a name that could mean two models is a PolicyError with both places.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import orjson

from gateway.budget.measure import PICO_PER_MICRO, Price
from gateway.config.document import Document, PathKey, PolicyError, Problem, read_document, validate
from gateway.contract.errors import NotFound
from gateway.contract.ids import ModelName
from gateway.contract.units import MicroUsd, Tokens
from gateway.openai.terms import Capabilities, Endpoint

FILE: Final = "models.yaml"
"""Its name in the policy directory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prices:
    """Integer micro-USD per million tokens (1_000_000 is one USD per million), which is as many pico-USD a
    token; and micro-USD a request."""

    prompt: MicroUsd = MicroUsd(0)
    cached: MicroUsd = MicroUsd(0)
    """Of prompt tokens the engine found in its prefix cache; never above ``prompt``."""
    completion: MicroUsd = MicroUsd(0)
    request: MicroUsd = MicroUsd(0)
    """Of each request, whatever its tokens."""

    def __post_init__(self) -> None:
        """Raises ValueError for what the ledger cannot count, and where a cached token costs more than one
        that is not: a hold would not cover it."""
        self.ledger_price()
        if not 0 <= self.cached <= self.prompt:
            raise ValueError(f"cached: must be 0 to the price of a prompt token, {self.prompt}")

    def ledger_price(self) -> Price:
        """What a hold is counted with: no prompt token is taken to be cached."""
        return Price(prompt=self.prompt, completion=self.completion, request=self.request)

    def cost(self, *, prompt: int, cached: int, completion: int) -> MicroUsd:
        """Micro-USD of one answer, rounded up once; ``cached`` is the part of ``prompt`` that was cached."""
        total = (prompt - cached) * self.prompt + cached * self.cached + completion * self.completion
        return MicroUsd(self.request + -(-total // PICO_PER_MICRO))


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """One entry. Fulfils gateway.openai.terms.ModelTerms."""

    name: ModelName
    aliases: tuple[str, ...] = ()
    served_name: str
    """What the engine calls it (its ``--served-model-name``)."""
    pool: str = "sglang"
    """Which pool of pods answers: the route header's value."""
    revision: str
    """Changes with the weights, template or tokenizer; part of every cache key."""
    template: str = ""
    """Names the chat template's version; part of every cache key: change it with the template."""
    lora: str = ""
    """Adapter loaded in the engine; it is asked for as ``served_name:lora``."""
    context_tokens: int
    max_completion_tokens: int
    default_completion_tokens: int = 0
    """Of a chat whose client named no limit; 0: as many as ``max_completion_tokens``."""
    vocabulary_size: int = 0
    """Token ids are below it; 0 where the catalogue does not say."""
    template_tokens_base: int
    """Upper bound of what the chat template adds once (default system prompt, generation prompt)."""
    template_tokens_per_message: int
    """Upper bound of what it adds for each message (role, separators)."""
    template_tokens_tools: int = 1024
    """Upper bound of what it adds once when tools are given."""
    endpoints: frozenset[Endpoint]
    capabilities: Capabilities = Capabilities()
    vendor_parameters: frozenset[str] = frozenset()
    prices: Prices = Prices()

    @property
    def engine_name(self) -> str:
        """The ``model`` of the engine request."""
        return f"{self.served_name}:{self.lora}" if self.lora else self.served_name


@dataclass(frozen=True, slots=True, kw_only=True)
class Catalogue:
    """All models, in file order."""

    models: tuple[Model, ...]
    by_name: Mapping[str, Model]
    """Names and aliases."""

    def resolve(self, name_or_alias: str) -> Model | None:
        """The model of that name or alias; exact spelling, None for any other."""
        return self.by_name.get(name_or_alias)

    def require(self, name_or_alias: str) -> Model:
        """As ``resolve``; raises NotFound (404 model_not_found) for an unknown name."""
        model = self.by_name.get(name_or_alias)
        if model is None:
            raise NotFound(
                "The model does not exist or you do not have access to it; GET /v1/models lists yours.",
                code="model_not_found",
                param="model",
            )
        return model


def catalogue_of(models: tuple[Model, ...]) -> Catalogue:
    """A catalogue of ``models``, whose names and aliases must be distinct (ValueError)."""
    by_name: dict[str, Model] = {}
    for model in models:
        for name in (model.name, *model.aliases):
            if name in by_name:
                raise ValueError(f"{name!r} names two models")
            by_name[name] = model
    return Catalogue(models=models, by_name=MappingProxyType(by_name))


@cache
def schema() -> dict[str, Any]:
    """The published JSON Schema of models.yaml."""
    loaded: dict[str, Any] = orjson.loads(Path(__file__).with_name("catalogue.schema.json").read_bytes())
    return loaded


def read_catalogue(document: Document) -> Catalogue:
    """The catalogue in ``document``. Raises PolicyError with every problem found."""
    try:
        validate(document, schema())
    except PolicyError as error:
        raise PolicyError([_told_where(problem) for problem in error.problems]) from None
    entries: list[dict[str, Any]] = document.data["models"]
    problems = _double_names(document, entries) + _contradictions(document, entries)
    if problems:
        raise PolicyError(sorted(problems, key=lambda problem: problem.line))
    return catalogue_of(tuple(_model(entry) for entry in entries))


def load_catalogue(file: Path) -> Catalogue:
    """The catalogue in ``file`` (models.yaml of the policy directory). Raises PolicyError."""
    return read_catalogue(read_document(file, shown_as=file.name))


def _model(entry: dict[str, Any]) -> Model:
    plain = {
        name: value
        for name, value in entry.items()
        if name not in ("aliases", "endpoints", "capabilities", "vendor_parameters", "prices")
    }
    return Model(
        **{"served_name": entry["name"], **plain},
        aliases=tuple(entry.get("aliases", ())),
        endpoints=frozenset(Endpoint(name) for name in entry["endpoints"]),
        capabilities=Capabilities(**entry.get("capabilities", {})),
        vendor_parameters=frozenset(entry.get("vendor_parameters", ())),
        prices=_prices(entry.get("prices", {})),
    )


def _prices(entry: Mapping[str, MicroUsd]) -> Prices:
    """A cached token costs what any prompt token costs, unless the entry says less."""
    return Prices(**{"cached": entry.get("prompt", MicroUsd(0)), **entry})


_CACHE_KEY: Final = re.compile(r"models\[[0-9]+\]\.cache")


def _told_where(problem: Problem) -> Problem:
    """What files of earlier versions said here stands in a file of its own now."""
    if not _CACHE_KEY.fullmatch(problem.path):
        return problem
    return replace(
        problem,
        message="caching is no longer said of a model",
        mend="make it a rule of cache.yaml, with match: {models: [...]}, mode and ttl_seconds",
    )


def _double_names(document: Document, entries: list[dict[str, Any]]) -> list[Problem]:
    problems = []
    first: dict[str, int] = {}
    for index, entry in enumerate(entries):
        places: list[tuple[str, PathKey]] = [(entry["name"], ("models", index, "name"))]
        places += [
            (alias, ("models", index, "aliases", position))
            for position, alias in enumerate(entry.get("aliases", ()))
        ]
        for name, path in places:
            line = document.line(path)
            if name in first:
                problems.append(
                    document.problem(
                        path,
                        f"{name!r} is taken by line {first[name]}",
                        "every name and alias means one model: rename or remove one",
                    )
                )
            else:
                first[name] = line
    return problems


def price_notes(document: Document) -> list[Problem]:
    """What is no mistake but may be an oversight: models of which no price is said, not even 0. The document
    must have passed ``read_catalogue``."""
    return [
        document.problem(
            ("models", index),
            f"{entry['name']!r} has no prices: it is free, and no limit in micro_usd holds it",
            "say its prices, or prices: {prompt: 0}",
        )
        for index, entry in enumerate(document.data["models"])
        if not entry.get("prices")
    ]


def _contradictions(document: Document, entries: list[dict[str, Any]]) -> list[Problem]:
    problems = []
    for index, entry in enumerate(entries):
        context, most = Tokens(entry["context_tokens"]), Tokens(entry["max_completion_tokens"])
        served = [Endpoint(name) for name in entry["endpoints"]]
        embeds, generates = Endpoint.EMBEDDINGS in served, any(endpoint.generates for endpoint in served)
        if embeds and generates:
            problems.append(
                document.problem(
                    ("models", index, "endpoints"),
                    "an engine serves embeddings or completions, not both",
                    "make two entries",
                )
            )
        if generates and not 0 < most <= context:
            problems.append(
                document.problem(
                    ("models", index, "max_completion_tokens"),
                    f"{most} does not lie between 1 and context_tokens ({context})",
                    "lower it",
                )
            )
        if entry.get("default_completion_tokens", 0) > most:
            problems.append(
                document.problem(
                    ("models", index, "default_completion_tokens"),
                    f"{entry['default_completion_tokens']} is over max_completion_tokens ({most})",
                    "lower it",
                )
            )
        prices = entry.get("prices", {})
        if prices.get("cached", 0) > prices.get("prompt", 0):
            problems.append(
                document.problem(
                    ("models", index, "prices", "cached"),
                    f"{prices['cached']} is over the price of a prompt token ({prices.get('prompt', 0)})",
                    "lower it, or leave it out where a cached token costs the same",
                )
            )
    return problems
