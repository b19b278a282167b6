"""Reads the images and videos of completed jobs of all groups, newest first."""

import datetime as dt
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from django.db.models import Q, QuerySet

from jobgroups.domain.access import Principal
from jobgroups.domain.clock import iso
from jobgroups.domain.media_types import media_kind, media_type
from jobgroups.domain.outputs import reported_files
from jobgroups.models import TITLE, ChildJob, JobGroup
from jobgroups.queries.groups import (
    GroupFilter,
    Page,
    cursor_errors,
    decode_cursor,
    encode_cursor,
    filter_groups,
)
from jobgroups.queries.outputs import known_files_of
from jobgroups.serializers import FILE_FIELDS, describe_files, to_json

KINDS: Final = ("image", "video")
_AT_ONCE: Final = 500  #: Jobs that are read at once.
#: Jobs that are read for a page: of a kind or a size that few have, it may be short or empty.
_MAX_JOBS: Final = 3_000
_MAX_MODEL_GROUPS: Final = 500  #: The newest groups, whose models are offered.
#: The output before the page: when its job completed, the job, and the number of the output.
_CURSOR: Final = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:]{8}\.[0-9]{3}Z)\|([0-9a-z_]{1,14})\|([0-9]{1,9})"
)
#: After every output of a job.
_LAST: Final = 999_999_999
_WIDTH: Final = FILE_FIELDS.index("width")  #: The height follows.
_COLUMNS: Final = ("group", "position", "backend", "seed", "outputs_json", "starred")


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputFilter:
    """Filters of the list of outputs; None and empty match every output that the principal sees."""

    principal: Principal
    text: str = ""  #: As of a ``GroupFilter``.
    model: str | None = None  #: That of the summary of the group.
    kind: str | None = None  #: One of ``KINDS``.
    size: tuple[int, int] | None = None  #: Width and height in pixels.
    starred: bool | None = None
    group: str | None = None
    submitter: str | None = None
    backend: str | None = None
    completed_after: dt.datetime | None = None
    completed_before: dt.datetime | None = None


@dataclass(frozen=True, slots=True)
class _Place:
    completed_at: dt.datetime
    job_id: str
    number: int

    def cursor(self) -> str:
        return encode_cursor(iso(self.completed_at), self.job_id, self.number)


def output_list(filters: OutputFilter, *, cursor: str | None, limit: int) -> Page:
    """Return up to ``limit`` outputs after ``cursor``: of the newest jobs first, of a job in their
    order. A page may have fewer outputs although more follow.

    Raises ``InvalidRequest`` if no page gave the cursor.
    """
    place, rows = _decode_cursor(cursor), _jobs(filters)
    results: list[tuple[_Place, dict[str, Any]]] = []
    count, left = limit + 1, _MAX_JOBS  # each of the first jobs most likely has an output
    while left > 0:
        jobs = list(_from(rows, place)[:count])
        for at, output in _outputs(filters, jobs):
            if place is None or at.job_id != place.job_id or at.number > place.number:
                if len(results) == limit:
                    return Page([output for _, output in results], results[-1][0].cursor(), None)
                results.append((at, output))
        if len(jobs) < count:
            return Page([output for _, output in results], None, None)
        place = _place(jobs[-1], _LAST)
        left -= count
        count = _AT_ONCE
    return Page([output for _, output in results], place.cursor() if place else None, None)


def models(principal: Principal) -> list[str]:
    """Return the models of the newest groups that a principal sees, by name."""
    groups = filter_groups(GroupFilter(principal=principal, archived=None))
    texts = groups.order_by("-created_at").values_list("summary_json", flat=True)
    names = {json.loads(text).get("model") for text in texts[:_MAX_MODEL_GROUPS]}
    return sorted(name for name in names if name)


def _jobs(filters: OutputFilter) -> QuerySet[ChildJob]:
    rows = ChildJob.objects.filter(outputs_json__isnull=False)
    exact = {
        "starred": filters.starred,
        "group": filters.group,
        "backend": filters.backend,
        "completed_at__gte": filters.completed_after,
        "completed_at__lt": filters.completed_before,
    }
    rows = rows.filter(**{name: value for name, value in exact.items() if value is not None})
    if filters.text or filters.model or filters.submitter or not filters.principal.sees_all:
        groups = filter_groups(
            GroupFilter(
                principal=filters.principal,
                text=filters.text,
                submitter=filters.submitter,
                archived=None,
            )
        )
        if filters.model:
            pair = to_json({"model": filters.model})[1:-1]
            groups = groups.filter(summary_json__icontains=pair)
        rows = rows.filter(group__in=groups.values("pk"))
    return rows.order_by("-completed_at", "-id").only(*_COLUMNS, "completed_at")


def _from(rows: QuerySet[ChildJob], place: _Place | None) -> QuerySet[ChildJob]:
    """Return the jobs from that of a place on; of ``_LAST`` those after it."""
    if place is None:
        return rows
    side = "lt" if place.number == _LAST else "lte"
    # The first condition is the one with which the index is searched.
    return rows.filter(
        Q(completed_at__lt=place.completed_at)
        | Q(**{"completed_at": place.completed_at, f"id__{side}": place.job_id}),
        completed_at__lte=place.completed_at,
    )


def _place(job: ChildJob, number: int) -> _Place:
    assert job.completed_at is not None  # a constraint of completed jobs  # noqa: S101
    return _Place(job.completed_at, job.id, number)


def _outputs(
    filters: OutputFilter, jobs: Sequence[ChildJob]
) -> Iterator[tuple[_Place, dict[str, Any]]]:
    """Yield the outputs of jobs that match, with their places."""
    kinds = (filters.kind,) if filters.kind else KINDS
    made = []
    for job in jobs:
        outputs = json.loads(job.outputs_json or "{}")
        if any(media_kind(file["filename"]) in kinds for file in reported_files(outputs)):
            made.append((job, outputs))
    known = known_files_of([job.id for job, _ in made])
    if filters.size:
        # Before the files are described, which takes longer.
        made = [
            (job, outputs)
            for job, outputs in made
            if any(
                facts[_WIDTH : _WIDTH + 2] == filters.size
                for facts in known.get(job.id, {}).values()
            )
        ]
    groups = JobGroup.objects.only(*TITLE, "submitter").in_bulk({job.group_id for job, _ in made})
    for job, outputs in made:
        group = groups.get(job.group_id)
        if group is None:
            continue  # it was deleted between the queries
        describe_files({"job_id": job.id, "outputs": outputs}, job.group_id, known.get(job.id, {}))
        for number, file in enumerate(reported_files(outputs)):
            kind = media_kind(file["filename"])
            size = (file["width"], file["height"])
            if kind not in kinds or file.get("missing") or filters.size not in (None, size):
                continue
            place = _place(job, number)
            yield (
                place,
                {
                    **file,
                    "job_group_id": job.group_id,
                    "job_id": job.id,
                    "number": number,
                    "index": job.position + 1,
                    "kind": kind,
                    "media_type": media_type(file["filename"]),
                    "seed": job.seed,
                    "backend_id": job.backend_id,
                    "starred": job.starred,
                    "completed_at": iso(place.completed_at),
                    "submitter": group.submitter or None,
                    "title": group.title,
                },
            )


@cursor_errors()
def _decode_cursor(cursor: str | None) -> _Place | None:
    if not cursor:
        return None
    match = decode_cursor(cursor, _CURSOR)
    return _Place(dt.datetime.fromisoformat(match[1]), match[2], int(match[3]))
