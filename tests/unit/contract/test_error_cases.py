"""The table of errors against the source that makes them, mesh/base, and the SDK that raises them."""

from __future__ import annotations

import httpx2
import openai
import pytest
from openai import OpenAI

from ext_authz.decision import AuthCode
from gateway.contract.error_cases import ERROR_CASES, WINDOW, ErrorCase, Origin
from gateway.openai.engine_errors import engine_error, not_an_answer, stopped
from tests.harness.error_codes import LEAVES, codes_of_code, local_replies


def shown(case: ErrorCase) -> str:
    return f"{case.origin.value}: {case.case}"


ENVOYS = [case for case in ERROR_CASES if case.origin is Origin.ENVOY]
OURS = [case for case in ERROR_CASES if case.origin is not Origin.ENVOY]


def test_every_code_that_the_source_can_produce_is_in_the_table_and_no_other() -> None:
    assert {case.code for case in OURS} == codes_of_code()


def test_every_local_reply_is_in_the_table_and_no_other() -> None:
    mapped = {(str(one["type"]), str(one["code"]), str(one["retry_after"])) for one in local_replies()}
    assert {(case.type, case.code, case.retry_after) for case in ENVOYS} == mapped
    statuses = {(one["code"], one["status"]) for one in local_replies() if one["status"] is not None}
    listed = {(case.code, case.status) for case in ENVOYS}
    assert statuses <= listed
    keep_envoys_own = {str(one["code"]) for one in local_replies() if one["status"] is None}
    assert {code for code, status in listed - statuses} == keep_envoys_own


def test_every_reason_of_ext_authz_is_a_row_of_its_own() -> None:
    rows = [case.code for case in ERROR_CASES if case.origin is Origin.EXT_AUTHZ and case.status == 401]
    assert sorted(rows) == sorted(AuthCode)


@pytest.mark.parametrize("case", OURS, ids=shown)
def test_a_row_says_what_its_class_says(case: ErrorCase) -> None:
    like_it = [
        leaf
        for leaf in LEAVES.values()
        if leaf.type == case.type and (case.status == 0 or leaf.http_status == case.status)
    ]
    assert like_it, "no class of the tree has this status and type"


@pytest.mark.parametrize("case", ERROR_CASES, ids=shown)
def test_the_sdk_raises_the_class_in_the_table(case: ErrorCase) -> None:
    assert issubclass(getattr(openai, case.sdk_class), openai.APIError)
    if case.origin is Origin.STREAM:
        return
    body = {"message": "m", "type": case.type, "param": None, "code": case.code}
    client = OpenAI(
        api_key="k",
        base_url="http://gateway/v1",
        max_retries=0,
        http_client=httpx2.Client(
            transport=httpx2.MockTransport(lambda _: httpx2.Response(case.status, json={"error": body}))
        ),
    )
    with pytest.raises(openai.APIStatusError) as caught:
        client.models.list()
    assert type(caught.value).__name__ == case.sdk_class
    assert (caught.value.code, caught.value.type, caught.value.param) == (case.code, case.type, None)


def test_no_two_rows_tell_the_same() -> None:
    assert len({shown(case) for case in ERROR_CASES}) == len(ERROR_CASES)


@pytest.mark.parametrize("case", ERROR_CASES, ids=shown)
def test_a_second_try_is_advised_only_where_it_can_help(case: ErrorCase) -> None:
    assert case.retry_after in ("", WINDOW) or int(case.retry_after) >= 1
    if case.retry_after:
        assert case.status in (429, 502, 503, 504)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 405, 408, 413, 422, 429, 500, 502, 503, 504, 599])
@pytest.mark.parametrize("text", [b"", b'{"message": "queue is full"}', b'{"message": "loading"}', b"<html>"])
def test_whatever_an_engine_answers_is_a_row(status: int, text: bytes) -> None:
    error = engine_error(status, text)
    found = [
        case
        for case in ERROR_CASES
        if case.origin is Origin.ENGINE
        and (case.status, case.type, case.code) == (error.http_status, error.type, error.code)
    ]
    assert len(found) == 1
    assert found[0].retry_after == ("" if error.retry_after_s is None else str(error.retry_after_s))


def test_what_breaks_off_or_is_no_answer_is_a_row_of_the_engine_and_of_the_stream() -> None:
    for error in (not_an_answer(), stopped()):
        for origin, status, retry_after in ((Origin.ENGINE, error.http_status, "2"), (Origin.STREAM, 0, "")):
            assert [
                case.retry_after
                for case in ERROR_CASES
                if (case.origin, case.status, case.code) == (origin, status, error.code)
            ] == [retry_after]
        assert error.retry_after_s == 2
