from collections.abc import Iterator
from typing import Any

import pytest
from django.http import QueryDict
from pytest_django import Settings

from backends.errors import InvalidRequest
from jobgroups.api.requests import payloads, query_params
from jobgroups.api.requests.fields import RequestSerializer
from jobgroups.errors import TooManyChildren
from tests.api.conftest import GRAPH
from tests.harness.cases import cases

SUBMISSION: dict[str, Any] = {"workflow_json": GRAPH, "backend_ids": ["gpu-1"]}
#: What each serializer requires.
REQUIRED: dict[type[RequestSerializer], dict[str, Any]] = {
    payloads.SubmissionRequest: SUBMISSION,
    payloads.MoveRequest: {"backend_id": "gpu-1"},
    payloads.NewBackendRequest: {"url": "http://a.invalid"},
    payloads.AddressRequest: {"url": "http://a.invalid"},
}

IS_REQUIRED = "Is required."
UNKNOWN = "Is not a parameter of this path."


_NAMED: dict[str, list[Any]] = cases(__file__, "wrong_values")


def _values(values: list[Any]) -> Iterator[Any]:
    """Yield each value, and for "$name" those of this name."""
    for value in values:
        yield from (
            _NAMED[value[1:]] if isinstance(value, str) and value.startswith("$") else [value]
        )


def errors_of(read: Any, *arguments: Any) -> dict[str, str]:
    with pytest.raises(InvalidRequest) as caught:
        read(*arguments)
    errors = caught.value.extra["errors"]
    assert caught.value.detail.startswith(f"{errors[0]['field']}: {errors[0]['message']}")
    return {error["field"]: error["message"] for error in errors}


def submission_errors(key: str | None = None, **fields: Any) -> dict[str, str]:
    return errors_of(payloads.submission, {**SUBMISSION, **fields}, key)


def _read(serializer: type[RequestSerializer], fields: dict[str, Any]) -> dict[str, str]:
    if serializer is payloads.SubmissionRequest:
        return submission_errors(**fields)
    return errors_of(serializer.read, REQUIRED.get(serializer, {}) | fields)


_FIELDS = [
    (_read, getattr(payloads, name), {path.partition(".")[0]: value}, path, message)
    for name, fields in cases(__file__, "wrong_fields").items()
    for path, values, message in fields
    for value in _values(values)
]
_PARAMETERS = [
    (errors_of, getattr(query_params, name).read_query, QueryDict("".join(query)), field, message)
    for name, parameters in cases(__file__, "wrong_parameters").items()
    for queries, field, message in parameters
    for query in queries
]
_MANY = {"headers": {f"X-{n}": "1" for n in range(51)}}
_FIELDS.append((_read, payloads.BackendRequest, _MANY, "headers", "Must have at most 50 entries."))


@pytest.mark.parametrize(
    ("read", "serializer", "given", "path", "message"), [*_FIELDS, *_PARAMETERS]
)
def test_wrong_field_or_parameter_is_refused_with_its_path(
    read: Any, serializer: Any, given: Any, path: str, message: str
) -> None:
    assert read(serializer, given) == {path: message}


@pytest.mark.parametrize(
    "serializer",
    [
        query_params.EventsQuery,
        query_params.OutputQuery,
        query_params.SeedsQuery,
        query_params.ZipQuery,
    ],
)
def test_unknown_parameter_is_refused(serializer: type[query_params.QuerySerializer]) -> None:
    assert errors_of(serializer.read_query, QueryDict("odd%07=1")) == {"odd?": UNKNOWN}


def test_required_fields_are_named_when_absent() -> None:
    for serializer, required in REQUIRED.items():
        assert errors_of(serializer.read, {}) == dict.fromkeys(required, IS_REQUIRED)


def test_every_wrong_field_of_a_submission_is_listed() -> None:
    objects = dict.fromkeys(["workflow_json", "parameters", "metadata"], 3)
    others = dict.fromkeys(["backend_ids", "seed_strategy", "base_seed", "timeout_seconds"], "x")
    wrong = {**objects, **others, "required_capabilities": {}}
    with pytest.raises(InvalidRequest, match=r"\(8 more in errors\.\)"):
        payloads.submission(wrong, "")
    assert set(submission_errors("", **wrong)) == {*wrong, "Idempotency-Key"}


def test_idempotency_key_is_printable_ascii() -> None:
    message = "Must be 1 to 255 printable ASCII characters."
    for key in ("", " ", "a\tb", "ü", "x" * 256):
        assert submission_errors(key) == {"Idempotency-Key": message}


def test_parameter_must_fit_the_workflow_also_beside_other_errors() -> None:
    for parameters, path in (({"steps": "20"}, "steps"), ({"3": {"steps": None}}, "3.steps")):
        assert list(submission_errors(parameters=parameters)) == [f"parameters.{path}"]
        found = submission_errors(parameters=parameters, base_seed=-1)
        assert list(found) == ["base_seed", f"parameters.{path}"]


def test_settings_are_read_with_each_request(settings: Settings) -> None:
    settings.DIRECTOR_MAX_ATTEMPTS = 4
    settings.DIRECTOR_RETRY_ELSEWHERE = "any"
    settings.DIRECTOR_MAX_CHILDREN = 2
    read = payloads.submission(SUBMISSION, None)
    assert (read.max_attempts, read.retry_elsewhere) == (4, "any")
    with pytest.raises(TooManyChildren, match="backend_ids: Must have at most 2 entries"):
        payloads.submission({**SUBMISSION, "backend_ids": ["gpu-1"] * 3}, None)
    count = errors_of(query_params.SeedsQuery.read_query, QueryDict("count=3"))
    assert count == {"count": "Must be an integer from 1 to 2."}


def test_null_counts_as_absent_and_unknown_fields_are_warnings() -> None:
    fields = [name for name in payloads.SubmissionRequest().fields if name not in SUBMISSION]
    plain = payloads.submission(SUBMISSION, None)
    assert payloads.submission({**SUBMISSION, **dict.fromkeys(fields)}, None) == plain
    assert query_params.GroupListQuery.read_query(QueryDict(""))["limit"] == 50
    unknown = payloads.submission({**SUBMISSION, "panel": 3, "odd\x07": None}, None)
    assert unknown.warnings == [
        "The field panel is not known and was ignored.",
        "The field odd? is not known and was ignored.",
    ]


@pytest.mark.parametrize(
    ("fields", "read"), cases(__file__, "value_at_the_limit_is_read"), ids=repr
)
def test_value_at_the_limit_is_read(fields: dict[str, Any], read: dict[str, Any]) -> None:
    found = payloads.submission({**SUBMISSION, **fields}, None)
    expected = {**fields, **read}
    assert {name: getattr(found, name) for name in expected} == expected


def test_fields_of_a_retry_that_say_where_exclude_each_other() -> None:
    for first, second in (
        ({"where": "other"}, {"backend_id": "gpu-2"}),
        ({"where": "same"}, {"retry_elsewhere": "any"}),
        ({"backend_id": "gpu-2"}, {"retry_elsewhere": False}),
    ):
        message = f"Cannot be combined with {next(iter(first))}; use one of them."
        found = errors_of(payloads.JobRetryRequest.read, {**first, **second})
        assert found == dict.fromkeys(second, message)


def test_at_most_ten_wrong_entries_are_listed() -> None:
    assert len(submission_errors(backend_ids=[1] * 30)) == 10
