"""Every path under ``/api/``, each also with a slash at its end."""

from collections.abc import Mapping
from typing import TypeAlias

from django.urls import URLPattern, path

from jobgroups.api.views import (
    assets,
    audit,
    backends,
    failures,
    groups,
    outputs,
    queue,
    retries,
    submitters,
    usage,
    webhooks,
)
from jobgroups.api.views.base import ApiView

#: Views by path, some with arguments beside those of the path.
Views: TypeAlias = Mapping[str, type[ApiView] | tuple[type[ApiView], dict[str, object]]]


def with_optional_slash(views: Views) -> list[URLPattern]:
    """Serve paths with and without a slash at their ends: a redirect would lose the body of a POST."""
    routes = []
    for route, entry in views.items():
        view, arguments = entry if isinstance(entry, tuple) else (entry, {})
        handler = view.as_view()
        routes += [path(route, handler, arguments), path(f"{route}/", handler, arguments)]
    return routes


_views: Views = {
    "job-group": groups.SubmitView,
    "job-groups": groups.GroupListView,
    "job-groups/plan": groups.PlanView,
    "job-groups/cancel": groups.CancelView,
    "job-groups/<str:group_id>": groups.GroupView,
    "job-groups/<str:group_id>/workflow": groups.WorkflowView,
    "job-groups/<str:group_id>/events": groups.EventsView,
    "job-groups/<str:group_id>/events/stream": groups.EventStreamView,
    "job-groups/<str:group_id>/delete": groups.DeletionView,
    "job-groups/<str:group_id>/next": groups.NextView,
    "job-groups/<str:group_id>/pause": (groups.GroupPauseView, {"paused": True}),
    "job-groups/<str:group_id>/resume": (groups.GroupPauseView, {"paused": False}),
    "job-groups/<str:group_id>/retry": retries.GroupRetryView,
    "job-groups/<str:group_id>/jobs/<str:job_id>": groups.JobView,
    "job-groups/<str:group_id>/jobs/<str:job_id>/provenance.json": outputs.ProvenanceView,
    "job-groups/<str:group_id>/jobs/<str:job_id>/retry": retries.JobRetryView,
    "job-groups/<str:group_id>/jobs/<str:job_id>/move": retries.JobMoveView,
    "job-groups/<str:group_id>/jobs/<str:job_id>/outputs/<str:number>": outputs.OutputView,
    "job-groups/<str:group_id>/jobs/<str:job_id>/star": outputs.StarView,
    "job-groups/<str:group_id>/outputs.zip": outputs.ZipView,
    "job-groups/<str:group_id>/sheet.webp": outputs.SheetView,
    "outputs": outputs.OutputListView,
    "outputs.zip": outputs.ChosenZipView,
    "provenance": outputs.ProvenanceSearchView,
    "failures": failures.FailuresView,
    "failures/jobs": failures.FailedJobsView,
    "queue": queue.QueueView,
    "queue/pause": (groups.QueuePauseView, {"paused": True}),
    "queue/resume": (groups.QueuePauseView, {"paused": False}),
    "submitters/<path:name>": submitters.SubmitterView,
    "usage": usage.UsageView,
    "audit": audit.AuditView,
    "seeds": outputs.SeedsView,
    "workflows/check": groups.CheckView,
    "workflows/convert": groups.ConvertView,
    "workflow-from-png": outputs.WorkflowFromPngView,
    "assets": assets.AssetListView,
    "assets/by-hash/<str:asset_hash>": assets.AssetByHashView,
    "assets/<str:asset_id>": assets.AssetView,
    "assets/<str:asset_id>/content": assets.AssetContentView,
    "webhooks/deliveries": webhooks.DeliveryListView,
    "webhooks/deliveries/<str:delivery_id>/replay": webhooks.ReplayView,
    "webhooks/test": webhooks.WebhookTestView,
    "backends/test": (backends.BackendTestView, {"backend_id": "test"}),
    "backends/find": (backends.BackendFindView, {"backend_id": "find"}),
    "backends/found": backends.FoundListView,
    "backends/found/add": backends.FoundAddView,
    "backends/found/ignore": (backends.FoundIgnoreView, {"ignored": True}),
    "backends/found/unignore": (backends.FoundIgnoreView, {"ignored": False}),
    "backends": backends.BackendListView,
    "backends/<str:backend_id>": backends.BackendView,
    "backends/<str:backend_id>/status": backends.BackendStatusView,
    "backends/<str:backend_id>/pause": (backends.HoldView, {"action": "pause"}),
    "backends/<str:backend_id>/drain": (backends.HoldView, {"action": "drain"}),
    "backends/<str:backend_id>/resume": (backends.HoldView, {"action": "resume"}),
    "backends/<str:backend_id>/quarantine": (backends.HoldView, {"action": "quarantine"}),
    "backends/<str:backend_id>/release": (backends.HoldView, {"action": "release"}),
    "backends/<str:backend_id>/exclusions": backends.ExclusionsView,
    "backends/<str:backend_id>/exclusions/<str:exclusion_id>": backends.ExclusionView,
}
urlpatterns = with_optional_slash(_views)
