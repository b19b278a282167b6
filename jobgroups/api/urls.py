"""Every path under ``/api/``, each also with a slash at its end."""

from __future__ import annotations

from django.urls import URLPattern, path
from rest_framework.views import APIView

from jobgroups.api.views import (
    async_base,
    backends,
    failures,
    found,
    groups,
    holds,
    pictures,
    probes,
    retries,
)
from jobgroups.api.views.outputs import OutputView


def _both(route: str, view: type[APIView], **given: object) -> list[URLPattern]:
    """Serve a path with and without a slash at its end: a redirect would lose a POST's body.

    Args:
        given: what the view is called with besides what the path says.
    """
    served = view.as_view()
    return [path(route, served, given), path(f"{route}/", served, given)]


urlpatterns = [
    *_both("job-group", groups.SubmitView),
    *_both("job-groups", groups.GroupListView),
    *_both("job-groups/<str:group_id>", groups.GroupView),
    *_both("job-groups/<str:group_id>/workflow", groups.WorkflowView),
    *_both("job-groups/<str:group_id>/events", groups.EventsView),
    *_both("job-groups/<str:group_id>/retry", retries.GroupRetryView),
    *_both("job-groups/<str:group_id>/jobs/<str:job_id>", groups.JobView),
    *_both("job-groups/<str:group_id>/jobs/<str:job_id>/retry", retries.JobRetryView),
    *_both("job-groups/<str:group_id>/jobs/<str:job_id>/move", retries.JobMoveView),
    *async_base.both(
        "job-groups/<str:group_id>/jobs/<str:job_id>/outputs/<str:number>", OutputView
    ),
    *_both("job-groups/<str:group_id>/jobs/<str:job_id>/star", pictures.StarView),
    *async_base.both("job-groups/<str:group_id>/outputs.zip", pictures.ZipView),
    *_both("failures", failures.FailuresView),
    *_both("failures/jobs", failures.FailedJobsView),
    *_both("seeds", pictures.SeedsView),
    *_both("workflow-from-png", pictures.WorkflowFromPngView),
    *_both("backends/test", probes.BackendTestView, backend_id="test"),
    *_both("backends/find", probes.BackendFindView, backend_id="find"),
    *_both("backends/found", found.FoundListView),
    *_both("backends/found/add", found.FoundAddView),
    *_both("backends/found/ignore", found.FoundIgnoreView, ignored=True),
    *_both("backends/found/unignore", found.FoundIgnoreView, ignored=False),
    *_both("backends", backends.BackendListView),
    *_both("backends/<str:backend_id>", backends.BackendView),
    *_both("backends/<str:backend_id>/status", backends.BackendStatusView),
    *_both("backends/<str:backend_id>/pause", holds.BackendHoldView, hold="pause"),
    *_both("backends/<str:backend_id>/drain", holds.BackendHoldView, hold="drain"),
    *_both("backends/<str:backend_id>/resume", holds.BackendResumeView),
    *_both("backends/<str:backend_id>/quarantine", holds.BackendQuarantineView),
    *_both("backends/<str:backend_id>/release", holds.BackendReleaseView),
]
