from base64 import urlsafe_b64encode
from typing import Any

import pytest
from django.http import QueryDict
from pytest_django import Settings

from jobgroups.api.requests import payloads, query_params
from jobgroups.api.requests.fields import RequestSerializer
from jobgroups.errors import InvalidRequest, TooManyChildren
from jobgroups.workflow.seeds import MAX_SEED
from tests.api.conftest import GRAPH

SUBMISSION: dict[str, Any] = {"workflow_json": GRAPH, "backend_ids": ["gpu-1"]}
#: What each serializer requires.
REQUIRED: dict[type[RequestSerializer], dict[str, Any]] = {
    payloads.SubmissionRequest: SUBMISSION,
    payloads.MoveRequest: {"backend_id": "gpu-1"},
    payloads.NewBackendRequest: {"url": "http://a.invalid"},
    payloads.AddressRequest: {"url": "http://a.invalid"},
}

NOT_TEXTS: list[Any] = ["", 3, True, ["a"], {}]
NOT_INTEGERS: list[Any] = ["300", 300.0, True, [], {}]
NOT_OBJECTS: list[Any] = ["text", "", 3, True, [], False, 0]
NOT_LISTS: list[Any] = ["gpu-1", 3, True, {}, {"0": "gpu-1"}]
NOT_ENTRIES: list[Any] = [[1], [None], [["a"]], [""], ["x" * 201]]
NOT_FLAGS: list[Any] = ["true", 1, 0, [], {}]
CONTROLS: list[Any] = [f"a{control}b" for control in "\n\t\x1b\x7f\x85\u2028"]
NEVER_RETRIED = ["workflow_refused", "interrupted", "internal"]

IS_REQUIRED = "Is required."
AN_OBJECT = "Must be an object."
A_LIST = "Must be a list of strings."
AN_ENTRY = "Must be a string of 1 to 200 characters."
AN_ID = "Must be a string of 1 to 64 characters."
ONE_LINE = "Must not contain line breaks or other control characters."
A_SEED = f"Must be an integer from 0 to {MAX_SEED} (2⁵³−1), which every client reads exactly."
A_CLASS = "Must be the name of the node's class."
TOO_LONG = "Must have at most 16384 bytes as JSON."
A_STRATEGY = "Must be one of random, sequential, fibonacci, golden_ratio."
ELSEWHERE = 'Must be one of false, true, "group", "any".'
RETRIED = (
    "node_or_model_missing, out_of_memory, cuda_fatal, node_error, unreachable, backend_lost,"
    " stalled, timeout, output_gone"
)


def _name(longest: int) -> str:
    return f"Must be a string of 1 to {longest} characters, blanks around it aside."


def _int(low: int, high: int) -> str:
    return f"Must be an integer from {low} to {high}."


#: Path of the error (it begins with the field), values of the field, message.
BODIES: dict[type[RequestSerializer], list[tuple[str, list[Any], str]]] = {
    payloads.SubmissionRequest: [
        ("workflow_json", [None], IS_REQUIRED),
        ("workflow_json", NOT_OBJECTS, AN_OBJECT),
        ("workflow_json.3.class_type", [{"3": {"class_type": 7, "inputs": {}}}], A_CLASS),
        ("backend_ids", [None], IS_REQUIRED),
        ("backend_ids", [[]], "Must have at least one entry."),
        ("backend_ids", NOT_LISTS, A_LIST),
        ("backend_ids.0", NOT_ENTRIES, AN_ENTRY),
        ("backend_ids.1", [["gpu-1", "x" * 201]], AN_ENTRY),
        ("count", [*NOT_INTEGERS, "12", 0, -1, 10_001, 10**30], _int(1, 10_000)),
        ("parameters", NOT_OBJECTS, AN_OBJECT),
        ("seed_strategy", [*NOT_TEXTS, "Random", ["random"]], A_STRATEGY),
        ("base_seed", [*NOT_INTEGERS, -1, MAX_SEED + 1, 2**64], A_SEED),
        ("metadata", NOT_OBJECTS, AN_OBJECT),
        ("metadata", [{"n": "x" * 16_377}, {"n": "ü" * 9_000}], TOO_LONG),
        ("timeout_seconds", [*NOT_INTEGERS, 29, 3601, 10**30], _int(30, 3600)),
        ("stall_seconds", [*NOT_INTEGERS, 29, 86_401, 10**30], _int(30, 86_400)),
        ("retention_days", [*NOT_INTEGERS, 0, -1, 36_501, 10**30], _int(1, 36_500)),
        ("required_capabilities", NOT_LISTS, A_LIST),
        ("required_capabilities.0", NOT_ENTRIES, AN_ENTRY),
        ("required_capabilities", [["x"] * 51], "Must have at most 50 entries."),
        ("max_attempts", [*NOT_INTEGERS, 0, 11, -1, 10**30], _int(1, 10)),
        ("retry_elsewhere", [3, 0, 1, 1.0, "", "Group", [], {}], ELSEWHERE),
        ("retry_on", ["timeout", *NOT_LISTS], A_LIST),
        ("retry_on.0", NOT_ENTRIES, AN_ENTRY),
        ("retry_on", [[]], "Must have at least one entry; leave it out for all of them."),
        ("retry_on.1", [["timeout", "oom"]], f"Is no failure class; use some of {RETRIED}."),
        ("retry_on.0", [[n] for n in NEVER_RETRIED], f"Is never tried again; use some of {RETRIED}."),
        ("partial_outputs", [*NOT_TEXTS, "Fail"], "Must be one of accept, fail."),
        ("submitter", [*NOT_TEXTS, "  ", "x" * 151], _name(150)),
        ("submitter", CONTROLS, ONE_LINE),
    ],
    payloads.GroupRetryRequest: [
        ("job_ids", ["j_1"], A_LIST),
        ("job_ids", [[]], "Must have at least one entry; leave it out for all that failed."),
        ("job_ids.0", [[1], [""], ["j" * 65]], AN_ID),
        ("retry_elsewhere", [1, "elsewhere", []], ELSEWHERE),
        ("run", [0, "1", True, 2**31], _int(1, 2**31 - 1)),
        ("where", ["elsewhere", True, ["other"]], 'Must be one of "same", "other", "auto".'),
        ("backend_id", [*NOT_TEXTS, "b" * 65], AN_ID),
        ("by", [5, "a" * 151], _name(150)),
        ("by", CONTROLS, ONE_LINE),
        ("max_attempts", [3], "Is not a field of a retry."),
    ],
    payloads.JobRetryRequest: [("job_ids", [["j_1"]], "Is not a field of a retry.")],
    payloads.MoveRequest: [
        ("backend_id", [None], IS_REQUIRED),
        ("backend_id", [["gpu-2"]], AN_ID),
        ("by", [""], _name(150)),
        ("where", ["other"], "Is not a field of a move."),
    ],
    payloads.NewBackendRequest: [
        ("url", [None], IS_REQUIRED),
        ("url", NOT_TEXTS, "Must be a string of 1 to 1000 characters."),
    ],
    payloads.BackendRequest: [
        ("backend_id", [8, "x" * 65], AN_ID),
        ("name", [8, "x" * 201], AN_ENTRY),
        ("tags", ["flux"], A_LIST),
        ("tags", [["x"] * 51], "Must have at most 50 entries."),
        ("tags.0", NOT_ENTRIES, AN_ENTRY),
        ("enabled", NOT_FLAGS, "Must be true or false."),
        ("headers", NOT_OBJECTS, AN_OBJECT),
        ("headers", [{"X-A": 1}], "Must be an object of names and strings."),
        ("headers", [{f"X-{n}": "1" for n in range(51)}], "Must have at most 50 entries."),
        ("enable", [True, None], "Is not a field of a backend that can be set."),
    ],
    payloads.AddressRequest: [("name", ["x"], "Is not a field of an address.")],
    payloads.HoldRequest: [
        ("now", NOT_FLAGS, "Must be true or false."),
        ("reason", [*NOT_TEXTS, "  ", "x" * 501], _name(500)),
        ("reason", CONTROLS, ONE_LINE),
        ("by", [["anna"], "x" * 151], _name(150)),
        ("minutes", [5], "Is not a field of this."),
    ],
    payloads.QuarantineRequest: [
        ("minutes", [0, 10_081, "5", 1.5], _int(1, 10_080)),
        ("now", [True], "Is not a field of this."),
    ],
    payloads.ByRequest: [("by", [1], _name(150)), ("reason", ["x"], "Is not a field of this.")],
}

NOT_DIGITS = ["-1", "ten", "1.0", "true", "9" * 30, "²", "0x1"]
NOT_TIMES = ["yesterday", "0001-01-01T00:00:00%2B23:59", "9999-12-31T23:59:59-23:59"]
FORGED = [b"f|2026-01-01|jg_0123456789ab", b"f|2026-01-01T00:00:00.000Z|jg_0123456789a\0"]
NOT_CURSORS = ["nonsense", "%ff", *(urlsafe_b64encode(one).decode() for one in FORGED)]
A_STATUS = "Must be one of pending, running, partial_complete, completed, failed, cancelled."
NOT_GIVEN = "Is not one that this list gave; start without it."
A_TIME = "Must be a time such as 2026-02-01T07:00:00.000Z."
NUL = "Must not contain NUL."
TWICE = "Must not be given more than once."
UNKNOWN = "Is not a parameter of this path."
NO_KEY = "Cannot be searched for: only keys of up to 100 characters can."
NO_VALUE = "Cannot be searched for: only values of up to 200 characters can."

#: Queries, field of the error, message.
QUERIES: dict[type[query_params.QuerySerializer], list[tuple[list[str], str, str]]] = {
    query_params.GroupListQuery: [
        ([f"limit={limit}" for limit in ("0", "201", *NOT_DIGITS)], "limit", _int(1, 200)),
        (["status=done"], "status", A_STATUS),
        ([f"created_after={time}" for time in NOT_TIMES], "created_after", A_TIME),
        ([f"cursor={cursor}" for cursor in NOT_CURSORS], "cursor", NOT_GIVEN),
        (["page=2"], "page", UNKNOWN),
        (["metadata=a"], "metadata", UNKNOWN),
        (["backend=%00"], "backend", NUL),
        (["cursor=%00"], "cursor", NUL),
        (["metadata.a=%00"], "metadata.a", NUL),
        (["metadata.%00=a", "%00=a"], "query", NUL),
        (["&".join(f"metadata.k{n}=1" for n in range(11))], "metadata", "Must have at most 10 keys."),
        ([f"metadata.{'k' * 101}=a"], f"metadata.{'k' * 55}", NO_KEY),
        ([f"metadata.scene={'v' * 201}"], "metadata.scene", NO_VALUE),
        (["status=completed&status=failed"], "status", TWICE),
        (["metadata.scene=a&metadata.scene=a"], "metadata.scene", TWICE),
        (["limit=&limit=7"], "limit", TWICE),
    ],
    query_params.EventsQuery: [(["since=-1"], "since", _int(0, MAX_SEED))],
    query_params.OutputQuery: [(["redirect=maybe"], "redirect", "Must be one of yes, no.")],
    query_params.ZipQuery: [(["which=some"], "which", "Must be one of all, starred.")],
    query_params.SeedsQuery: [
        (["strategy=lucky"], "strategy", A_STRATEGY),
        ([f"base_seed={MAX_SEED + 1}"], "base_seed", _int(0, MAX_SEED)),
        (["count=0", "count=1001", "count=x"], "count", _int(1, 1000)),
    ],
    query_params.FailuresQuery: [
        (["window=2d"], "window", "Must be one of 1h, 1d, 7d."),
        (["since=now"], "since", UNKNOWN),
    ],
    query_params.FailedJobsQuery: [
        (["failure_class=node_error"], "backend_id", IS_REQUIRED),
        (["backend_id=gpu-1"], "failure_class", IS_REQUIRED),
    ],
}


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


_WRONG_FIELDS = [
    pytest.param(_read, serializer, {path.partition(".")[0]: value}, path, message)
    for serializer, fields in BODIES.items()
    for path, values, message in fields
    for value in values
]
_WRONG_PARAMETERS = [
    pytest.param(errors_of, serializer.read_query, QueryDict(query), field, message)
    for serializer, parameters in QUERIES.items()
    for queries, field, message in parameters
    for query in queries
]


@pytest.mark.parametrize(("read", "serializer", "given", "path", "message"), [*_WRONG_FIELDS, *_WRONG_PARAMETERS])
def test_wrong_field_or_parameter_is_refused_with_its_path(
    read: Any, serializer: Any, given: Any, path: str, message: str
) -> None:
    assert read(serializer, given) == {path: message}


@pytest.mark.parametrize(
    "serializer", [query_params.EventsQuery, query_params.OutputQuery, query_params.SeedsQuery, query_params.ZipQuery]
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
    assert count == {"count": _int(1, 2)}


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
        ({"stall_seconds": 86_400, "timeout_seconds": 30}, {}),
        ({"base_seed": MAX_SEED}, {}),
        ({"submitter": f" {'ü' * 150} "}, {"submitter": "ü" * 150}),
        ({"metadata": {"n": "x" * 16_376}}, {}),
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
