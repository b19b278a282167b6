"""The bodies of requests: their fields, defaults and limits. No check reads the database."""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Collection, Mapping
from typing import Any, Final

from django.conf import settings
from rest_framework.exceptions import ValidationError

from jobgroups import workflow
from jobgroups.api.requests import fields
from jobgroups.api.requests.fields import RequestSerializer
from jobgroups.domain.failures import RETRIED, FailureClass
from jobgroups.domain.pool import ANY_BACKEND, TAG_PREFIX
from jobgroups.domain.states import PartialOutputs, RetryScope, Where
from jobgroups.errors import InvalidRequest, TooManyChildren
from jobgroups.serializers import to_json
from jobgroups.services.submission import Submission
from jobgroups.workflow import FieldInvalid
from jobgroups.workflow.seeds import MAX_SEED, SeedStrategy

#: JSON value of ``retry_elsewhere`` to its meaning.
_RETRY_ELSEWHERE: Final = {
    False: RetryScope.NEVER,
    True: RetryScope.GROUP,
    "group": RetryScope.GROUP,
    "any": RetryScope.ANY,
}
DEFAULT_TIMEOUT: Final = 300  #: Seconds that a job may run without ``timeout_seconds`` and ``stall_seconds``.
MAX_POOL_JOBS: Final = 10_000  #: The most jobs of one submission to the pool.
POOL_ATTEMPTS: Final = 2  #: The least default of ``max_attempts`` in the pool.
_MAX_ENTRIES: Final = 50
_MAX_SHOWN_UNKNOWN: Final = 20
_MAX_WORD: Final = 200  #: No tag, capability, class or id is longer.
_MAX_ID: Final = 64
_MAX_URL: Final = 1000
_MAX_BY: Final = 150  #: The longest name of a user.
_MAX_REASON: Final = 500
_MAX_MINUTES: Final = 10_080  #: A week. A longer quarantine has no end: it lasts until a release.
_MOST_RUNS: Final = 2**31 - 1
_IDEMPOTENCY_KEY: Final = re.compile(r"[\x21-\x7e]([\x20-\x7e]{0,253}[\x21-\x7e])?")


class _Graph(fields.Object):
    """A graph of nodes; the path of an error is within the graph."""

    def to_internal_value(self, data: Any) -> Any:
        graph = super().to_internal_value(data)
        try:
            workflow.check_workflow(graph, field="")
        except FieldInvalid as error:
            path = error.field.removeprefix(".")
            raise ValidationError({path: error.message} if path else error.message) from None
        return graph


class SubmissionRequest(RequestSerializer):
    """``POST /api/job-group``; the names are those of ``Submission``."""

    workflow_json = _Graph()
    backend_ids = fields.Texts(_MAX_WORD, empty="Must have at least one entry.")
    count = fields.Integer(1, MAX_POOL_JOBS, default=None)
    parameters = fields.Object(default=dict)
    seed_strategy = fields.Choice(SeedStrategy, default=SeedStrategy.RANDOM)
    base_seed = fields.Integer(0, MAX_SEED, why=" (2⁵³−1), which every client reads exactly", default=None)
    metadata = fields.Object(default=dict)
    timeout_seconds = fields.Integer(30, 3600, default=None)
    stall_seconds = fields.Integer(30, 86_400, default=None)
    retention_days = fields.Integer(1, 36_500, default=None)
    required_capabilities = fields.Texts(_MAX_WORD, most=_MAX_ENTRIES, default=())
    max_attempts = fields.Integer(1, 10, default=lambda: settings.DIRECTOR_MAX_ATTEMPTS)
    retry_elsewhere = fields.Choice(_RETRY_ELSEWHERE, default=lambda: RetryScope(settings.DIRECTOR_RETRY_ELSEWHERE))
    retry_on = fields.Texts(
        _MAX_WORD, most=_MAX_ENTRIES, empty="Must have at least one entry; leave it out for all of them.", default=None
    )
    partial_outputs = fields.Choice(PartialOutputs, default=PartialOutputs.ACCEPT)
    submitter = fields.Line(_MAX_BY, default="")

    def validate_metadata(self, metadata: dict[str, Any]) -> dict[str, Any]:
        limit = settings.DIRECTOR_MAX_METADATA_BYTES
        if len(to_json(metadata).encode()) > limit:
            raise ValidationError(f"Must have at most {limit} bytes as JSON.")
        return metadata

    def validate_retry_on(self, named: list[str] | None) -> list[str] | None:
        """Return the failure classes that are named, each once, as the taxonomy orders them."""
        if named is None:
            return None
        known, classes = ", ".join(RETRIED), list(FailureClass)
        wrong = {
            str(at): f"{'Is never tried again' if name in classes else 'Is no failure class'}; use some of {known}."
            for at, name in enumerate(named)
            if name not in RETRIED
        }
        if wrong:
            raise ValidationError(wrong)
        return [one.value for one in RETRIED if one in named]

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        """Refuse entries of ``backend_ids`` that mean something else with ``count``, or without it.

        ``stall_seconds`` replaces the default of ``timeout_seconds``.
        """
        named = attrs["backend_ids"]
        wide = [one for one in named if one == ANY_BACKEND or one.startswith(TAG_PREFIX)]
        if attrs["count"] is None and wide:
            raise ValidationError({"backend_ids": f"{wide[0]} needs count, the number of jobs."})
        if attrs["count"] is not None and (wrong := _wrong_candidates(named)):
            raise ValidationError({"backend_ids": wrong})
        if attrs["timeout_seconds"] is None and attrs["stall_seconds"] is None:
            attrs["timeout_seconds"] = DEFAULT_TIMEOUT
        return attrs


def _wrong_candidates(named: list[str]) -> str | None:
    twice = [one for one, times in Counter(named).items() if times > 1]
    if twice:
        return f"{twice[0]} is there twice; with count, name each candidate once."
    if ANY_BACKEND in named and len(named) > 1:
        return "* is every backend; leave the other entries out."
    if TAG_PREFIX in named:
        return "tag: needs the name of a tag behind it, as in tag:4090."
    return None


def submission(body: dict[str, Any], idempotency_key: str | None) -> Submission:
    """Check a submission. All backends of the request are in it; they are selected later.

    Raises:
        InvalidRequest: with every field that is wrong. An unknown field is a warning.
        TooManyChildren: more backends than a group may have children, and perhaps other errors.
    """
    values, errors = SubmissionRequest.check(body)
    wrong = {error["field"].partition(".")[0] for error in errors}
    if idempotency_key is not None and not _IDEMPOTENCY_KEY.fullmatch(idempotency_key):
        message = "Must be 1 to 255 printable ASCII characters."
        errors.append({"field": "Idempotency-Key", "message": message})
    errors += _wrong_parameters(body, wrong)
    in_pool = body.get("count") is not None
    if in_pool and body.get("retry_elsewhere") in (False, "any") and "retry_elsewhere" not in wrong:
        message = 'Must be true or "group" with count, or left out: the candidates are the limit.'
        errors.append({"field": "retry_elsewhere", "message": message})
    limit = settings.DIRECTOR_MAX_CHILDREN
    too_many = not in_pool and "backend_ids" not in wrong and len(body["backend_ids"]) > limit
    if too_many:
        errors.append({"field": "backend_ids", "message": f"Must have at most {limit} entries."})
    fields.raise_errors(errors, TooManyChildren if too_many else InvalidRequest)
    if in_pool:
        values["retry_elsewhere"] = RetryScope.GROUP
        if body.get("max_attempts") is None:
            # The failure of a machine is not a failure of the job.
            values["max_attempts"] = max(values["max_attempts"], POOL_ATTEMPTS)
    unknown = SubmissionRequest.unknown_fields(body)[:_MAX_SHOWN_UNKNOWN]
    return Submission(
        workflow=values.pop("workflow_json"),
        warnings=[f"The field {name} is not known and was ignored." for name in unknown],
        idempotency_key=idempotency_key,
        idempotency_digest=_digest(body) if idempotency_key is not None else "",
        **values,
    )


def _wrong_parameters(body: Mapping[str, Any], wrong: Collection[str]) -> fields.FieldErrors:
    """Return the error of parameters that do not fit the workflow, also if other fields are wrong."""
    if body.get("parameters") and "workflow_json" not in wrong and "parameters" not in wrong:
        try:
            workflow.build_template(body["workflow_json"], body["parameters"])
        except FieldInvalid as error:
            return [{"field": error.field, "message": error.message}]
    return []


def _digest(body: object) -> str:
    """Return the hash of the canonical body: it distinguishes requests with one idempotency key."""
    text = json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


class CheckRequest(RequestSerializer):
    """``POST /api/workflows/check``; the fields are those of a submission to the pool."""

    unknown = "Is not a field of a check."

    workflow_json = _Graph()
    backend_ids = fields.Texts(_MAX_WORD, empty="Must have at least one entry.", default=(ANY_BACKEND,))
    parameters = fields.Object(default=dict)
    required_capabilities = fields.Texts(_MAX_WORD, most=_MAX_ENTRIES, default=())

    def validate_backend_ids(self, named: list[str]) -> list[str]:
        if wrong := _wrong_candidates(named):
            raise ValidationError(wrong)
        return named


def check(body: dict[str, Any]) -> dict[str, Any]:
    """Return the checked values of a check, or raise ``InvalidRequest`` with every wrong field."""
    _, errors = CheckRequest.check(body)
    wrong = {error["field"].partition(".")[0] for error in errors}
    return CheckRequest.read(body, _wrong_parameters(body, wrong))


class JobRetryRequest(RequestSerializer):
    """``POST /api/job-groups/{id}/jobs/{job_id}/retry``; an absent field is None."""

    unknown = "Is not a field of a retry."

    where = fields.Choice({where.value: where for where in Where}, default=None)
    backend_id = fields.Text(_MAX_ID, default=None)
    retry_elsewhere = fields.Choice(_RETRY_ELSEWHERE, default=None)
    run = fields.Integer(1, _MOST_RUNS, default=None)
    by = fields.Line(_MAX_BY, default="")

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        choices = ("where", "backend_id", "retry_elsewhere")
        named = [name for name in choices if attrs[name] is not None]
        if len(named) > 1:
            message = f"Cannot be combined with {named[0]}; use one of them."
            raise ValidationError(dict.fromkeys(named[1:], message))
        return attrs


class GroupRetryRequest(JobRetryRequest):
    """``POST /api/job-groups/{id}/retry``"""

    job_ids = fields.Texts(
        _MAX_ID, empty="Must have at least one entry; leave it out for all that failed.", default=None
    )


class MoveRequest(RequestSerializer):
    """``POST /api/job-groups/{id}/jobs/{job_id}/move``"""

    unknown = "Is not a field of a move."

    backend_id = fields.Text(_MAX_ID)
    by = fields.Line(_MAX_BY, default="")


class BackendRequest(RequestSerializer):
    """``PATCH /api/backends/{id}``; an absent field is None.

    An unknown field is refused, so that ``enable`` is not taken for ``enabled``.
    """

    unknown = "Is not a field of a backend that can be set."

    url = fields.Text(_MAX_URL, default=None)
    backend_id = fields.Text(_MAX_ID, default=None)
    name = fields.Text(_MAX_WORD, default=None)
    tags = fields.Texts(_MAX_WORD, most=_MAX_ENTRIES, default=None)
    enabled = fields.Flag(default=None)
    headers = fields.Object(default=None)
    partner_nodes_allowed = fields.Flag(default=None)

    def validate_headers(self, headers: dict[str, Any] | None) -> dict[str, str] | None:
        """Refuse other values than strings. ``backends.services`` checks names and values."""
        wrong = []
        if len(headers or ()) > _MAX_ENTRIES:
            wrong.append(f"Must have at most {_MAX_ENTRIES} entries.")
        if not all(isinstance(value, str) for value in (headers or {}).values()):
            wrong.append("Must be an object of names and strings.")
        if wrong:
            raise ValidationError(wrong)
        return headers


class NewBackendRequest(BackendRequest):
    """``POST /api/backends`` and ``/api/backends/test``"""

    url = fields.Text(_MAX_URL)
    tags = fields.Texts(_MAX_WORD, most=_MAX_ENTRIES, default=())
    enabled = fields.Flag(default=True)


class AddressRequest(RequestSerializer):
    """``POST /api/backends/found/…``"""

    unknown = "Is not a field of an address."

    url = fields.Text(_MAX_URL)


class ByRequest(RequestSerializer):
    """``POST /api/backends/{id}/resume`` and ``…/release``"""

    by = fields.Line(_MAX_BY, default="")


class HoldRequest(ByRequest):
    """``POST /api/backends/{id}/pause`` and ``…/drain``"""

    now = fields.Flag(default=False)
    reason = fields.Line(_MAX_REASON, default="")


class QuarantineRequest(ByRequest):
    """``POST /api/backends/{id}/quarantine``"""

    minutes = fields.Integer(1, _MAX_MINUTES, default=None)
    reason = fields.Line(_MAX_REASON, default="")
