"""The catalogue: the shipped file, and what a wrong one is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.budget.measure import AMOUNT_MAX, PRICE_MAX
from gateway.config.document import PolicyError, parse_documents
from gateway.contract.errors import NotFound
from gateway.contract.units import MicroUsd
from gateway.models.catalogue import (
    Catalogue,
    Prices,
    catalogue_of,
    load_catalogue,
    price_notes,
    read_catalogue,
    schema,
)
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
        ("models:" + entry("one") + "    prices: {prompt: 10000000001}\n", "models[0].prices.prompt"),
        ("models:" + entry("one") + "    prices: {request: 1099511627777}\n", "models[0].prices.request"),
        ("models:" + entry("one") + "    prices: {prompt: 5, cached: 6}\n", "models[0].prices.cached"),
        ("models:" + entry("one") + "    prices: {cached: 1}\n", "models[0].prices.cached"),
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
    assert model.template == ""
    assert model.capabilities.n_max == 1


def test_the_template_has_a_name() -> None:
    assert read("models:" + entry("one") + "    template: chatml-2\n").models[0].template == "chatml-2"
    with pytest.raises(PolicyError):
        read("models:" + entry("one") + "    template: two words\n")


def test_where_caching_is_said_now() -> None:
    with pytest.raises(PolicyError) as caught:
        read("models:" + entry("one") + entry("two") + "    cache: {mode: off, ttl_seconds: 5}\n    x: 1\n")
    told = {problem.path: str(problem) for problem in caught.value.problems}
    assert told["models[1].cache"] == (
        "models.yaml:19: models[1].cache: caching is no longer said of a model; make it a rule of cache.yaml,"
        " with match: {models: [...]}, mode and ttl_seconds"
    )
    assert "unknown field" in told["models[1].x"]


def test_only_checked_vendor_parameters_can_be_allowed() -> None:
    allowed = set(schema()["$defs"]["model"]["properties"]["vendor_parameters"]["items"]["enum"])
    assert allowed == set(VENDOR)
    assert not allowed & GATEWAY_OWNED


def test_doubles_in_code_are_refused() -> None:
    model = load_catalogue(SHIPPED).models[0]
    with pytest.raises(ValueError, match="two models"):
        catalogue_of((model, model))


def usd(**prices: int) -> Prices:
    return Prices(**{name: MicroUsd(price) for name, price in prices.items()})


def test_cost_is_whole_and_rounded_up_once() -> None:
    prices = usd(prompt=2_000_000, cached=1_000_000, completion=3_000_000)
    assert prices.cost(prompt=10, cached=4, completion=5) == 31
    assert usd(prompt=1).cost(prompt=1, cached=0, completion=0) == 1
    assert usd(prompt=500_000, cached=250_000, completion=250_000).cost(prompt=2, cached=1, completion=1) == 1
    assert prices.cost(prompt=0, cached=0, completion=0) == 0
    assert usd(request=7).cost(prompt=0, cached=0, completion=0) == 7
    assert usd(request=7, prompt=1).cost(prompt=1, cached=0, completion=0) == 8


def test_what_is_held_is_never_less_than_what_it_costs() -> None:
    prices = usd(prompt=333_333, cached=111_111, completion=999_999, request=3)
    price = prices.ledger_price()
    assert (price.prompt, price.completion, price.request) == (333_333, 999_999, 3)
    for prompt in range(0, 60, 7):
        held = price.cost(prompt=prompt, completion=prompt)
        assert held == prices.cost(prompt=prompt, cached=0, completion=prompt)
        assert all(
            held >= prices.cost(prompt=prompt, cached=cached, completion=prompt) for cached in range(prompt)
        )


def test_a_price_has_bounds_in_code_too() -> None:
    usd(prompt=PRICE_MAX, cached=PRICE_MAX, completion=PRICE_MAX, request=AMOUNT_MAX)
    for wrong in ({"prompt": PRICE_MAX + 1}, {"completion": -1}, {"request": AMOUNT_MAX + 1}, {"cached": 1}):
        with pytest.raises(ValueError, match="must be 0 to"):
            usd(**wrong)


def test_the_schema_bounds_prices_as_the_ledger_does() -> None:
    prices = schema()["$defs"]["model"]["properties"]["prices"]["properties"]
    assert schema()["$defs"]["price"]["maximum"] == PRICE_MAX
    assert prices["request"]["maximum"] == AMOUNT_MAX


def test_a_cached_token_costs_what_any_costs_unless_said() -> None:
    text = "models:" + entry("one") + "    prices: {prompt: 9, completion: 8, request: 7}\n"
    assert read(text).models[0].prices == usd(prompt=9, cached=9, completion=8, request=7)
    assert read(text.replace("{", "{cached: 0, ")).models[0].prices.cached == 0


def test_a_model_is_free_but_not_in_silence() -> None:
    text = "models:" + entry("one") + entry("two") + "    prices: {prompt: 0}\n" + entry("three")
    document = parse_documents(text, "models.yaml")[0]
    assert read_catalogue(document).require("one").prices == Prices()
    assert [str(note) for note in price_notes(document)] == [
        "models.yaml:2: models[0]: 'one' has no prices: it is free, and no limit in micro_usd holds it;"
        " say its prices, or prices: {prompt: 0}",
        "models.yaml:21: models[2]: 'three' has no prices: it is free, and no limit in micro_usd holds it;"
        " say its prices, or prices: {prompt: 0}",
    ]


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
