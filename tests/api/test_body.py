import json
import tracemalloc
from typing import Any

import pytest
from pytest_django import Settings

from jobgroups.api.requests.body import parse
from jobgroups.models import JobGroup
from tests.api.conftest import GRAPH, Api, error_of, wrong_fields

PATH = "/api/job-group"
pytestmark = pytest.mark.django_db


@pytest.mark.parametrize("value", ["{}", "[]"])
def test_body_of_too_many_objects_is_refused_before_it_is_read(api: Api, value: str) -> None:
    body = f'{{"a": [{",".join([value] * 1_000_000)}]}}'
    assert (
        "1000000 objects and lists"
        in error_of(api.post(PATH, body), 413, "payload_too_large")["detail"]
    )


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ('{"a": "ü"}'.encode("latin-1"), "is not UTF-8."),
        *(
            ("".join(body).encode(), says)
            for body, says in [
                ["   ", "it is empty."],
                ["hello", "expecting value at line 1, column 1."],
                ["{'a': 1}", "line 1, column 2."],
                ['{"a": 1}}', "extra data at line 1, column 9."],
                ['{"workflow_json": [Infinity]}', "NaN and Infinity are not numbers of JSON."],
                [['{"a": ', "9" * 5000, "}"], "a number has too many digits."],
                [['{"a": ', "[" * 200000, "]" * 200000, "}"], "is nested too deeply."],
                [['{"a":' * 100000, "1", "}" * 100000], "is nested too deeply."],
                ['{"a": {"b": 1, "c": 2, "b": 1}}', 'an object has the key "b" more than once.'],
                [
                    '{"\\ud800\\n": 1, "\\ud800\\n": 2}',
                    'an object has the key "??" more than once.',
                ],
                [
                    ['{"', "k" * 99, '": 1, "', "k" * 99, '": 2}'],
                    'the key "kkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkk" more than once.',
                ],
                [['{"a": "\n"}'], "invalid control character at line 1, column 8."],
                ['{"a": "', "unterminated string starting at line 1, column 7."],
                ['{"a": "\\x"}', "invalid \\escape at line 1, column 8."],
            ]
        ),
    ],
    ids=lambda value: repr(value[:24]),
)
def test_invalid_json_is_described_in_a_sentence(api: Api, body: bytes, says: str) -> None:
    assert error_of(api.post(PATH, body), 400, "invalid_json")["detail"].endswith(says)


@pytest.mark.parametrize("body", [b"[]", b"null", b"3", b'"text"', b"true"])
def test_body_must_be_an_object(api: Api, body: bytes) -> None:
    error_of(api.post(PATH, body), 400, "invalid_request")


def test_unstorable_value_is_refused_with_its_path(api: Api) -> None:
    for body, field, message in (
        (b'{"metadata": {"a": "\\u0000"}}', "metadata.a", "Must not contain NUL."),
        (b'{"\\u0000": 1}', "body", "Must not have a key that contains NUL."),
        (
            b'{"metadata": {"\\ud800": 1}}',
            "metadata",
            "Must not have a key that contains a lone surrogate.",
        ),
        (
            b'{"a": ' + b"[" * 100 + b"]" * 100 + b"}",
            "a" + ".0" * 99,
            "Must not be nested more than 100 levels deep.",
        ),
    ):
        assert wrong_fields(api.post(PATH, body)) == {field: message}


def test_surrogate_pair_is_stored(api: Api, farm: list[str]) -> None:
    body = json.dumps(
        {"workflow_json": GRAPH, "backend_ids": ["gpu-1"], "metadata": {"scene": "🎬"}},
        ensure_ascii=True,
    )
    made = api.post(PATH, body.encode())
    assert made.status_code == 201
    assert JobGroup.objects.get().metadata_json == '{"scene":"🎬"}'


BOUNDARY = "multipart/form-data; boundary=x"
CHARSET = "application/json; charset="


@pytest.mark.parametrize(
    "media_type", ["", "text/plain", BOUNDARY, "*/*", f"{CHARSET}utf-16", f"{CHARSET}nonsense"]
)
def test_body_must_be_declared_as_json_in_utf8(api: Api, media_type: str) -> None:
    answer = api.post(PATH, b"{}", **{"content-type": media_type})
    error_of(answer, 415, "unsupported_media_type")


def test_compressed_body_is_refused(api: Api) -> None:
    answer = api.post(PATH, b"{}", content_encoding="gzip")
    assert "Content-Encoding" in error_of(answer, 415, "unsupported_media_type")["detail"]


def test_media_type_is_read_in_any_spelling_and_a_byte_order_mark_is_ignored(api: Api) -> None:
    for media_type in ("Application/JSON; charset=UTF-8", "application/json;"):
        wrong_fields(api.post(PATH, b"\xef\xbb\xbf{}", **{"content-type": media_type}))


def test_body_above_the_limit_is_refused(api: Api, settings: Settings) -> None:
    settings.DIRECTOR_MAX_BODY_BYTES = settings.DATA_UPLOAD_MAX_MEMORY_SIZE = 1000
    at_limit = b'{"a": "%s"}' % (b"x" * (1000 - 9))
    assert len(at_limit) == 1000
    wrong_fields(api.post(PATH, at_limit))
    error_of(api.post(PATH, at_limit + b" "), 413, "payload_too_large")


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
    good = {"workflow_json": GRAPH, "backend_ids": ["gpu-1"]}
    bodies: list[Any] = [
        b'{"a": "' + secret.encode() + b'", }',
        {"workflow_json": secret, "backend_ids": secret, "seed_strategy": secret},
        {"workflow_json": {"3": secret}, "backend_ids": [secret * 20], "metadata": secret},
        {**good, "parameters": {"steps": secret}},
    ]
    for body in bodies:
        answer = api.post(PATH, body)
        assert (answer.status_code, secret in answer.content.decode()) == (400, False)
