"""What is taken from an answer of ``/v1/embeddings``, and what a model's identity is made from."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import orjson
import pytest

from inference.embedders.embedder import EmbedderUnavailable, TooLong
from inference.embedders.openai_embeddings import OpenAIEmbedder, RemoteModel, read_answer

MODEL = RemoteModel(name="m", revision="1", dimensions=2)


def body(embedding: object = (3, 4.0), **more: Any) -> bytes:
    return orjson.dumps({"data": [{"embedding": embedding}], **more})


def test_an_embedding_gets_length_1() -> None:
    assert read_answer(body(), MODEL) == pytest.approx([0.6, 0.8])
    assert read_answer(body(usage={"prompt_tokens": 64}), MODEL) == pytest.approx([0.6, 0.8])
    assert read_answer(body(usage=None), MODEL) == pytest.approx([0.6, 0.8])


def test_more_tokens_than_asked_for_are_too_long() -> None:
    with pytest.raises(TooLong):
        read_answer(body(usage={"prompt_tokens": 65}), MODEL)


RUBBISH: dict[str, bytes] = {
    "nothing": b"",
    "HTML": b"<html>",
    "a number": b"1",
    "a list": b"[1]",
    "no data": b"{}",
    "data of another kind": b'{"data": 1}',
    "an object of data": b'{"data": {"embedding": [3, 4]}}',
    "no item": b'{"data": []}',
    "two items": b'{"data": [{"embedding": [3, 4]}, {"embedding": [3, 4]}]}',
    "no embedding": b'{"data": [{}]}',
    "base64": b'{"data": [{"embedding": "AACAPwAAgD8="}]}',
    "texts": b'{"data": [{"embedding": ["3", "4"]}]}',
    "booleans": b'{"data": [{"embedding": [true, false]}]}',
    "null": b'{"data": [{"embedding": [3, null]}]}',
    "nested": b'{"data": [{"embedding": [[3, 4]]}]}',
    "too few": b'{"data": [{"embedding": [3]}]}',
    "too many": b'{"data": [{"embedding": [3, 4, 5]}]}',
    "none": b'{"data": [{"embedding": []}]}',
    "zeros": b'{"data": [{"embedding": [0, 0.0]}]}',
    "NaN": b'{"data": [{"embedding": [NaN, 1]}]}',
    "infinity": b'{"data": [{"embedding": [1e999, 1]}]}',
    "usage of another kind": b'{"data": [{"embedding": [3, 4]}], "usage": [1]}',
    "cut": b'{"data": [{"embedding": [3, 4',
    "deep": b"[" * 100_000,
}


@pytest.mark.parametrize("case", RUBBISH)
def test_what_is_no_vector_is_refused(case: str) -> None:
    with pytest.raises(EmbedderUnavailable):
        read_answer(RUBBISH[case], MODEL)


def test_the_identity_is_the_models_and_not_the_servers() -> None:
    changed = [
        MODEL,
        replace(MODEL, name="n"),
        replace(MODEL, revision="2"),
        replace(MODEL, dimensions=3),
        replace(MODEL, prefix="query: "),
    ]
    assert len({model.identity for model in changed}) == len(changed)
    assert replace(MODEL, languages=frozenset({"en"})).identity == MODEL.identity


def test_a_request_asks_for_dimensions_only_where_the_model_can() -> None:
    plain = {"model": "m", "input": "a", "encoding_format": "float"}
    assert orjson.loads(MODEL.request_body("a")) == plain
    asking = replace(MODEL, asks_dimensions=True, prefix="q: ")
    assert orjson.loads(asking.request_body("a")) == {**plain, "input": "q: a", "dimensions": 2}
    with pytest.raises(EmbedderUnavailable):
        MODEL.request_body("\ud800")


@pytest.mark.parametrize(
    "url", ["", "pods:80", "ftp://pods", "http://", "http://user:word@pods", "http://pods:x"]
)
def test_a_base_url_is_http_without_a_user(url: str) -> None:
    with pytest.raises(ValueError, match="base_url"):
        OpenAIEmbedder(MODEL, base_url=url)


@pytest.mark.parametrize("key", ["", "a b", "a\r\nx: y", "schlüssel", "x" * 4097])
def test_a_key_that_fits_in_no_header_is_refused_without_being_shown(key: str) -> None:
    with pytest.raises(ValueError, match="API key is not") as refused:
        OpenAIEmbedder(MODEL, base_url="http://pods", api_key=key)
    assert not key or key not in str(refused.value)
