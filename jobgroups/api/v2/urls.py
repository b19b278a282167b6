"""Every path under ``/api/v2/``, each also with a slash at its end."""

from jobgroups.api.urls import Views, with_optional_slash
from jobgroups.api.v2 import assets, jobs

_views: Views = {
    "assets": assets.UploadView,
    "assets/from-hash": assets.FromHashView,
    "assets/by-hash/<str:asset_hash>": assets.ByHashView,
    "assets/<str:asset_id>": assets.AssetView,
    "assets/<str:asset_id>/content": assets.ContentView,
    "jobs": jobs.JobListView,
    "jobs/<str:job_id>": jobs.JobView,
    "jobs/<str:job_id>/workflow": jobs.JobWorkflowView,
    "jobs/<str:job_id>/events": jobs.JobEventsView,
    "jobs/<str:job_id>/cancel": jobs.JobCancelView,
}
urlpatterns = with_optional_slash(_views)
