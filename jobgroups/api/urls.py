"""Every path under ``/api/``, each also with a slash at its end."""

from __future__ import annotations

from django.urls import URLPattern, path
from rest_framework.views import APIView

from jobgroups.api import backend_views, views


def _both(route: str, view: type[APIView]) -> list[URLPattern]:
    """Serve a path with and without a slash at its end: a redirect would lose a POST's body."""
    return [path(route, view.as_view()), path(f"{route}/", view.as_view())]


urlpatterns = [
    *_both("job-group", views.SubmitView),
    *_both("job-groups", views.GroupListView),
    *_both("job-groups/<str:group_id>", views.GroupView),
    *_both("job-groups/<str:group_id>/workflow", views.WorkflowView),
    *_both("job-groups/<str:group_id>/events", views.EventsView),
    *_both("job-groups/<str:group_id>/jobs/<str:job_id>", views.JobView),
    *_both("backends", backend_views.BackendListView),
    *_both("backends/<str:backend_id>", backend_views.BackendView),
    *_both("backends/<str:backend_id>/status", backend_views.BackendStatusView),
]
