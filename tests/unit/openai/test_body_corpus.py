"""The corpus of bodies against the validator itself."""

from __future__ import annotations

import pytest

from gateway.contract.errors import GatewayError
from gateway.models.catalogue import Catalogue, load_catalogue
from gateway.openai.requests import parse_request
from tests.corpus.bodies.cases import MODELS, Case, Expected, cases

BAD_MIN = 300


@pytest.fixture(scope="module")
def catalogue() -> Catalogue:
    return load_catalogue(MODELS)


@pytest.mark.parametrize("case", cases(), ids=lambda case: case.name)
def test_the_body_is_what_its_file_says(catalogue: Catalogue, case: Case) -> None:
    assert _judged(catalogue, case) == (Expected(status=200) if case.planned else case.expect)


def _judged(catalogue: Catalogue, case: Case) -> Expected:
    try:
        parse_request(case.endpoint, case.body, catalogue.require)
    except GatewayError as error:
        return Expected(status=error.http_status, code=error.code, param=error.param)
    return Expected(status=200)


def test_the_corpus_is_as_long_as_promised_and_each_body_is_another() -> None:
    assert sum(case.expect.status != 200 for case in cases()) >= BAD_MIN
    assert len({(case.endpoint, case.body) for case in cases()}) == len(cases())
