"""Retries over HTTP: the next run of a group, for its failed children or for one of them."""

from __future__ import annotations

from typing import Any, Final

from rest_framework.request import Request
from rest_framework.response import Response

from jobgroups.api import identifiers
from jobgroups.api.base import ApiView
from jobgroups.api.inputs import ELSEWHERE
from jobgroups.api.parsers import optional_json_body
from jobgroups.api.reading import Fields
from jobgroups.services import retries
from jobgroups.services.retries import Retried
from jobgroups.states import Elsewhere

#: The longest an id may be; a longer one names nothing.
_MAX_ID: Final = 64
_MOST_RUNS: Final = 2**31 - 1


class GroupRetryView(ApiView):
    """``/api/job-groups/{id}/retry``"""

    def post(self, request: Request, group_id: str) -> Response:
        """Open the group's next run for the named children, or for all that failed."""
        group = identifiers.group_id(group_id)
        fields = Fields(optional_json_body(request))
        job_ids = _job_ids(fields)
        elsewhere, run = _how(fields)
        done = retries.group_retry(group_id=group, job_ids=job_ids, elsewhere=elsewhere, run=run)
        return Response(_shown(done))


class JobRetryView(ApiView):
    """``/api/job-groups/{id}/jobs/{job_id}/retry``"""

    def post(self, request: Request, group_id: str, job_id: str) -> Response:
        """Open the group's next run for one child."""
        group, job = identifiers.group_id(group_id), identifiers.job_id(job_id)
        elsewhere, run = _how(Fields(optional_json_body(request)))
        done = retries.group_retry(group_id=group, job_ids=[job], elsewhere=elsewhere, run=run)
        return Response(_shown(done))


def _job_ids(fields: Fields) -> list[str] | None:
    named = fields.texts("job_ids", longest=_MAX_ID)
    if named == []:
        fields.note("job_ids", "Must have at least one entry; leave it out for all that failed.")
    return named


def _how(fields: Fields) -> tuple[Elsewhere | None, int | None]:
    """Read what both paths take, and raise what is wrong with the body."""
    elsewhere = fields.meant("retry_elsewhere", ELSEWHERE)
    run = fields.integer("run", low=1, high=_MOST_RUNS)
    for name in fields.unknown():
        fields.note(name, "Is not a field of a retry.")
    fields.finish()
    return elsewhere, run


def _shown(done: Retried) -> dict[str, Any]:
    return {
        "job_group_id": done.group_id,
        "run": done.run,
        "status": done.status,
        "job_ids": list(done.job_ids),
        "adopted_job_ids": list(done.adopted_job_ids),
        "moved": dict(done.moved),
    }
