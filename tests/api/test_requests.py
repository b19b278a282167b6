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


_NAMED: dict[str, list[Any]] = {
    "not_texts": ["", 3, True, ["a"], {}],
    "not_integers": ["300", 300.0, True, [], {}],
    "not_objects": ["text", "", 3, True, [], False, 0],
    "not_lists": ["gpu-1", 3, True, {}, {"0": "gpu-1"}],
    "not_entries": [[1], [None], [["a"]], [""], ["x" * 201]],
    "not_flags": ["true", 1, 0, [], {}],
    "controls": ["a\nb", "a\tb", "a\x1bb", "a\x7fb", "a\x85b", "a\u2028b"],
}


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
    for name, fields in {
        "SubmissionRequest": [
            ["workflow_json", [None], "Is required."],
            ["workflow_json", ["$not_objects"], "Must be an object."],
            [
                "workflow_json.3.class_type",
                [{"3": {"class_type": 7, "inputs": {}}}],
                "Must be the name of the node's class.",
            ],
            ["backend_ids", [None], "Is required."],
            ["backend_ids", [[]], "Must have at least one entry."],
            ["backend_ids", ["$not_lists"], "Must be a list of strings."],
            ["backend_ids.0", ["$not_entries"], "Must be a string of 1 to 200 characters."],
            ["backend_ids.1", [["gpu-1", "x" * 201]], "Must be a string of 1 to 200 characters."],
            [
                "count",
                ["$not_integers", "12", 0, -1, 10001, 1000000000000000000000000000000],
                "Must be an integer from 1 to 10000.",
            ],
            ["parameters", ["$not_objects"], "Must be an object."],
            [
                "seed_strategy",
                ["$not_texts", "Random", ["random"]],
                "Must be one of random, sequential, fibonacci, golden_ratio.",
            ],
            [
                "base_seed",
                ["$not_integers", -1, 9007199254740992, 18446744073709551616],
                "Must be an integer from 0 to 9007199254740991 (2⁵³−1), which every client reads exactly.",
            ],
            ["metadata", ["$not_objects"], "Must be an object."],
            [
                "metadata",
                [{"n": "x" * 16377}, {"n": "ü" * 9000}],
                "Must have at most 16384 bytes as JSON.",
            ],
            [
                "timeout_seconds",
                ["$not_integers", 29, 3601, 1000000000000000000000000000000],
                "Must be an integer from 30 to 3600.",
            ],
            [
                "stall_seconds",
                ["$not_integers", 29, 86401, 1000000000000000000000000000000],
                "Must be an integer from 30 to 86400.",
            ],
            [
                "retention_days",
                ["$not_integers", 0, -1, 36501, 1000000000000000000000000000000],
                "Must be an integer from 1 to 36500.",
            ],
            ["required_capabilities", ["$not_lists"], "Must be a list of strings."],
            [
                "required_capabilities.0",
                ["$not_entries"],
                "Must be a string of 1 to 200 characters.",
            ],
            ["required_capabilities", [["x"] * 51], "Must have at most 50 entries."],
            [
                "max_attempts",
                ["$not_integers", 0, 11, -1, 1000000000000000000000000000000],
                "Must be an integer from 1 to 10.",
            ],
            [
                "retry_elsewhere",
                [3, 0, 1, 1.0, "", "Group", [], {}],
                'Must be one of false, true, "group", "any".',
            ],
            ["retry_on", ["timeout", "$not_lists"], "Must be a list of strings."],
            ["retry_on.0", ["$not_entries"], "Must be a string of 1 to 200 characters."],
            ["retry_on", [[]], "Must have at least one entry; leave it out for all of them."],
            [
                "retry_on.1",
                [["timeout", "oom"]],
                "Is no failure class; use some of node_or_model_missing, out_of_memory, cuda_fatal, node_error, unreachable, backend_lost, stalled, timeout, output_gone.",
            ],
            [
                "retry_on.0",
                [["workflow_refused"], ["interrupted"], ["internal"]],
                "Is never tried again; use some of node_or_model_missing, out_of_memory, cuda_fatal, node_error, unreachable, backend_lost, stalled, timeout, output_gone.",
            ],
            ["partial_outputs", ["$not_texts", "Fail"], "Must be one of accept, fail."],
            ["stop_when", ["$not_objects"], "Must be an object."],
            [
                "stop_when",
                [{}, {"failed": None}],
                "Must have completed or failed, the number of jobs.",
            ],
            [
                "stop_when.failed",
                [
                    {"failed": "300"},
                    {"failed": 300.0},
                    {"failed": True},
                    {"failed": []},
                    {"failed": {}},
                    {"failed": 0},
                    {"failed": 10001},
                ],
                "Must be an integer from 1 to 10000.",
            ],
            [
                "stop_when.done",
                [{"done": 1, "failed": 2}],
                "Is no condition; use completed or failed.",
            ],
            ["webhook", ["$not_objects"], "Must be an object."],
            ["webhook.url", [{}, {"url": None}], "Is required."],
            [
                "webhook.url",
                [{"url": "studio.example"}],
                "Must be a URL that begins with http:// or https://, in ASCII and without blanks.",
            ],
            [
                "webhook.url",
                [{"url": "http://10.0.0.1/"}, {"url": "http://[::1]:8188"}],
                "Has no public address, which DIRECTOR_WEBHOOK_PRIVATE_ADDRESSES must allow.",
            ],
            [
                "webhook.events",
                [{"url": "https://a.example", "events": []}],
                "Must have at least one entry.",
            ],
            [
                "webhook.events.1",
                [{"url": "https://a.example", "events": ["group_complete", "done"]}],
                "Is no event; use some of group_created, group_started, group_reopened, child_started, child_requeued, child_retrying, child_completed, child_failed, child_timeout, child_cancelled, group_complete.",
            ],
            [
                "webhook.event",
                [{"url": "https://a.example", "event": "done"}],
                "Is not a field of a webhook.",
            ],
            [
                "submitter",
                ["$not_texts", "  ", "x" * 151],
                "Must be a string of 1 to 150 characters, blanks around it aside.",
            ],
            [
                "submitter",
                ["$controls"],
                "Must not contain line breaks or other control characters.",
            ],
        ],
        "GroupRetryRequest": [
            ["job_ids", ["j_1"], "Must be a list of strings."],
            ["job_ids", [[]], "Must have at least one entry; leave it out for all that failed."],
            ["job_ids.0", [[1], [""], ["j" * 65]], "Must be a string of 1 to 64 characters."],
            [
                "retry_elsewhere",
                [1, "elsewhere", []],
                'Must be one of false, true, "group", "any".',
            ],
            ["run", [0, "1", True, 2147483648], "Must be an integer from 1 to 2147483647."],
            ["where", ["elsewhere", True, ["other"]], 'Must be one of "same", "other", "auto".'],
            ["backend_id", ["$not_texts", "b" * 65], "Must be a string of 1 to 64 characters."],
            [
                "by",
                [5, "a" * 151],
                "Must be a string of 1 to 150 characters, blanks around it aside.",
            ],
            ["by", ["$controls"], "Must not contain line breaks or other control characters."],
            ["max_attempts", [3], "Is not a field of a retry."],
        ],
        "JobRetryRequest": [["job_ids", [["j_1"]], "Is not a field of a retry."]],
        "MoveRequest": [
            ["backend_id", [None], "Is required."],
            ["backend_id", [["gpu-2"]], "Must be a string of 1 to 64 characters."],
            ["by", [""], "Must be a string of 1 to 150 characters, blanks around it aside."],
            ["where", ["other"], "Is not a field of a move."],
        ],
        "NewBackendRequest": [
            ["url", [None], "Is required."],
            ["url", ["$not_texts"], "Must be a string of 1 to 1000 characters."],
        ],
        "BackendRequest": [
            ["backend_id", [8, "x" * 65], "Must be a string of 1 to 64 characters."],
            ["name", [8, "x" * 201], "Must be a string of 1 to 200 characters."],
            ["tags", ["flux"], "Must be a list of strings."],
            ["tags", [["x"] * 51], "Must have at most 50 entries."],
            ["tags.0", ["$not_entries"], "Must be a string of 1 to 200 characters."],
            ["enabled", ["$not_flags"], "Must be true or false."],
            ["headers", ["$not_objects"], "Must be an object."],
            ["headers", [{"X-A": 1}], "Must be an object of names and strings."],
            ["enable", [True, None], "Is not a field of a backend that can be set."],
        ],
        "AddressRequest": [["name", ["x"], "Is not a field of an address."]],
        "HoldRequest": [
            ["now", ["$not_flags"], "Must be true or false."],
            [
                "reason",
                ["$not_texts", "  ", "x" * 501],
                "Must be a string of 1 to 500 characters, blanks around it aside.",
            ],
            ["reason", ["$controls"], "Must not contain line breaks or other control characters."],
            [
                "by",
                [["anna"], "x" * 151],
                "Must be a string of 1 to 150 characters, blanks around it aside.",
            ],
            ["minutes", [5], "Is not a field of this."],
        ],
        "QuarantineRequest": [
            ["minutes", [0, 10081, "5", 1.5], "Must be an integer from 1 to 10080."],
            ["now", [True], "Is not a field of this."],
        ],
        "ByRequest": [
            ["by", [1], "Must be a string of 1 to 150 characters, blanks around it aside."],
            ["reason", ["x"], "Is not a field of this."],
        ],
    }.items()
    for path, values, message in fields
    for value in _values(values)
]
_PARAMETERS = [
    (errors_of, getattr(query_params, name).read_query, QueryDict("".join(query)), field, message)
    for name, parameters in {
        "GroupListQuery": [
            [
                [
                    "limit=0",
                    "limit=201",
                    "limit=-1",
                    "limit=ten",
                    "limit=1.0",
                    "limit=true",
                    "limit=999999999999999999999999999999",
                    "limit=²",
                    "limit=0x1",
                ],
                "limit",
                "Must be an integer from 1 to 200.",
            ],
            [
                ["status=done"],
                "status",
                "Must be one of pending, running, partial_complete, completed, failed, cancelled.",
            ],
            [
                [
                    "created_after=yesterday",
                    "created_after=0001-01-01T00:00:00%2B23:59",
                    "created_after=9999-12-31T23:59:59-23:59",
                ],
                "created_after",
                "Must be a time such as 2026-02-01T07:00:00.000Z.",
            ],
            [["page=2"], "page", "Is not a parameter of this path."],
            [["metadata=a"], "metadata", "Is not a parameter of this path."],
            [["backend=%00"], "backend", "Must not contain NUL."],
            [["cursor=%00"], "cursor", "Must not contain NUL."],
            [["metadata.a=%00"], "metadata.a", "Must not contain NUL."],
            [["metadata.%00=a", "%00=a"], "query", "Must not contain NUL."],
            [["status=completed&status=failed"], "status", "Must not be given more than once."],
            [
                ["metadata.scene=a&metadata.scene=a"],
                "metadata.scene",
                "Must not be given more than once.",
            ],
            [["limit=&limit=7"], "limit", "Must not be given more than once."],
            [
                [
                    "metadata.k0=1&metadata.k1=1&metadata.k2=1&metadata.k3=1&metadata.k4=1&metadata.k5=1&metadata.k6=1&metadata.k7=1&metadata.k8=1&metadata.k9=1&metadata.k10=1"
                ],
                "metadata",
                "Must have at most 10 keys.",
            ],
            [
                [["metadata.", "k" * 101, "=a"]],
                "metadata.kkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkk",
                "Cannot be searched for: only keys of up to 100 characters can.",
            ],
            [
                [["metadata.scene=", "v" * 201]],
                "metadata.scene",
                "Cannot be searched for: only values of up to 200 characters can.",
            ],
        ],
        "EventsQuery": [[["since=-1"], "since", "Must be an integer from 0 to 9007199254740991."]],
        "OutputQuery": [[["redirect=maybe"], "redirect", "Must be one of yes, no."]],
        "ZipQuery": [[["which=some"], "which", "Must be one of all, starred."]],
        "SeedsQuery": [
            [
                ["strategy=lucky"],
                "strategy",
                "Must be one of random, sequential, fibonacci, golden_ratio.",
            ],
            [
                ["base_seed=9007199254740992"],
                "base_seed",
                "Must be an integer from 0 to 9007199254740991.",
            ],
            [["count=0", "count=1001", "count=x"], "count", "Must be an integer from 1 to 1000."],
        ],
        "FailuresQuery": [
            [["window=2d"], "window", "Must be one of 1h, 1d, 7d."],
            [["since=now"], "since", "Is not a parameter of this path."],
        ],
        "FailedJobsQuery": [
            [["failure_class=node_error"], "backend_id", "Is required."],
            [["backend_id=gpu-1"], "failure_class", "Is required."],
        ],
    }.items()
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
    ("fields", "read"),
    [
        ({"timeout_seconds": 30}, {}),
        ({"timeout_seconds": 3600}, {}),
        ({"stall_seconds": 30}, {"timeout_seconds": None}),
        ({"stall_seconds": 86400, "timeout_seconds": 30}, {}),
        ({"base_seed": 9007199254740991}, {}),
        (
            {
                "submitter": " üüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüüü "
            },
            {"submitter": "ü" * 150},
        ),
        ({"metadata": {"n": "x" * 16376}}, {}),
        ({"retry_elsewhere": True}, {"retry_elsewhere": "group"}),
        ({"retry_elsewhere": False}, {"retry_elsewhere": "never"}),
    ],
    ids=repr,
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
