"""What a body must be before any field of it is looked at."""

from __future__ import annotations

import json
import tracemalloc
from typing import Any

import pytest
from pytest_django import Settings

from jobgroups.api.requests.body import parse
from jobgroups.models import JobGroup
from tests.api.asgi import post_in_pieces
from tests.api.conftest import GRAPH, Api, error_of, wrong_fields

PATH = "/api/job-group"
pytestmark = pytest.mark.django_db


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"   ",
        b"hello",
        b"{'a': 1}",
        b'{"a": 1',
        b'{"a": 1}}',
        b'{"workflow_json": NaN}',
        b'{"workflow_json": [Infinity]}',
        b'{"workflow_json": -Infinity}',
        b'{"a": 1, "a": 2}',
        b'{"metadata": {"a": {"b": 1, "b": 1}}}',
        b'{"a": ' + b"9" * 5000 + b"}",
        '{"a": "ü"}'.encode("latin-1"),
        '{"a": 1}'.encode("utf-16"),
        b'{"a": ' + b"[" * 200_000 + b"]" * 200_000 + b"}",
        b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    ],
    ids=lambda body: repr(body[:24]),
)
def test_body_must_be_json_in_utf8(api: Api, body: bytes) -> None:
    error_of(api.post(PATH, body), 400, "invalid_json")


@pytest.mark.parametrize("body", [b"[]", b"null", b"3", b'"text"', b"true"])
def test_body_must_be_an_object(api: Api, body: bytes) -> None:
    error_of(api.post(PATH, body), 400, "invalid_request")


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (b'{"metadata": {"scene": "a\\u0000b"}}', "metadata.scene"),
        (b'{"metadata": {"scene": "\\ud800"}}', "metadata.scene"),
        (b'{"metadata": {"deep": [1, {"x": "\\udfff"}]}}', "metadata.deep.1.x"),
        (b'{"metadata": {"\\ud800": 1}}', "metadata"),
        (b'{"workflow_json": {"3": {"class_type": "\\u0000"}}}', "workflow_json.3.class_type"),
        (b'{"backend_ids": ["\\u0000"]}', "backend_ids.0"),
        (b'{"not a field": "\\u0000"}', "not a field"),
        (b'{"\\u0000": 1}', "body"),
        (b'{"metadata": {"n": 1e999}}', "metadata.n"),
        (b'{"metadata": ' + b"[" * 120 + b"]" * 120 + b"}", "metadata" + ".0" * 99),
    ],
)
def test_unstorable_value_is_refused_at_any_position(api: Api, body: bytes, field: str) -> None:
    assert list(wrong_fields(api.post(PATH, body))) == [field]


def test_body_is_the_first_level_of_nesting(api: Api) -> None:
    at_limit = b'{"a": ' + b"[" * 99 + b"]" * 99 + b"}"
    assert "a" not in wrong_fields(api.post(PATH, at_limit))
    above = b'{"a": ' + b"[" * 100 + b"]" * 100 + b"}"
    said = wrong_fields(api.post(PATH, above))
    assert said == {"a" + ".0" * 99: "Must not be nested more than 100 levels deep."}


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b'{"a": {"b": 1, "c": 2, "b": 1}}', 'an object has the key "b" more than once.'),
        (b'{"\\ud800\\n": 1, "\\ud800\\n": 2}', 'an object has the key "??" more than once.'),
        (b'{"%s": 1, "%s": 2}' % (b"k" * 99, b"k" * 99), f'the key "{"k" * 64}" more than once.'),
        (b'{"a": "\n"}', "invalid control character at line 1, column 8."),
        (b'{"a": "', "unterminated string starting at line 1, column 7."),
        (b'{"a": "\\x"}', "invalid \\escape at line 1, column 8."),
        (b'{"a": }', "expecting value at line 1, column 7."),
    ],
)
def test_invalid_json_is_described_in_a_sentence(api: Api, body: bytes, says: str) -> None:
    assert error_of(api.post(PATH, body), 400, "invalid_json")["detail"].endswith(says)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b'{"\\u0000": 1}', {"body": "Must not have a key that contains NUL."}),
        (b'{"metadata": {"\\ud800": 1}}', {"metadata": "Must not have a key that contains a lone surrogate."}),
        (b'{"metadata": {"a": "\\u0000"}}', {"metadata.a": "Must not contain NUL."}),
    ],
)
def test_unstorable_key_has_its_own_message(api: Api, body: bytes, said: dict[str, str]) -> None:
    assert wrong_fields(api.post(PATH, body)) == said


def test_surrogate_pair_is_stored(api: Api, farm: list[str]) -> None:
    body = json.dumps(
        {"workflow_json": GRAPH, "backend_ids": ["gpu-1"], "metadata": {"scene": "🎬"}}, ensure_ascii=True
    )
    made = api.post(PATH, body.encode())
    assert made.status_code == 201
    assert JobGroup.objects.get().metadata_json == '{"scene":"🎬"}'


@pytest.mark.parametrize(
    "media_type",
    [
        "",
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "application/*",
        "*/*",
        "application/json; charset=utf-16",
        "application/json; charset=nonsense",
        "application/vnd.api+json",
    ],
)
def test_body_must_be_declared_as_json_in_utf8(api: Api, media_type: str) -> None:
    answer = api.post(PATH, b"{}", **{"content-type": media_type})
    error_of(answer, 415, "unsupported_media_type")


def test_compressed_body_is_refused(api: Api) -> None:
    answer = api.post(PATH, b"{}", content_encoding="gzip")
    assert "Content-Encoding" in error_of(answer, 415, "unsupported_media_type")["detail"]


@pytest.mark.parametrize("media_type", ["application/json", "Application/JSON; charset=UTF-8", "application/json;"])
def test_media_type_is_read_in_any_spelling(api: Api, media_type: str) -> None:
    wrong_fields(api.post(PATH, b"{}", **{"content-type": media_type}))


def test_byte_order_mark_is_ignored(api: Api) -> None:
    wrong_fields(api.post(PATH, b"\xef\xbb\xbf{}"))


def test_body_above_the_limit_is_refused(api: Api, settings: Settings) -> None:
    settings.DIRECTOR_MAX_BODY_BYTES = settings.DATA_UPLOAD_MAX_MEMORY_SIZE = 1000
    at_limit = b'{"a": "%s"}' % (b"x" * (1000 - 9))
    assert len(at_limit) == 1000
    wrong_fields(api.post(PATH, at_limit))
    error_of(api.post(PATH, at_limit + b" "), 413, "payload_too_large")


def test_20_megabytes_are_too_large_by_default(api: Api) -> None:
    body = b'{"metadata": "%s"}' % (b"x" * 20 * 2**20)
    error_of(api.post(PATH, body), 413, "payload_too_large")


@pytest.mark.django_db(transaction=True)
async def test_chunked_body_is_read() -> None:
    status, body = await post_in_pieces(PATH, [b'{"base_seed"', b': "x"}'])
    assert status == 400
    assert "base_seed" in [error["field"] for error in body["errors"]]


@pytest.mark.django_db(transaction=True)
async def test_chunked_body_above_the_limit_is_refused(settings: Settings) -> None:
    settings.DIRECTOR_MAX_BODY_BYTES = settings.DATA_UPLOAD_MAX_MEMORY_SIZE = 1000
    status, body = await post_in_pieces(PATH, [b'{"a": "', b"x" * 2000, b'"}'])
    assert (status, body["code"]) == (413, "payload_too_large")


@pytest.mark.parametrize("element", [b"1", b"1000", b"{}", b'{"":' * 90 + b"1" + b"}" * 90])
def test_body_takes_at_most_40_times_its_length_of_memory(element: bytes) -> None:
    body = b'{"a": [' + b",".join([element] * (2**16 // (len(element) + 1))) + b"]}"
    tracemalloc.start()
    try:
        parse(body)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 40 * len(body)


def test_no_error_repeats_the_request(api: Api, farm: list[str]) -> None:
    secret = "hunter2-do-not-repeat"
    bodies: list[Any] = [
        secret.encode(),
        b'{"a": "' + secret.encode() + b'", }',
        {"workflow_json": secret, "backend_ids": secret, "seed_strategy": secret},
        {"workflow_json": {"3": secret}, "backend_ids": [secret * 20], "metadata": secret},
        {"workflow_json": GRAPH, "backend_ids": ["gpu-1"], "parameters": {"steps": secret}},
        {"workflow_json": GRAPH, "backend_ids": ["gpu-1"], "timeout_seconds": secret},
    ]
    for body in bodies:
        answer = api.post(PATH, body)
        assert answer.status_code == 400
        assert secret not in answer.content.decode()
