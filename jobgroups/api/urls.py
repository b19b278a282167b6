"""Every path under ``/api/``, each also with a slash at its end."""

from django.urls import URLPattern, path

from jobgroups.api.views import assets, backends, failures, groups, outputs, retries, usage, webhooks
from jobgroups.api.views.base import ApiView


def with_optional_slash(route: str, view: type[ApiView], **arguments: object) -> list[URLPattern]:
    """Serve a path with and without a slash at its end: a redirect would lose the body of a POST."""
    handler = view.as_view()
    return [path(route, handler, arguments), path(f"{route}/", handler, arguments)]


urlpatterns = [
    *with_optional_slash("job-group", groups.SubmitView),
    *with_optional_slash("job-groups", groups.GroupListView),
    *with_optional_slash("job-groups/plan", groups.PlanView),
    *with_optional_slash("job-groups/<str:group_id>", groups.GroupView),
    *with_optional_slash("job-groups/<str:group_id>/workflow", groups.WorkflowView),
    *with_optional_slash("job-groups/<str:group_id>/events", groups.EventsView),
    *with_optional_slash("job-groups/<str:group_id>/events/stream", groups.EventStreamView),
    *with_optional_slash("job-groups/<str:group_id>/delete", groups.DeletionView),
    *with_optional_slash("job-groups/<str:group_id>/retry", retries.GroupRetryView),
    *with_optional_slash("job-groups/<str:group_id>/jobs/<str:job_id>", groups.JobView),
    *with_optional_slash("job-groups/<str:group_id>/jobs/<str:job_id>/provenance.json", outputs.ProvenanceView),
    *with_optional_slash("job-groups/<str:group_id>/jobs/<str:job_id>/retry", retries.JobRetryView),
    *with_optional_slash("job-groups/<str:group_id>/jobs/<str:job_id>/move", retries.JobMoveView),
    *with_optional_slash("job-groups/<str:group_id>/jobs/<str:job_id>/outputs/<str:number>", outputs.OutputView),
    *with_optional_slash("job-groups/<str:group_id>/jobs/<str:job_id>/star", outputs.StarView),
    *with_optional_slash("job-groups/<str:group_id>/outputs.zip", outputs.ZipView),
    *with_optional_slash("job-groups/<str:group_id>/sheet.webp", outputs.SheetView),
    *with_optional_slash("provenance", outputs.ProvenanceSearchView),
    *with_optional_slash("failures", failures.FailuresView),
    *with_optional_slash("failures/jobs", failures.FailedJobsView),
    *with_optional_slash("usage", usage.UsageView),
    *with_optional_slash("seeds", outputs.SeedsView),
    *with_optional_slash("workflows/check", groups.CheckView),
    *with_optional_slash("workflows/convert", groups.ConvertView),
    *with_optional_slash("workflow-from-png", outputs.WorkflowFromPngView),
    *with_optional_slash("assets", assets.AssetListView),
    *with_optional_slash("assets/by-hash/<str:asset_hash>", assets.AssetByHashView),
    *with_optional_slash("assets/<str:asset_id>", assets.AssetView),
    *with_optional_slash("assets/<str:asset_id>/content", assets.AssetContentView),
    *with_optional_slash("webhooks/deliveries", webhooks.DeliveryListView),
    *with_optional_slash("webhooks/deliveries/<str:delivery_id>/replay", webhooks.ReplayView),
    *with_optional_slash("webhooks/test", webhooks.WebhookTestView),
    *with_optional_slash("backends/test", backends.BackendTestView, backend_id="test"),
    *with_optional_slash("backends/find", backends.BackendFindView, backend_id="find"),
    *with_optional_slash("backends/found", backends.FoundListView),
    *with_optional_slash("backends/found/add", backends.FoundAddView),
    *with_optional_slash("backends/found/ignore", backends.FoundIgnoreView, ignored=True),
    *with_optional_slash("backends/found/unignore", backends.FoundIgnoreView, ignored=False),
    *with_optional_slash("backends", backends.BackendListView),
    *with_optional_slash("backends/<str:backend_id>", backends.BackendView),
    *with_optional_slash("backends/<str:backend_id>/status", backends.BackendStatusView),
    *with_optional_slash("backends/<str:backend_id>/pause", backends.HoldView, action="pause"),
    *with_optional_slash("backends/<str:backend_id>/drain", backends.HoldView, action="drain"),
    *with_optional_slash("backends/<str:backend_id>/resume", backends.HoldView, action="resume"),
    *with_optional_slash("backends/<str:backend_id>/quarantine", backends.HoldView, action="quarantine"),
    *with_optional_slash("backends/<str:backend_id>/release", backends.HoldView, action="release"),
    *with_optional_slash("backends/<str:backend_id>/exclusions", backends.ExclusionsView),
    *with_optional_slash("backends/<str:backend_id>/exclusions/<str:exclusion_id>", backends.ExclusionView),
]
