"""Every path under ``/api/``, each also with a slash at its end."""

from __future__ import annotations

from django.urls import URLPattern, path
from rest_framework.views import APIView

from jobgroups.api import (
    asynchronous,
    backend_views,
    failure_views,
    found_views,
    hold_views,
    picture_views,
    probe_views,
    retry_views,
    views,
)
from jobgroups.api.output_views import OutputView


def _both(route: str, view: type[APIView], **given: object) -> list[URLPattern]:
    """Serve a path with and without a slash at its end: a redirect would lose a POST's body.

    Args:
        given: what the view is called with besides what the path says.
    """
    served = view.as_view()
    return [path(route, served, given), path(f"{route}/", served, given)]


urlpatterns = [
    *_both("job-group", views.SubmitView),
    *_both("job-groups", views.GroupListView),
    *_both("job-groups/<str:group_id>", views.GroupView),
    *_both("job-groups/<str:group_id>/workflow", views.WorkflowView),
    *_both("job-groups/<str:group_id>/events", views.EventsView),
    *_both("job-groups/<str:group_id>/retry", retry_views.GroupRetryView),
    *_both("job-groups/<str:group_id>/jobs/<str:job_id>", views.JobView),
    *_both("job-groups/<str:group_id>/jobs/<str:job_id>/retry", retry_views.JobRetryView),
    *_both("job-groups/<str:group_id>/jobs/<str:job_id>/move", retry_views.JobMoveView),
    *asynchronous.both(
        "job-groups/<str:group_id>/jobs/<str:job_id>/outputs/<str:number>", OutputView
    ),
    *_both("job-groups/<str:group_id>/jobs/<str:job_id>/star", picture_views.StarView),
    *asynchronous.both("job-groups/<str:group_id>/outputs.zip", picture_views.ZipView),
    *_both("failures", failure_views.FailuresView),
    *_both("failures/jobs", failure_views.FailedJobsView),
    *_both("seeds", picture_views.SeedsView),
    *_both("workflow-from-png", picture_views.WorkflowFromPngView),
    *_both("backends/test", probe_views.BackendTestView, backend_id="test"),
    *_both("backends/find", probe_views.BackendFindView, backend_id="find"),
    *_both("backends/found", found_views.FoundListView, backend_id="found"),
    *_both("backends/found/add", found_views.FoundAddView),
    *_both("backends/found/ignore", found_views.FoundIgnoreView, ignored=True),
    *_both("backends/found/unignore", found_views.FoundIgnoreView, ignored=False),
    *_both("backends", backend_views.BackendListView),
    *_both("backends/<str:backend_id>", backend_views.BackendView),
    *_both("backends/<str:backend_id>/status", backend_views.BackendStatusView),
    *_both("backends/<str:backend_id>/pause", hold_views.BackendHoldView, hold="pause"),
    *_both("backends/<str:backend_id>/drain", hold_views.BackendHoldView, hold="drain"),
    *_both("backends/<str:backend_id>/resume", hold_views.BackendResumeView),
    *_both("backends/<str:backend_id>/quarantine", hold_views.BackendQuarantineView),
    *_both("backends/<str:backend_id>/release", hold_views.BackendReleaseView),
]
