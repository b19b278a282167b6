"""Rows as the JSON objects of the API. No other module names these fields.

The functions take loaded rows and do not query the database.
"""

import datetime as dt
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields
from functools import cache
from operator import attrgetter
from typing import Any, Final, NamedTuple, cast, get_type_hints
from urllib.parse import urlsplit

from django.conf import settings
from django.db.models import Model

from jobgroups.domain.clock import iso, iso_or_none, now
from jobgroups.domain.media_types import media_kind
from jobgroups.domain.outputs import output_url, reported_files
from jobgroups.domain.pauses import PauseTime
from jobgroups.domain.shapes import groups
from jobgroups.domain.states import CHILD_OPEN, ChildStatus, Placement, RetryScope
from jobgroups.domain.turns import DEFAULT_PRIORITY, level_of
from jobgroups.models import Attempt, ChildJob, JobGroup

MAX_TEXT_BYTES = 2048  #: Maximum length of a text in an event, in bytes of UTF-8.
#: Maximum length of a frame: 1 MiB, the limit of daphne and of many clients, minus the envelope.
MAX_FRAME_BYTES = 2**20 - 4096
#: What may be known of a file.
FILE_FIELDS = (
    "node_id",
    "blake3",
    "sha256",
    "size_bytes",
    "width",
    "height",
    "duration",
    "capture_warning",
)


def _plain(value: object) -> Any:
    """Return a record of ``jobgroups.domain.shapes`` as an object, and a time or a date as text."""
    if isinstance(value, dt.datetime):
        return iso(value)
    if isinstance(value, dt.date):
        return value.isoformat()
    return {
        field.name: getattr(value, field.name)
        for field in fields(cast(Any, value))
        if field.name != "raw"
    }


#: Without the checks of ``json.loads``, which take longer than most of the texts.
_decode: Final = json.JSONDecoder().raw_decode
_encode: Final = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), default=_plain).encode


def to_json(value: object) -> str:
    """Return the value as JSON text without blanks, in UTF-8."""
    return _encode(value)


def _from_json(text: str | None) -> Any:
    return None if text is None else _decode(text)[0]


class _Plan(NamedTuple):
    empty: dict[str, Any]  #: All fields in their order.
    stored: Sequence[str]  #: The fields that attributes of the row have.
    get: Callable[[Any], Sequence[Any]]
    conversions: Sequence[tuple[str, Callable[[Any], Any]]]


@cache
def _plan(kind: type, model: type[Model], given: tuple[str, ...]) -> _Plan:
    hints = get_type_hints(kind)
    names = [field.name for field in fields(kind) if field.name != "raw"]
    stored = [name for name in names if name not in given]
    columns = {field.attname: field for field in model._meta.concrete_fields}
    texts = {name for name in stored if f"{name}_json" in columns}
    conversions: list[tuple[str, Callable[[Any], Any]]] = []
    for name in names:
        if hints[name] in (dt.datetime, dt.datetime | None):
            conversions.append((name, iso_or_none))
        elif name in texts:
            conversions.append((name, _from_json))
        elif (
            hints[name] == str | None
            and name in columns
            and name in stored
            and not columns[name].null
        ):
            conversions.append((name, lambda text: text or None))
    read = [f"{name}_json" if name in texts else name for name in stored]
    # attrgetter is faster, and of one name it returns no sequence.
    get = attrgetter(*read) if len(read) > 1 else lambda row: [getattr(row, name) for name in read]
    return _Plan(dict.fromkeys(names), stored, get, conversions)


def shape(kind: type, row: Model, **values: Any) -> dict[str, Any]:
    """Return the JSON object of a row: the fields of ``kind``, of ``jobgroups.domain.shapes``, in
    their order.

    A field is one of ``values``, else the row's attribute, or the value of its column ``…_json``.
    An empty text of a column without null is null if the field may be null.
    """
    plan = _plan(kind, type(row), tuple(values))
    answer = plan.empty.copy()
    answer.update(zip(plan.stored, plan.get(row), strict=True))
    answer.update(values)
    for name, convert in plan.conversions:
        answer[name] = convert(answer[name])
    return answer


def truncate(text: str | None) -> str | None:
    """Truncate a text to 2 KiB of UTF-8, at a whole character and with an ellipsis."""
    if text is None or len(text.encode()) <= MAX_TEXT_BYTES:
        return text
    return text.encode()[: MAX_TEXT_BYTES - 3].decode(errors="ignore") + "…"


def shown_backend(row: ChildJob) -> str | None:
    """Return the backend of a child as clients see it: None for a queued child of the pool.

    It is None also while a backend has claimed the child and has not started it: a claim has no
    event.
    """
    if row.is_bound:
        return row.backend_id or ""
    return None if row.status == ChildStatus.QUEUED else row.backend_id


def serialize_child(
    row: ChildJob, waiting_reason: str | None = None, eta_seconds: float | None = None
) -> dict[str, Any]:
    return shape(
        groups.Child,
        row,
        job_id=row.id,
        backend_id=shown_backend(row),
        progress=round(row.progress, 2),
        attempts=row.attempt_count,
        waiting_reason=waiting_reason if row.status in CHILD_OPEN else None,
        eta_seconds=eta_seconds and round(eta_seconds, 1),
    )


def has_thumbnail(filename: str) -> bool:
    kind = media_kind(filename)
    return kind == "image" or (kind == "video" and settings.FFMPEG is not None)


def describe_files(
    child: dict[str, Any], group_id: str, known: Mapping[int, Sequence[Any]]
) -> None:
    """Add to each file of a serialized child where it can be had, and what is known of it.

    ``known`` has the values of ``FILE_FIELDS`` by the file's number.
    """
    for number, file in enumerate(reported_files(child["outputs"] or {})):
        url = output_url(group_id, child["job_id"], number)
        # A captured file is missing if it turned out to be another job's.
        values = None if file.get("missing") else known.get(number)
        facts = (
            dict.fromkeys(FILE_FIELDS)
            if values is None
            else dict(zip(FILE_FIELDS, values, strict=True))
        )
        captured, reason = facts["blake3"] is not None, facts["capture_warning"]
        file.update(
            facts,
            file_url=url,
            thumbnail_url=f"{url}?w=320" if has_thumbnail(file["filename"]) else None,
            node_id=facts["node_id"] or None,
            sha256=facts["sha256"] or None,
            captured=captured,
            capture_warning=f"{file['filename']}{'' if captured else ' is not captured'}: {reason}"
            if reason
            else None,
        )


def expires_at(row: JobGroup) -> dt.datetime | None:
    """Return when the days are over for which an ended group is kept; None without such a limit."""
    days = row.retention_days or settings.DIRECTOR_RETENTION_DAYS
    return row.completed_at + dt.timedelta(days=days) if row.completed_at and days else None


def group_level(row: JobGroup) -> int:
    """Return the level that counts now of a group that has not ended."""
    waited = (now() - row.waiting_since).total_seconds() if row.waiting_since else 0.0
    return level_of(group_priority(row), waited, settings.DIRECTOR_AGING_MINUTES * 60)


def group_priority(row: JobGroup) -> int:
    return DEFAULT_PRIORITY if row.priority is None else row.priority


def serialize_pause(pause: PauseTime | None) -> groups.Pause | None:
    if pause is None:
        return None
    return groups.Pause(
        of=pause.of,
        since=pause.began_at,
        until=pause.ends_at,
        by=pause.by or None,
        reason=pause.reason or None,
    )


def webhook_of(row: JobGroup) -> dict[str, Any] | None:
    """Return the webhook of a group: as it was submitted, or the server alone if accounts see the
    group that see no deliveries of it. The rest of an address may be a secret.
    """
    own: dict[str, Any] | None = _from_json(row.webhook_json)
    if own is None or not (settings.DIRECTOR_PRIVATE and row.shared_at):
        return own
    url = urlsplit(own["url"])
    return {**own, "url": f"{url.scheme}://{url.netloc}/…"}


def serialize_group(
    row: JobGroup, eta_seconds: float | None = None, pause: PauseTime | None = None
) -> dict[str, Any]:
    return shape(
        groups.GroupRow,
        row,
        job_group_id=row.id,
        eta_seconds=eta_seconds and round(eta_seconds, 1),
        visibility=row.visibility.value,
        webhook=webhook_of(row),
        timeout_seconds=row.time_limit,
        expires_at=expires_at(row),
        paused=serialize_pause(pause),
        priority=group_priority(row),
        level=group_level(row) if row.completed_at is None else group_priority(row),
        retry_elsewhere=False if row.retry_elsewhere == RetryScope.NEVER else row.retry_elsewhere,
    )


def serialize_submission(row: JobGroup, children: Iterable[ChildJob]) -> dict[str, Any]:
    """Return the response to a submission, as it was when the group was stored: also for a replay."""
    return {
        "job_group_id": row.id,
        "child_jobs": [
            {
                "job_id": child.id,
                "backend_id": None if row.placement == Placement.POOL else child.backend_id or "",
                "seed": child.seed,
                "status": ChildStatus.QUEUED.value,
            }
            for child in children
        ],
        "status": "pending" if row.accepted_without_runner else "running",
        "created_at": iso(row.created_at),
        "warnings": _from_json(row.warnings_json),
        "skipped_backends": _from_json(row.skipped_backends_json),
    }


def serialize_attempt(row: Attempt, *, left_running: str = "") -> dict[str, Any]:
    """Return one attempt of a child, with its outputs even if it failed.

    ``left_running`` says why its prompt still runs although its stop is pending.
    """
    return shape(
        groups.Attempt,
        row,
        outcome=row.state,
        charged=row.is_counted,
        left_running=left_running or None,
    )


def truncate_to_frame(
    frame: Mapping[str, Any], keys: Sequence[str], within: str | None = None
) -> str:
    """Return a frame's text; if it would exceed 1 MiB, with null for some of ``keys``, the most
    dispensable first.

    ``"truncated": [key, …]`` lists them: the client requests these values from the REST API.
    ``within`` is the list of objects that have these keys; None: the frame itself.
    """
    text = to_json(frame)
    dropped: list[str] = []
    short = dict(frame)
    for key in keys:
        if len(text.encode()) <= MAX_FRAME_BYTES:
            break
        if within is None and short.get(key) is None:
            continue
        dropped.append(key)
        if within is None:
            short[key] = None
        else:
            short[within] = [{**item, key: None} for item in short[within]]
        text = to_json({**short, "truncated": dropped})
    return text
