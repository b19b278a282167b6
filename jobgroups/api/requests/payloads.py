"""The bodies of requests: their fields, defaults and limits. No check reads the database."""

import datetime as dt
import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Final
from urllib.parse import urlsplit

from django.conf import settings
from rest_framework.exceptions import ValidationError

from backends.comfyui.destinations import is_not_public
from backends.errors import FieldInvalid, InvalidRequest
from jobgroups import workflow
from jobgroups.api.requests import fields
from jobgroups.api.requests.fields import RequestSerializer
from jobgroups.api.requests.path_params import check_id
from jobgroups.api.requests.query_params import Moment
from jobgroups.domain.access import Role, Scope, Visibility
from jobgroups.domain.clock import now
from jobgroups.domain.failures import RETRIED, FailureClass
from jobgroups.domain.pool import ANY_BACKEND, TAG_PREFIX
from jobgroups.domain.states import PartialOutputs, RetryScope, Where
from jobgroups.domain.turns import DEFAULT_PRIORITY, MAX_PRIORITY
from jobgroups.domain.webhooks import ENDS, EVENTS, MAX_URL, url_problem
from jobgroups.errors import TooManyChildren
from jobgroups.serializers import to_json
from jobgroups.services.assignment import Choice
from jobgroups.services.submission import Submission
from jobgroups.workflow.batch import MAX_JOBS, Batch, BatchInvalid, jobs_of, sweep_of
from jobgroups.workflow.seeds import MAX_SEED, SeedStrategy, random_base
from jobgroups.workflow.validation import shown_key

#: JSON value of ``retry_elsewhere`` to its meaning.
_RETRY_ELSEWHERE: Final = {
    False: RetryScope.NEVER,
    True: RetryScope.GROUP,
    "group": RetryScope.GROUP,
    "any": RetryScope.ANY,
}
#: Seconds that a job may run without ``timeout_seconds`` and ``stall_seconds``.
DEFAULT_TIMEOUT: Final = 300
#: The fields of which one makes a submission one to the pool.
_SIZES: Final = ("count", "jobs", "sweep")
POOL_ATTEMPTS: Final = 2  #: The least default of ``max_attempts`` in the pool.
_COUNTED: Final = ("completed", "failed")  #: The conditions of ``stop_when``.
_MAX_ENTRIES: Final = 50
_MAX_SHOWN_UNKNOWN: Final = 20
_MAX_WORD: Final = 200  #: No tag, capability, class or id is longer.
_MAX_ID: Final = 64
_MAX_URL: Final = 1000
MAX_DAYS_AHEAD: Final = 366  #: Of the start of a group.
_MAX_BY: Final = 150  #: The longest name of a user.
_MAX_REASON: Final = 500
_MAX_MINUTES: Final = 10_080  #: A week. A longer quarantine has no end: it lasts until a release.
_MOST_RUNS: Final = 2**31 - 1
_IDEMPOTENCY_KEY: Final = re.compile(r"[\x21-\x7e]([\x20-\x7e]{0,253}[\x21-\x7e])?")


def idempotency_key_problem(key: str) -> str:
    """Return what is wrong with an ``Idempotency-Key``, empty if nothing is."""
    return "" if _IDEMPOTENCY_KEY.fullmatch(key) else "Must be 1 to 255 printable ASCII characters."


def _each_once(
    named: Collection[str], known: Sequence[str], problem: Callable[[str], str]
) -> list[str]:
    """Return the known names that are named, each once, in the order of the known ones; refuse
    others with a problem.
    """
    wrong = {str(at): problem(name) for at, name in enumerate(named) if name not in known}
    if wrong:
        raise ValidationError(wrong)
    return [str(name) for name in known if name in named]


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


class _StopWhen(fields.Object):
    """Numbers of completed or failed jobs at which the rest of a group ends."""

    def to_internal_value(self, data: Any) -> dict[str, int]:
        given = {
            name: value
            for name, value in super().to_internal_value(data).items()
            if value is not None
        }
        number = f"Must be an integer from 1 to {MAX_JOBS}."
        wrong = {
            shown_key(name): "Is no condition; use completed or failed."
            for name in given
            if name not in _COUNTED
        }
        wrong |= {
            name: number
            for name in _COUNTED
            if name in given and not (type(given[name]) is int and 1 <= given[name] <= MAX_JOBS)
        }
        if wrong or not given:
            raise ValidationError(wrong or "Must have completed or failed, the number of jobs.")
        return given


class ReplayRequest(RequestSerializer):
    """``POST /api/webhooks/deliveries/{delivery_id}/replay``"""

    unknown = "Is not a field of a replay."


class WebhookTestRequest(RequestSerializer):
    """``POST /api/webhooks/test``"""

    unknown = "Is not a field of a webhook."

    url = fields.Text(MAX_URL)

    def validate_url(self, url: str) -> str:
        """Refuse a URL to which nothing would be sent. A name is resolved when an event is sent."""
        wrong = url_problem(url)
        if not (wrong or settings.DIRECTOR_WEBHOOK_PRIVATE_ADDRESSES) and is_not_public(
            urlsplit(url).hostname or ""
        ):
            wrong = "Has no public address, which DIRECTOR_WEBHOOK_PRIVATE_ADDRESSES must allow."
        if wrong:
            raise ValidationError(wrong)
        return url


class WebhookRequest(WebhookTestRequest):
    """``webhook`` of a submission."""

    events = fields.Texts(
        _MAX_WORD, most=_MAX_ENTRIES, empty="Must have at least one entry.", default=ENDS
    )

    def validate_events(self, named: Sequence[str]) -> list[str]:
        return _each_once(named, EVENTS, lambda _: f"Is no event; use some of {', '.join(EVENTS)}.")


class _Webhook(fields.Object):
    def to_internal_value(self, data: Any) -> dict[str, Any]:
        try:
            return WebhookRequest.read(super().to_internal_value(data))
        except InvalidRequest as error:
            raise ValidationError(
                {
                    field_error["field"]: field_error["message"]
                    for field_error in error.extra["errors"]
                }
            ) from None


class _StartTime(Moment):
    """When the first job of a group may start; one that has passed is now."""

    def to_internal_value(self, value: Any) -> dt.datetime:
        moment = super().to_internal_value(value)
        if moment > now() + dt.timedelta(days=MAX_DAYS_AHEAD):
            raise ValidationError(f"Must be at most {MAX_DAYS_AHEAD} days ahead.")
        return moment


class SubmissionRequest(RequestSerializer):
    """``POST /api/job-group``; the names are those of ``Submission``."""

    unknown = None  # a warning

    workflow_json = _Graph()
    backend_ids = fields.Texts(_MAX_WORD, empty="Must have at least one entry.")
    count = fields.Integer(1, MAX_JOBS, default=None)
    jobs = fields.Anything(default=None)
    sweep = fields.Anything(default=None)
    parameters = fields.Object(default=dict)
    seed_strategy = fields.Choice(SeedStrategy, default=SeedStrategy.RANDOM)
    base_seed = fields.Integer(
        0, MAX_SEED, why=" (2⁵³−1), which every client reads exactly", default=None
    )
    metadata = fields.Object(default=dict)
    timeout_seconds = fields.Integer(30, 3600, default=None)
    stall_seconds = fields.Integer(30, 86_400, default=None)
    retention_days = fields.Integer(1, 36_500, default=None)
    required_capabilities = fields.Texts(_MAX_WORD, most=_MAX_ENTRIES, default=())
    max_attempts = fields.Integer(1, 10, default=lambda: settings.DIRECTOR_MAX_ATTEMPTS)
    retry_elsewhere = fields.Choice(
        _RETRY_ELSEWHERE, default=lambda: RetryScope(settings.DIRECTOR_RETRY_ELSEWHERE)
    )
    retry_on = fields.Texts(
        _MAX_WORD,
        most=_MAX_ENTRIES,
        empty="Must have at least one entry; leave it out for all of them.",
        default=None,
    )
    partial_outputs = fields.Choice(PartialOutputs, default=PartialOutputs.ACCEPT)
    stop_when = _StopWhen(default=None)
    webhook = _Webhook(default=None)
    submitter = fields.Line(_MAX_BY, default="")
    name = fields.Line(_MAX_WORD, default="")
    visibility = fields.Choice(Visibility, default=Visibility.PRIVATE)
    priority = fields.Integer(0, MAX_PRIORITY, default=DEFAULT_PRIORITY)
    max_running = fields.Integer(1, 1_000_000, default=None)
    start_after = _StartTime(default=None)

    def validate_metadata(self, metadata: dict[str, Any]) -> dict[str, Any]:
        limit = settings.DIRECTOR_MAX_METADATA_BYTES
        if len(to_json(metadata).encode()) > limit:
            raise ValidationError(f"Must have at most {limit} bytes as JSON.")
        return metadata

    def validate_retry_on(self, named: list[str] | None) -> list[str] | None:
        if named is None:
            return None
        classes = list(FailureClass)
        return _each_once(
            named,
            RETRIED,
            lambda name: (
                f"{'Is never tried again' if name in classes else 'Is no failure class'}; use "
                f"some of {', '.join(RETRIED)}."
            ),
        )

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        """Refuse entries of ``backend_ids`` that mean something else with ``count``, or without it.

        ``stall_seconds`` replaces the default of ``timeout_seconds``.
        """
        named = attrs["backend_ids"]
        wide = [
            candidate
            for candidate in named
            if candidate == ANY_BACKEND or candidate.startswith(TAG_PREFIX)
        ]
        sizes = [name for name in _SIZES if attrs[name] is not None]
        if len(sizes) > 1:
            message = f"Cannot be combined with {sizes[0]}; use one of them."
            raise ValidationError(dict.fromkeys(sizes[1:], message))
        if not sizes and wide:
            raise ValidationError({"backend_ids": f"{wide[0]} needs count, jobs or sweep."})
        if sizes and (wrong := _wrong_candidates(named)):
            raise ValidationError({"backend_ids": wrong})
        if attrs["timeout_seconds"] is None and attrs["stall_seconds"] is None:
            attrs["timeout_seconds"] = DEFAULT_TIMEOUT
        return attrs


def _wrong_candidates(named: list[str]) -> str | None:
    twice = [name for name, times in Counter(named).items() if times > 1]
    if twice:
        return f"{twice[0]} is there twice; with count, name each candidate once."
    if ANY_BACKEND in named and len(named) > 1:
        return "* is every backend; leave the other entries out."
    if TAG_PREFIX in named:
        return "tag: needs the name of a tag behind it, as in tag:4090."
    return None


def submission(
    body: dict[str, Any], idempotency_key: str | None, *, warnings: Sequence[str] = ()
) -> Submission:
    """Check a submission. All backends of the request are in it; they are selected later.

    ``warnings`` are those of the conversion of its workflow.

    Raises:
        InvalidRequest: with every field that is wrong. An unknown field is a warning.
        TooManyChildren: more backends than a group may have children, and perhaps other errors.
    """
    values, errors = SubmissionRequest.check(body)
    wrong = {error["field"].partition(".")[0] for error in errors}
    if idempotency_key is not None and (message := idempotency_key_problem(idempotency_key)):
        errors.append({"field": "Idempotency-Key", "message": message})
    template = _template(body, wrong, errors)
    in_pool = any(body.get(name) is not None for name in _SIZES)
    if in_pool and body.get("retry_elsewhere") in (False, "any") and "retry_elsewhere" not in wrong:
        message = 'Must be true or "group" with count, or left out: the candidates are the limit.'
        errors.append({"field": "retry_elsewhere", "message": message})
    limit = settings.DIRECTOR_MAX_CHILDREN
    too_many = not in_pool and "backend_ids" not in wrong and len(body["backend_ids"]) > limit
    if too_many:
        errors.append({"field": "backend_ids", "message": f"Must have at most {limit} entries."})
    batch = None
    if template is not None and values:
        batch = _batch(body, values, template, errors)
    if errors:
        raise (TooManyChildren if too_many else InvalidRequest)(errors=errors)
    values |= {"template": template, "batch": batch}
    if batch is not None:
        values["count"] = len(batch.jobs)
    if in_pool:
        values["retry_elsewhere"] = RetryScope.GROUP
        if body.get("max_attempts") is None:
            # The failure of a machine is not a failure of the job.
            values["max_attempts"] = max(values["max_attempts"], POOL_ATTEMPTS)
    unknown = SubmissionRequest.unknown_fields(body)[:_MAX_SHOWN_UNKNOWN]
    return Submission(
        workflow=values.pop("workflow_json"),
        **{name: value for name, value in values.items() if name not in ("jobs", "sweep")},
        warnings=[
            *warnings,
            *(f"The field {name} is not known and was ignored." for name in unknown),
        ],
        idempotency_key=idempotency_key,
    )


def _template(
    body: Mapping[str, Any], wrong: Collection[str], errors: fields.FieldErrors
) -> workflow.WorkflowTemplate | None:
    """Return the workflow with its parameters; None with an error, which is added also if other
    fields are wrong.
    """
    if "workflow_json" not in wrong and "parameters" not in wrong:
        try:
            return workflow.build_template(body["workflow_json"], body.get("parameters"))
        except FieldInvalid as error:
            errors.append({"field": error.field, "message": error.message})
    return None


def _batch(
    body: Mapping[str, Any],
    values: dict[str, Any],
    template: workflow.WorkflowTemplate,
    errors: fields.FieldErrors,
) -> Batch | None:
    """Return the jobs of ``jobs`` or ``sweep``, and deal their base seed; None, perhaps with
    errors: there are none.
    """
    if values["jobs"] is None and values["sweep"] is None:
        return None
    base, strategy = values["base_seed"], values["seed_strategy"]
    if base is None:
        base = values["base_seed"] = random_base()
    try:
        if values["jobs"] is not None:
            return jobs_of(
                template, values["jobs"], strategy, base, settings.DIRECTOR_MAX_METADATA_BYTES
            )
        return sweep_of(template, values["sweep"], body.get("seed_strategy"), base)
    except BatchInvalid as invalid:
        errors += [{"field": field, "message": message} for field, message in invalid.errors]
        return None


def digest(body: object) -> str:
    """Return the hash of the canonical body: it distinguishes requests with one idempotency key."""
    text = json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


class CheckRequest(RequestSerializer):
    """``POST /api/workflows/check``; the fields are those of a submission to the pool."""

    unknown = "Is not a field of a check."

    workflow_json = _Graph()
    backend_ids = fields.Texts(
        _MAX_WORD, empty="Must have at least one entry.", default=(ANY_BACKEND,)
    )
    parameters = fields.Object(default=dict)
    required_capabilities = fields.Texts(_MAX_WORD, most=_MAX_ENTRIES, default=())

    def validate_backend_ids(self, named: list[str]) -> list[str]:
        if wrong := _wrong_candidates(named):
            raise ValidationError(wrong)
        return named


def check(body: dict[str, Any]) -> dict[str, Any]:
    _, errors = CheckRequest.check(body)
    wrong = {error["field"].partition(".")[0] for error in errors}
    field_errors: fields.FieldErrors = []
    template = _template(body, wrong, field_errors)
    return {**CheckRequest.read(body, field_errors), "template": template}


class GroupRequest(RequestSerializer):
    """``PATCH /api/job-groups/{id}``; an absent field is None."""

    unknown = "Is not a field of a group that can be set."

    name = fields.Line(_MAX_WORD, allow_blank=True, default=None)
    archived = fields.Flag(default=None)
    visibility = fields.Choice(Visibility, default=None)
    priority = fields.Integer(0, MAX_PRIORITY, default=None)
    max_running = fields.Limit()
    start_after = _StartTime(required=False, allow_null=True)
    nullable = frozenset({"max_running", "start_after"})

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        if set(attrs.values()) == {None} and not attrs.keys() & self.nullable:
            message = "Set name, archived, visibility, priority, max_running or start_after."
            raise ValidationError({"name": message})
        return attrs


class NextRequest(RequestSerializer):
    """``POST /api/job-groups/{id}/next``"""

    unknown = "Is not a field of this."

    before = fields.Text(_MAX_WORD, default=None)


class PauseRequest(RequestSerializer):
    """``POST /api/job-groups/{id}/pause`` and ``/api/queue/pause``"""

    unknown = "Is not a field of a pause."

    reason = fields.Line(_MAX_REASON, default="")
    until = Moment(default=None)
    by = fields.Line(_MAX_BY, default="")

    def validate_until(self, until: dt.datetime | None) -> dt.datetime | None:
        if until is not None and until <= now():
            raise ValidationError("Must be a time to come.")
        return until


class _Paused(fields.Anything):
    """``true``, ``false``, or the reason and the end of a pause."""

    def to_internal_value(self, data: Any) -> Any:
        if isinstance(data, bool):
            return {} if data else None
        if not isinstance(data, dict):
            raise ValidationError("Must be true, false, or an object with reason and until.")
        values, errors = PauseRequest.check(data)
        errors += [
            {"field": n, "message": "Is unknown."} for n in PauseRequest.unknown_fields(data)
        ]
        if errors:
            raise ValidationError({error["field"]: error["message"] for error in errors})
        return values


class SubmitterRequest(RequestSerializer):
    """``PUT /api/submitters/{name}``"""

    unknown = "Is not a field of a submitter that can be set."

    weight = fields.Weight(required=False)
    max_running = fields.Limit()
    max_queued = fields.Limit()
    paused = _Paused(required=False)
    nullable = frozenset({"max_running", "max_queued"})

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        if not attrs:
            raise ValidationError({"weight": "Set weight, max_running, max_queued or paused."})
        return attrs


class ConvertRequest(RequestSerializer):
    """``POST /api/workflows/convert``"""

    unknown = "Is not a field of a conversion."

    workflow_json = fields.Object()
    backend_ids = fields.Texts(
        _MAX_WORD, empty="Must have at least one entry.", default=(ANY_BACKEND,)
    )


class CancelRequest(RequestSerializer):
    """``POST /api/job-groups/cancel``"""

    unknown = "Is not a field of a cancel."


class DeletionRequest(RequestSerializer):
    """``POST /api/job-groups/{id}/delete``"""

    unknown = "Is not a field of a deletion."


class JobRetryRequest(RequestSerializer):
    """``POST /api/job-groups/{id}/jobs/{job_id}/retry``; an absent field is None."""

    unknown = "Is not a field of a retry."

    where = fields.Choice({where.value: where for where in Where}, default=None)
    backend_id = fields.Text(_MAX_ID, default=None)
    retry_elsewhere = fields.Choice(_RETRY_ELSEWHERE, default=None)
    run = fields.Integer(1, _MOST_RUNS, default=None)
    by = fields.Line(_MAX_BY, default="")

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        """Refuse two choices of a backend, and return the arguments of ``services.retries``."""
        choices = ("where", "backend_id", "retry_elsewhere")
        named = [name for name in choices if attrs[name] is not None]
        if len(named) > 1:
            message = f"Cannot be combined with {named[0]}; use one of them."
            raise ValidationError(dict.fromkeys(named[1:], message))
        where, backend_id, elsewhere = (attrs.pop(name) for name in choices)
        return attrs | {"choice": Choice(where=where, backend_id=backend_id, elsewhere=elsewhere)}

    @classmethod
    def read(
        cls, body: Mapping[str, Any], errors: fields.FieldErrors | None = None
    ) -> dict[str, Any]:
        """Return the values as ``validate`` makes them. Only then raise ``BackendNotFound`` for an
        impossible id.
        """
        values = super().read(body, errors)
        if (backend_id := values["choice"].backend_id) is not None:
            check_id("backend_id", backend_id)
        return values


class GroupRetryRequest(JobRetryRequest):
    """``POST /api/job-groups/{id}/retry``"""

    job_ids = fields.Texts(
        _MAX_ID,
        empty="Must have at least one entry; leave it out for all that failed.",
        default=None,
    )


class MoveRequest(RequestSerializer):
    """``POST /api/job-groups/{id}/jobs/{job_id}/move``"""

    unknown = "Is not a field of a move."

    backend_id = fields.Text(_MAX_ID)
    by = fields.Line(_MAX_BY, default="")

    @classmethod
    def read(
        cls, body: Mapping[str, Any], errors: fields.FieldErrors | None = None
    ) -> dict[str, Any]:
        """Return the values. Only then raise ``BackendNotFound`` for an impossible id."""
        values = super().read(body, errors)
        check_id("backend_id", values["backend_id"])
        return values


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
    extensions_allowed = fields.Flag(default=None)
    hours = fields.Text(_MAX_REASON, allow_blank=True, default=None)
    time_zone = fields.Text(_MAX_ID, allow_blank=True, default=None)

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

    now = fields.Flag(source="at_once", default=False)
    reason = fields.Line(_MAX_REASON, default="")


class QuarantineRequest(ByRequest):
    """``POST /api/backends/{id}/quarantine``"""

    minutes = fields.Integer(1, _MAX_MINUTES, default=None)
    reason = fields.Line(_MAX_REASON, default="")


class TokenRequest(RequestSerializer):
    """``POST /api/tokens``"""

    name = fields.Line(100)
    scope = fields.Choice({scope.value: scope for scope in Scope})
    expires_at = Moment(default=None)


class PersonRequest(RequestSerializer):
    """``POST /api/people``"""

    name = fields.Line(60)
    role = fields.Choice({role.value: role for role in Role})


class PersonChange(RequestSerializer):
    """``PATCH /api/people/{account}``; an absent field is None."""

    role = fields.Choice({role.value: role for role in Role}, default=None)
    is_active = fields.Flag(default=None)
