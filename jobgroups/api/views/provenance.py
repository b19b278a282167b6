"""How a job was made, and which job made a file."""

from typing import Final

from rest_framework.request import Request
from rest_framework.response import Response

from jobgroups.api.requests import path_params
from jobgroups.api.requests.upload import received_file
from jobgroups.api.views.base import ApiView
from jobgroups.errors import ProvenanceUnknown
from jobgroups.outputs.png_workflow import mark_in_png
from jobgroups.queries.provenance import job_of_content, job_of_mark, job_provenance

#: The beginning of a PNG, in which its mark is searched: ComfyUI writes the mark before the pixels.
_HEAD_BYTES: Final = 16 * 2**20


class ProvenanceView(ApiView):
    """``/api/job-groups/{id}/jobs/{job_id}/provenance.json``"""

    def get(self, request: Request, group_id: str, job_id: str) -> Response:
        """Return the workflow as it was sent, with input files, backend, versions, times and seconds of the nodes."""
        return Response(job_provenance(path_params.group_id(group_id), path_params.job_id(job_id)))


class ProvenanceSearchView(ApiView):
    """``/api/provenance``"""

    def post(self, request: Request) -> Response:
        """Return the job that made an uploaded file. The file is not kept."""
        with received_file(request) as file, file.path.open("rb") as content:
            head = content.read(_HEAD_BYTES)
        try:
            return Response({**job_of_mark(mark_in_png(head)), "found_by": "mark"})
        except ProvenanceUnknown as unknown:
            if (found := job_of_content(file.hash)) is None:
                raise ProvenanceUnknown(f"{unknown.detail} No captured file has this content.") from None
            return Response({**found, "found_by": "hash"})
