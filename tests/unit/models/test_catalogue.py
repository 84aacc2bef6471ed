"""The catalogue: the shipped file, and what a wrong one is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.config.document import PolicyError, parse_documents
from gateway.contract.errors import NotFound
from gateway.contract.units import MicroUsd
from gateway.models.catalogue import Catalogue, Prices, catalogue_of, load_catalogue, read_catalogue, schema
from gateway.openai.parameters import GATEWAY_OWNED, VENDOR
from gateway.openai.terms import Endpoint

SHIPPED = Path(__file__).resolve().parents[3] / "mesh/base/policy/models.yaml"
ENTRY = """
  - name: {name}
    aliases: [{aliases}]
    revision: r1
    context_tokens: 100
    max_completion_tokens: {most}
    template_tokens_base: 1
    template_tokens_per_message: 1
    endpoints: [{endpoints}]
"""


def entry(name: str, aliases: str = "", most: int = 50, endpoints: str = "completions") -> str:
    return ENTRY.format(name=name, aliases=aliases, most=most, endpoints=endpoints)


def read(text: str) -> Catalogue:
    return read_catalogue(parse_documents(text, "models.yaml")[0])


def test_the_shipped_catalogue() -> None:
    catalogue = load_catalogue(SHIPPED)
    model = catalogue.require("demo")
    assert model is catalogue.resolve("smollm2-135m")
    assert model.engine_name == "smollm2-135m"
    assert model.pool == "sglang"
    assert Endpoint.CHAT in model.endpoints
    assert catalogue.resolve("DEMO") is None


def test_an_unknown_model_is_a_404() -> None:
    with pytest.raises(NotFound) as caught:
        load_catalogue(SHIPPED).require("nope")
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")


def test_names_and_aliases_are_one_name_space() -> None:
    with pytest.raises(PolicyError) as caught:
        read("models:" + entry("one", "x") + entry("two", "one, x"))
    problems = caught.value.problems
    assert [problem.path for problem in problems] == ["models[1].aliases[0]", "models[1].aliases[1]"]
    assert [problem.line for problem in problems] == [12, 12]
    assert "line 2" in problems[0].message
    assert problems[0].mend


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("models: []", "models"),
        ("models:" + entry("one", most=101), "models[0].max_completion_tokens"),
        ("models:" + entry("one", most=0), "models[0].max_completion_tokens"),
        (
            "models:" + entry("one", most=50) + "\n    default_completion_tokens: 51",
            "models[0].default_completion_tokens",
        ),
        ("models:" + entry("one", endpoints="embeddings, completions"), "models[0].endpoints"),
        ("models:" + entry("one", endpoints="images"), "models[0].endpoints[0]"),
        ("models:" + entry("one") + "    vendor_parameters: [lora_path]\n", "models[0].vendor_parameters[0]"),
        ("models:" + entry("one") + "    pool: api\n", "models[0].pool"),
        ("models:" + entry("one") + "    price: 1\n", "models[0].price"),
        ("models:" + entry("one") + "    prices: {prompt: 0.5}\n", "models[0].prices.prompt"),
        ("models:" + entry('"bad name"'), "models[0].name"),
        ("models: [{name: one}]", "models[0]"),
        ("other: 1", "other"),
    ],
)
def test_mistakes_have_a_place(text: str, path: str) -> None:
    with pytest.raises(PolicyError) as caught:
        read(text)
    assert path in [problem.path for problem in caught.value.problems]
    assert all(problem.line >= 1 for problem in caught.value.problems)


def test_defaults() -> None:
    model = read("models:" + entry("one") + "    lora: de\n").models[0]
    assert (model.served_name, model.engine_name, model.pool) == ("one", "one:de", "sglang")
    assert model.cacheable
    assert model.capabilities.n_max == 1


def test_only_checked_vendor_parameters_can_be_allowed() -> None:
    allowed = set(schema()["$defs"]["model"]["properties"]["vendor_parameters"]["items"]["enum"])
    assert allowed == set(VENDOR)
    assert not allowed & GATEWAY_OWNED


def test_doubles_in_code_are_refused() -> None:
    model = load_catalogue(SHIPPED).models[0]
    with pytest.raises(ValueError, match="two models"):
        catalogue_of((model, model))


def test_cost_is_whole_and_rounded_up() -> None:
    prices = Prices(prompt=MicroUsd(2_000_000), cached=MicroUsd(1_000_000), completion=MicroUsd(3_000_000))
    assert prices.cost(prompt=10, cached=4, completion=5) == 31
    assert Prices(prompt=MicroUsd(1)).cost(prompt=1, cached=0, completion=0) == 1
    assert prices.cost(prompt=0, cached=0, completion=0) == 0


def test_a_model_that_embeds_may_also_tokenize_and_nothing_else() -> None:
    catalogue = read("models:" + entry("e", most=0, endpoints="embeddings, tokenize"))
    assert catalogue.require("e").endpoints == {Endpoint.EMBEDDINGS, Endpoint.TOKENIZE}
    with pytest.raises(PolicyError):
        read("models:" + entry("e", endpoints="embeddings, tokenize, completions"))


def test_the_size_of_the_vocabulary_may_be_left_out() -> None:
    sized = entry("s") + "    vocabulary_size: 32000\n"
    catalogue = read("models:" + entry("u") + sized)
    assert [catalogue.require(name).vocabulary_size for name in ("u", "s")] == [0, 32_000]
    with pytest.raises(PolicyError):
        read("models:" + entry("z") + "    vocabulary_size: 0\n")
