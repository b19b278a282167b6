"""Retries over HTTP, of a group or of one child of it, and moves of children that wait."""

from __future__ import annotations

from typing import Any, Final

from rest_framework.request import Request
from rest_framework.response import Response

from jobgroups.api.requests import path_params
from jobgroups.api.requests.body import json_body, optional_json_body
from jobgroups.api.requests.fields import Fields
from jobgroups.api.requests.payloads import ELSEWHERE
from jobgroups.api.views.base import ApiView
from jobgroups.domain.states import Where
from jobgroups.services import moves, retries
from jobgroups.services.rebinding import Choice
from jobgroups.services.retries import Retried

#: The longest an id may be; a longer one names nothing.
_MAX_ID: Final = 64
_MAX_BY: Final = 150
_MOST_RUNS: Final = 2**31 - 1


class GroupRetryView(ApiView):
    """``/api/job-groups/{id}/retry``"""

    def post(self, request: Request, group_id: str) -> Response:
        """Open the group's next run for the named children, or for all that failed."""
        group = path_params.group_id(group_id)
        fields = Fields(optional_json_body(request))
        job_ids = _job_ids(fields)
        done = retries.group_retry(group_id=group, job_ids=job_ids, **_how(fields))
        return Response(_shown(done))


class JobRetryView(ApiView):
    """``/api/job-groups/{id}/jobs/{job_id}/retry``"""

    def post(self, request: Request, group_id: str, job_id: str) -> Response:
        """Queue one child again: within the run, or in the next one if the group has ended."""
        group, job = path_params.group_id(group_id), path_params.job_id(job_id)
        said = _how(Fields(optional_json_body(request)))
        return Response(_shown(retries.child_retry(group_id=group, job_id=job, **said)))


class JobMoveView(ApiView):
    """``/api/job-groups/{id}/jobs/{job_id}/move``"""

    def post(self, request: Request, group_id: str, job_id: str) -> Response:
        """Bind a child that waits to another backend."""
        group, job = path_params.group_id(group_id), path_params.job_id(job_id)
        fields = Fields(json_body(request))
        backend_id = fields.text("backend_id", longest=_MAX_ID, required=True)
        by = _by(fields)
        _finish(fields, "Is not a field of a move.")
        named = path_params.backend_id(backend_id or "")
        done = moves.child_move(group_id=group, job_id=job, backend_id=named, by=by)
        return Response(
            {
                "job_group_id": done.group_id,
                "job_id": done.job_id,
                "backend_id": done.backend_id,
                "moved": done.moved,
                "removing_from": done.removing_from,
            }
        )


def _job_ids(fields: Fields) -> list[str] | None:
    named = fields.texts("job_ids", longest=_MAX_ID)
    if named == []:
        fields.note("job_ids", "Must have at least one entry; leave it out for all that failed.")
    return named


def _how(fields: Fields) -> dict[str, Any]:
    """Read what both paths of a retry take, and raise what is wrong with the body."""
    choice = Choice(
        where=fields.meant("where", [(one.value, one) for one in Where]),
        backend_id=fields.text("backend_id", longest=_MAX_ID),
        elsewhere=fields.meant("retry_elsewhere", ELSEWHERE),
    )
    said = [
        name
        for name, value in (
            ("where", choice.where),
            ("backend_id", choice.backend_id),
            ("retry_elsewhere", choice.elsewhere),
        )
        if value is not None
    ]
    for name in said[1:]:
        fields.note(name, f"Cannot be combined with {said[0]}; use one of them.")
    run = fields.integer("run", low=1, high=_MOST_RUNS)
    by = _by(fields)
    _finish(fields, "Is not a field of a retry.")
    if choice.backend_id is not None:
        path_params.backend_id(choice.backend_id)
    return {"choice": choice, "run": run, "by": by}


def _by(fields: Fields) -> str:
    return fields.line("by", longest=_MAX_BY) or ""


def _finish(fields: Fields, unknown: str) -> None:
    for name in fields.unknown():
        fields.note(name, unknown)
    fields.finish()


def _shown(done: Retried) -> dict[str, Any]:
    return {
        "job_group_id": done.group_id,
        "run": done.run,
        "status": done.status,
        "job_ids": list(done.job_ids),
        "adopted_job_ids": list(done.adopted_job_ids),
        "moved": dict(done.moved),
    }
