"""The query parameters of URLs. No check reads the database."""

import contextlib
import datetime as dt
import re
from collections.abc import Mapping
from typing import Any, Final

from django.conf import settings
from django.http import QueryDict
from rest_framework import serializers
from rest_framework.exceptions import ValidationError
from rest_framework.fields import empty

from backends.errors import FieldInvalid
from jobgroups.api.long_polls import LONGEST
from jobgroups.api.requests import fields
from jobgroups.api.requests.fields import FieldErrors, RequestSerializer
from jobgroups.domain.audit import AUDIT_FILTERS
from jobgroups.domain.clock import now
from jobgroups.domain.failures import FailureClass
from jobgroups.domain.file_names import DEFAULT_TEMPLATE, Template, TemplateInvalid
from jobgroups.domain.states import GroupStatus
from jobgroups.outputs.thumbnails import WIDTHS
from jobgroups.queries import usage
from jobgroups.queries.failures import DEFAULT_WINDOW, WINDOWS
from jobgroups.queries.groups import MAX_PAGE
from jobgroups.queries.output_list import KINDS
from jobgroups.queries.webhooks import STATES
from jobgroups.workflow import check_text
from jobgroups.workflow.seeds import MAX_SEED, SeedStrategy
from jobgroups.workflow.validation import shown_key

DEFAULT_PAGE: Final = 50
_MAX_TEXT: Final = 500
_METADATA: Final = usage.METADATA
_MAX_METADATA_FILTERS: Final = 10  #: Each is a join, of which SQLite has 64.
#: Characters of what is kept to be searched for (``services.submission``); longer ones match
#: nothing.
_MAX_METADATA_KEY: Final = 100
_MAX_METADATA_VALUE: Final = 200
_METADATA_KEY: Final = re.compile(rf"metadata\.[^,]{{1,{_MAX_METADATA_KEY}}}")
_MAX_DAYS: Final = 366  #: Days of a report of usage.
_FILE: Final = re.compile(r"(j_[0-9a-f]{12})-([0-9]{1,6})")
_SIZE: Final = re.compile(r"([0-9]{1,6})x([0-9]{1,6})")
_DIGITS: Final = re.compile(r"[0-9]{1,16}")
#: The blank in ``…T07:00:00.000 01:00``, which was a ``+``.
_LOST_PLUS: Final = re.compile(r"(?<=[T:.0-9]{8}) (?=[0-9]{2}:?[0-9]{2}$)")


class _Digits(fields.Integer):
    def to_internal_value(self, data: Any) -> int:
        if not _DIGITS.fullmatch(data):
            self.fail("invalid")
        return int(data)


class Moment(serializers.DateTimeField):
    """A date or a time, in UTC if it has no zone. A ``+`` that was not encoded is read as a blank."""

    def to_internal_value(self, value: Any) -> dt.datetime:
        try:
            moment = dt.datetime.fromisoformat(_LOST_PLUS.sub("+", value))
            return (moment if moment.tzinfo else moment.replace(tzinfo=dt.UTC)).astimezone(dt.UTC)
        except (TypeError, ValueError, OverflowError):
            raise ValidationError("Must be a time such as 2026-02-01T07:00:00.000Z.") from None


class _Date(serializers.DateField):
    def to_internal_value(self, value: Any) -> dt.date:
        with contextlib.suppress(ValueError):
            day = dt.date.fromisoformat(value)
            if 2000 <= day.year < 3000:
                return day
        raise ValidationError("Must be a date such as 2026-02-01.")


class _Metadata(serializers.DictField):
    """All ``metadata.KEY`` parameters. Groups can be filtered by an empty value, too."""

    def get_value(self, dictionary: Mapping[str, str]) -> Any:
        wanted = {
            name.removeprefix(_METADATA): value
            for name, value in dictionary.items()
            if name.startswith(_METADATA)
        }
        return wanted or empty

    def to_internal_value(self, data: dict[str, str]) -> dict[str, str]:
        """Refuse a key or a value that is longer than the indexed ones: no group would match."""
        if len(data) > _MAX_METADATA_FILTERS:
            raise ValidationError(f"Must have at most {_MAX_METADATA_FILTERS} keys.")
        wrong: dict[str, list[str]] = {}
        for key, value in data.items():
            for what, text, most in (
                ("keys", key, _MAX_METADATA_KEY),
                ("values", value, _MAX_METADATA_VALUE),
            ):
                if len(text) > most:
                    message = f"Cannot be searched for: only {what} of up to {most} characters can."
                    field = shown_key(f"{_METADATA}{key}").removeprefix(_METADATA)
                    wrong.setdefault(field, []).append(message)
        if wrong:
            raise ValidationError(wrong)
        return data


class QuerySerializer(RequestSerializer):
    """The parameters of a URL. An unknown one is refused: without it the response would have too
    much.
    """

    unknown = "Is not a parameter of this path."

    @classmethod
    def read_query(cls, query: QueryDict) -> dict[str, Any]:
        """Return the checked values by parameter; ``?status=`` counts as absent.

        Raises ``InvalidRequest`` with every parameter that is wrong, missing or not known.
        """
        given: dict[str, Any] = {}
        errors: FieldErrors = []
        for name, values in query.lists():
            try:
                given[name] = _only_value(name, values)
            except FieldInvalid as error:
                errors.append({"field": error.field, "message": error.message})
        return cls.read(given, errors)

    def to_internal_value(self, data: Mapping[str, str]) -> dict[str, Any]:
        given = {}
        for name, value in data.items():
            field = self.fields.get(name)
            if value or field is None or getattr(field, "allow_blank", False):
                given[name] = value
        values: dict[str, Any] = super().to_internal_value(given)
        return values


def _only_value(name: str, values: list[Any]) -> str:
    check_text(name, field="query")
    field = shown_key(name)
    if len(values) > 1:
        raise FieldInvalid(field, "Must not be given more than once.")
    check_text(values[0], field=field)
    return str(values[0])


class GroupListQuery(QuerySerializer):
    """``GET /api/job-groups``; all but ``cursor`` and ``limit`` is a ``GroupFilter``."""

    status = fields.Choice(GroupStatus, default=None)
    backend = fields.Text(_MAX_TEXT, default=None)
    submitter = fields.Text(_MAX_TEXT, default=None)
    text = fields.Text(_MAX_TEXT, default="")
    archived = fields.Choice({"yes": True, "no": False, "any": None}, default=False)
    metadata = _Metadata(default=dict)
    created_after = Moment(default=None)
    created_before = Moment(default=None)
    cursor = serializers.CharField(default=None)  # the query checks it
    limit = _Digits(1, MAX_PAGE, default=DEFAULT_PAGE)

    def validate_submitter(self, name: str | None) -> str | None:
        """Remove the blanks around the name, as in stored names."""
        return (name or "").strip() or None

    def is_known(self, name: str) -> bool:
        """Return whether it is a parameter; ``metadata`` without a key is not."""
        return name.startswith(_METADATA) or (name in self.fields and name != "metadata")


class OutputListQuery(QuerySerializer):
    """``GET /api/outputs``; all but ``cursor`` and ``limit`` is an ``OutputFilter``."""

    text = fields.Text(_MAX_TEXT, default="")
    model = fields.Text(_MAX_TEXT, default=None)
    kind = fields.Choice(list(KINDS), default=None)
    size = fields.Text(_MAX_TEXT, default=None)
    starred = fields.Choice({"yes": True, "no": False}, default=None)
    group = fields.Text(_MAX_TEXT, default=None)
    submitter = fields.Text(_MAX_TEXT, default=None)
    backend = fields.Text(_MAX_TEXT, default=None)
    completed_after = Moment(default=None)
    completed_before = Moment(default=None)
    cursor = serializers.CharField(default=None)  # the query checks it
    limit = _Digits(1, MAX_PAGE, default=DEFAULT_PAGE)

    validate_submitter = GroupListQuery.validate_submitter

    def validate_size(self, text: str | None) -> tuple[int, int] | None:
        """Return width and height."""
        if text is None:
            return None
        match = _SIZE.fullmatch(text)
        if match is None:
            raise ValidationError("Must be width and height in pixels, such as 1024x768.")
        return int(match[1]), int(match[2])


class QueueQuery(QuerySerializer):
    """``GET /api/queue``"""

    submitter = fields.Text(_MAX_TEXT, default="")
    backend = fields.Text(_MAX_TEXT, default="")
    mine = fields.Choice({"yes": True, "no": False}, default=False)
    offset = _Digits(0, MAX_SEED, default=0)
    limit = _Digits(1, MAX_PAGE, default=DEFAULT_PAGE)


class AssetListQuery(QuerySerializer):
    """``GET /api/assets``"""

    cursor = serializers.CharField(default=None)  # the query checks it
    limit = _Digits(1, MAX_PAGE, default=DEFAULT_PAGE)


class DeliveryListQuery(AssetListQuery):
    """``GET /api/webhooks/deliveries``"""

    group = fields.Text(_MAX_TEXT, default=None)
    state = fields.Choice(list(STATES), default=None)


class AuditQuery(QuerySerializer):
    """``GET /api/audit``"""

    actor = fields.Text(_MAX_TEXT, default=None)
    action = fields.Choice(AUDIT_FILTERS, default=None)
    target = fields.Text(_MAX_TEXT, default=None)
    created_after = Moment(default=None)
    created_before = Moment(default=None)
    cursor = serializers.CharField(default=None)  # the query checks it
    limit = _Digits(1, 10_000, default=DEFAULT_PAGE)
    format = fields.Choice(["json", "csv"], default=None)


class StatusQuery(QuerySerializer):
    """``GET /api/job-groups/{id}``"""

    since = _Digits(0, MAX_SEED, default=None)
    wait = _Digits(0, LONGEST, default=0)
    children = fields.Choice(["0", "1"], default="1")
    children_after = _Digits(0, MAX_SEED, default=None)
    limit = _Digits(1, MAX_PAGE, default=None)

    def validate(self, values: dict[str, Any]) -> dict[str, Any]:
        """Refuse what would be ignored."""
        if values["wait"] and values["since"] is None:
            raise ValidationError({"wait": ["Needs since, the last seq that the client knows."]})
        pages = values["limit"] is not None or values["children_after"] is not None
        if pages and values["children"] == "0":
            raise ValidationError({"children": ["Must not be 0 where a page of jobs is wanted."]})
        return values


class EventsQuery(QuerySerializer):
    """``GET /api/job-groups/{id}/events``"""

    since = _Digits(0, MAX_SEED, default=0)


class EventStreamQuery(QuerySerializer):
    """``GET /api/job-groups/{id}/events/stream``; ``since`` is also ``Last-Event-ID``."""

    since = _Digits(0, MAX_SEED, default=None)
    previews = fields.Choice({"1": True, "0": False}, default=False)


class OutputQuery(QuerySerializer):
    """``GET …/outputs/{n}``: ``w`` is the width of a thumbnail; pages need ``redirect=no``."""

    w = fields.Choice([str(width) for width in WIDTHS], default=None)
    redirect = fields.Choice(["yes", "no"], default="yes")


class ZipQuery(QuerySerializer):
    """``GET …/outputs.zip``; ``name`` is the ``Template`` of the file names."""

    which = fields.Choice(["all", "starred"], default="all")
    name = fields.Text(_MAX_TEXT, default=DEFAULT_TEMPLATE)

    def validate_name(self, template: str) -> Template:
        """Return the template; its names are checked with the files."""
        try:
            return Template(template)
        except TemplateInvalid as error:
            raise ValidationError(str(error)) from None


class ChosenZipQuery(QuerySerializer):
    """``GET /api/outputs.zip``; ``files`` has jobs and numbers, with commas."""

    files = fields.Text(30 * MAX_PAGE)

    def validate_files(self, text: str) -> list[tuple[str, int]]:
        """Return jobs and numbers, each once."""
        matches = [_FILE.fullmatch(name) for name in dict.fromkeys(text.split(","))]
        chosen = [(match[1], int(match[2])) for match in matches if match]
        if len(chosen) < len(matches) or len(chosen) > MAX_PAGE:
            raise ValidationError(
                f"Must be one to {MAX_PAGE} files, such as j_91ce44d07b3a-0, with commas."
            )
        return chosen


class SheetQuery(QuerySerializer):
    """``GET …/sheet.webp``; ``axes`` has the inputs for columns, rows and blocks, with commas."""

    axes = fields.Text(_MAX_TEXT, default="")
    page = _Digits(1, MAX_SEED, default=1)

    def validate_axes(self, names: str) -> list[str]:
        return [name.strip() for name in names.split(",") if name.strip()]


class SeedsQuery(QuerySerializer):
    """``GET /api/seeds``; the default base seed is random."""

    strategy = fields.Choice(SeedStrategy, default=SeedStrategy.RANDOM)
    base_seed = _Digits(0, MAX_SEED, default=None)
    count = fields.Text(_MAX_TEXT, default="1")

    def validate_count(self, digits: str) -> int:
        """Return the number, at most that of the children of a group, which is a setting."""
        count: int = _Digits(1, settings.DIRECTOR_MAX_CHILDREN).run_validation(digits)
        return count


class FailuresQuery(QuerySerializer):
    """``GET /api/failures``"""

    window = fields.Choice(list(WINDOWS), default=DEFAULT_WINDOW)


class FailedJobsQuery(FailuresQuery):
    """``GET /api/failures/jobs``.

    ``workflow`` is empty for groups of releases without digests, ``backend_id`` for jobs that no
    backend had.
    """

    failure_class = fields.Choice(FailureClass)
    backend_id = fields.Text(_MAX_TEXT, allow_blank=True)
    workflow = fields.Text(_MAX_TEXT, allow_blank=True, default=None)


class UsageQuery(QuerySerializer):
    """``GET /api/usage``; without dates the last 30 days."""

    by = fields.Text(_MAX_TEXT, default="day")
    vars()["from"] = _Date(default=None)  # a word of Python
    to = _Date(default=None)
    offset = _Digits(0, MAX_SEED, default=0)
    limit = _Digits(1, 10_000, default=1_000)
    format = fields.Choice(["json", "csv"], default=None)

    def validate_by(self, text: str) -> list[str]:
        by = [name.strip() for name in text.split(",")]
        unknown = [
            name
            for name in by
            if name not in usage.DIMENSIONS and not _METADATA_KEY.fullmatch(name)
        ]
        if unknown or len(by) > 3 or len(set(by)) < len(by):
            names = ", ".join(usage.DIMENSIONS)
            raise ValidationError(
                f"Must be one to three of {names} and metadata.KEY, each once, with commas."
            )
        return by

    def validate(self, values: dict[str, Any]) -> dict[str, Any]:
        last = values["to"] or now().date()
        first = values["from"] or last - usage.DEFAULT_DAYS
        if not 0 <= (last - first).days < _MAX_DAYS:
            raise ValidationError(
                {"from": [f"Must be at most {_MAX_DAYS - 1} days before to, and not after it."]}
            )
        return values | {"from": first, "to": last}
