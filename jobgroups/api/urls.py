"""Every path under ``/api/``, each also with a slash at its end."""

from django.urls import URLPattern, path
from rest_framework.views import APIView

from jobgroups.api.views import (
    assets,
    backends,
    exclusions,
    failures,
    found,
    groups,
    holds,
    outputs,
    pictures,
    probes,
    provenance,
    retries,
)
from jobgroups.api.views.async_base import AsyncApiView


def with_optional_slash(route: str, view: type[APIView | AsyncApiView], **arguments: object) -> list[URLPattern]:
    """Serve a path with and without a slash at its end: a redirect would lose the body of a POST."""
    handler = view.as_view()
    return [path(route, handler, arguments), path(f"{route}/", handler, arguments)]


urlpatterns = [
    *with_optional_slash("job-group", groups.SubmitView),
    *with_optional_slash("job-groups", groups.GroupListView),
    *with_optional_slash("job-groups/<str:group_id>", groups.GroupView),
    *with_optional_slash("job-groups/<str:group_id>/workflow", groups.WorkflowView),
    *with_optional_slash("job-groups/<str:group_id>/events", groups.EventsView),
    *with_optional_slash("job-groups/<str:group_id>/retry", retries.GroupRetryView),
    *with_optional_slash("job-groups/<str:group_id>/jobs/<str:job_id>", groups.JobView),
    *with_optional_slash("job-groups/<str:group_id>/jobs/<str:job_id>/provenance.json", provenance.ProvenanceView),
    *with_optional_slash("job-groups/<str:group_id>/jobs/<str:job_id>/retry", retries.JobRetryView),
    *with_optional_slash("job-groups/<str:group_id>/jobs/<str:job_id>/move", retries.JobMoveView),
    *with_optional_slash("job-groups/<str:group_id>/jobs/<str:job_id>/outputs/<str:number>", outputs.OutputView),
    *with_optional_slash("job-groups/<str:group_id>/jobs/<str:job_id>/star", pictures.StarView),
    *with_optional_slash("job-groups/<str:group_id>/outputs.zip", pictures.ZipView),
    *with_optional_slash("provenance", provenance.ProvenanceSearchView),
    *with_optional_slash("failures", failures.FailuresView),
    *with_optional_slash("failures/jobs", failures.FailedJobsView),
    *with_optional_slash("seeds", pictures.SeedsView),
    *with_optional_slash("workflows/check", groups.CheckView),
    *with_optional_slash("workflow-from-png", pictures.WorkflowFromPngView),
    *with_optional_slash("assets", assets.AssetListView),
    *with_optional_slash("assets/by-hash/<str:asset_hash>", assets.AssetByHashView),
    *with_optional_slash("assets/<str:asset_id>", assets.AssetView),
    *with_optional_slash("assets/<str:asset_id>/content", assets.AssetContentView),
    *with_optional_slash("backends/test", probes.BackendTestView, backend_id="test"),
    *with_optional_slash("backends/find", probes.BackendFindView, backend_id="find"),
    *with_optional_slash("backends/found", found.FoundListView),
    *with_optional_slash("backends/found/add", found.FoundAddView),
    *with_optional_slash("backends/found/ignore", found.FoundIgnoreView, ignored=True),
    *with_optional_slash("backends/found/unignore", found.FoundIgnoreView, ignored=False),
    *with_optional_slash("backends", backends.BackendListView),
    *with_optional_slash("backends/<str:backend_id>", backends.BackendView),
    *with_optional_slash("backends/<str:backend_id>/status", backends.BackendStatusView),
    *with_optional_slash("backends/<str:backend_id>/pause", holds.HoldView, action="pause"),
    *with_optional_slash("backends/<str:backend_id>/drain", holds.HoldView, action="drain"),
    *with_optional_slash("backends/<str:backend_id>/resume", holds.HoldView, action="resume"),
    *with_optional_slash("backends/<str:backend_id>/quarantine", holds.HoldView, action="quarantine"),
    *with_optional_slash("backends/<str:backend_id>/release", holds.HoldView, action="release"),
    *with_optional_slash("backends/<str:backend_id>/exclusions", exclusions.ExclusionsView),
    *with_optional_slash("backends/<str:backend_id>/exclusions/<str:exclusion_id>", exclusions.ExclusionView),
]
