"""Every path under ``/api/v2/``, each also with a slash at its end."""

from jobgroups.api.urls import with_optional_slash
from jobgroups.api.v2 import assets, jobs

urlpatterns = [
    *with_optional_slash("assets", assets.UploadView),
    *with_optional_slash("assets/from-hash", assets.FromHashView),
    *with_optional_slash("assets/by-hash/<str:asset_hash>", assets.ByHashView),
    *with_optional_slash("assets/<str:asset_id>", assets.AssetView),
    *with_optional_slash("assets/<str:asset_id>/content", assets.ContentView),
    *with_optional_slash("jobs", jobs.JobListView),
    *with_optional_slash("jobs/<str:job_id>", jobs.JobView),
    *with_optional_slash("jobs/<str:job_id>/workflow", jobs.JobWorkflowView),
    *with_optional_slash("jobs/<str:job_id>/events", jobs.JobEventsView),
    *with_optional_slash("jobs/<str:job_id>/cancel", jobs.JobCancelView),
]
