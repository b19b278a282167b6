"""The zip of a group's outputs, stars, a preview of seeds, and the workflow in a PNG."""

import secrets

from django.http import HttpRequest, StreamingHttpResponse, UnreadablePostError
from rest_framework.request import Request
from rest_framework.response import Response

from jobgroups.api.requests import path_params
from jobgroups.api.requests.body import UnsupportedMediaType, media_type, read_body
from jobgroups.api.requests.query_params import SeedsQuery, ZipQuery
from jobgroups.api.views import async_base
from jobgroups.api.views.async_base import AsyncApiView, note_replaced
from jobgroups.api.views.base import ApiView
from jobgroups.domain import media_types
from jobgroups.errors import NoOutputs, NoWorkflow
from jobgroups.outputs.archive import iter_zip
from jobgroups.outputs.png_workflow import workflow_in_png
from jobgroups.queries.outputs import group_outputs
from jobgroups.services.stars import child_star
from jobgroups.workflow.seeds import MAX_SEED, seeds


class ZipView(AsyncApiView):
    """``/api/job-groups/{id}/outputs.zip``"""

    async def get(self, request: HttpRequest, group_id: str) -> StreamingHttpResponse:
        """Return all originals of a group, or those of its starred children."""
        starred = ZipQuery.read_query(request.GET)["which"] == "starred"
        group = path_params.group_id(group_id)
        files = await async_base.read(group_outputs, group, starred=starred)
        if not files:
            raise NoOutputs(starred=starred)
        body = iter_zip(files, note_replaced)
        name = f"{group}-starred.zip" if starred else f"{group}.zip"
        headers = {
            **media_types.GUARD_HEADERS,
            "Content-Type": "application/zip",
            "Content-Disposition": f"attachment; {media_types.named(name)}",
        }
        return StreamingHttpResponse(body, headers=headers)


class StarView(ApiView):
    """``/api/job-groups/{id}/jobs/{job_id}/star``"""

    def put(self, request: Request, group_id: str, job_id: str) -> Response:
        """Star a child."""
        return self._set(group_id, job_id, starred=True)

    def delete(self, request: Request, group_id: str, job_id: str) -> Response:
        """Remove a child's star."""
        return self._set(group_id, job_id, starred=False)

    def _set(self, group_id: str, job_id: str, *, starred: bool) -> Response:
        group, job = path_params.group_id(group_id), path_params.job_id(job_id)
        child_star(group_id=group, job_id=job, starred=starred)
        return Response({"job_id": job, "starred": starred})


class SeedsView(ApiView):
    """``/api/seeds``"""

    def get(self, request: Request) -> Response:
        """Return the seeds that a submission with these fields would use."""
        query = SeedsQuery.read_query(request.query_params)
        strategy, base = query["strategy"], query["base_seed"]
        if base is None:
            base = secrets.randbelow(MAX_SEED + 1)
        found = seeds(strategy, base, query["count"])
        return Response({"strategy": strategy, "base_seed": base, "seeds": found})


class WorkflowFromPngView(ApiView):
    """``/api/workflow-from-png``"""

    def post(self, request: Request) -> Response:
        """Return the workflow with which a PNG was made."""
        if media_type(request)[0] != "image/png":
            raise UnsupportedMediaType("The body must be sent as Content-Type: image/png.")
        try:
            content = read_body(request)
        except UnreadablePostError:
            raise NoWorkflow("The body is incomplete.") from None
        return Response({"workflow_json": workflow_in_png(content)})
