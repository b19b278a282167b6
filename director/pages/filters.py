"""Filters of the list of groups: from a URL's query, and back."""

import datetime as dt
import re
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlencode

from django.db.models import Q, QuerySet
from django.http import QueryDict

from jobgroups.domain.clock import iso
from jobgroups.domain.states import GroupStatus
from jobgroups.models import ChildJob, JobGroup

PAGE_SIZE: Final = 50
_CURSOR: Final = re.compile(r"([0-9T:.\-]{23}Z)_(jg_[0-9a-f]{12})")
_MAX_TEXT: Final = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Filters:
    """Filters of the list. Empty: any value. Invalid values are ignored."""

    state: str = ""
    backend: str = ""
    text: str = ""
    submitter: str = ""
    hide_finished: bool = False
    before: str = ""  #: Only groups older than this one: ``TIME_ID``.

    @property
    def any(self) -> bool:
        return self != Filters(before=self.before)

    def query(self, *, before: str = "") -> str:
        """Return the filters as a URL's query, for the page after ``before``."""
        said = {
            "state": self.state,
            "backend": self.backend,
            "text": self.text,
            "submitter": self.submitter,
            "hide": "finished" if self.hide_finished else "",
            "before": before,
        }
        return urlencode({name: value for name, value in said.items() if value})


def parse_filters(query: QueryDict) -> Filters:

    def text(name: str) -> str:
        return str(query.get(name, "")).replace("\0", "").strip()[:_MAX_TEXT]

    state, before = text("state"), text("before")
    return Filters(
        state=state if state in set(GroupStatus) else "",
        backend=text("backend"),
        text=text("text"),
        submitter=text("submitter"),
        hide_finished=text("hide") == "finished",
        before=before if _CURSOR.fullmatch(before) else "",
    )


def cursor(row: JobGroup) -> str:
    return f"{iso(row.created_at)}_{row.id}"


def filtered_groups(filters: Filters) -> QuerySet[JobGroup]:
    """Return the groups that match, newest first."""
    rows = JobGroup.objects.order_by("-created_at", "-id")
    if filters.state:
        rows = rows.filter(status=filters.state)
    if filters.hide_finished:
        rows = rows.filter(completed_at=None)
    if filters.submitter:
        rows = rows.filter(submitter=filters.submitter)
    if filters.backend:
        there = ChildJob.objects.filter(backend_id=filters.backend).values("group_id")
        rows = rows.filter(pk__in=there)
    if filters.text:
        words = Q(metadata_json__icontains=filters.text) | Q(id__icontains=filters.text)
        rows = rows.filter(words)
    return _after_cursor(rows, filters.before)


def _after_cursor(rows: QuerySet[JobGroup], before: str) -> QuerySet[JobGroup]:
    found = _CURSOR.fullmatch(before)
    if found is None:
        return rows
    try:
        moment = dt.datetime.strptime(found[1], "%Y-%m-%dT%H:%M:%S.%f%z")
    except ValueError:
        return rows
    return rows.filter(Q(created_at__lt=moment) | Q(created_at=moment, id__lt=found[2]))
