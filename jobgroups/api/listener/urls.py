"""Every path of the ComfyUI listener: most of them bare and below ``/api/``, as ComfyUI has them.

The last route takes every other path.
"""

from django.urls import path, re_path

from jobgroups.api.listener import history, jobs, machine, nodes, prompts, queue
from jobgroups.api.listener.base import UnknownPathView
from jobgroups.api.urls import Views, with_optional_slash

#: Bare and below ``/api/``.
_both: Views = {
    "prompt": prompts.PromptView,
    "queue": queue.QueueView,
    "interrupt": queue.InterruptView,
    "history": history.HistoryView,
    "history/<str:prompt_id>": history.HistoryEntryView,
    "system_stats": machine.SystemStatsView,
    "features": machine.FeaturesView,
    "free": machine.FreeView,
    "object_info": nodes.ObjectInfoView,
    "object_info/<path:class_type>": nodes.ObjectInfoView,
    "embeddings": nodes.EmbeddingsView,
    "models": nodes.ModelsView,
    "models/<str:folder>": nodes.ModelsView,
    "experiment/models": nodes.ModelFilesView,
    "experiment/models/<str:folder>": nodes.ModelFilesView,
}
#: Only below ``/api/``.
_api: Views = {
    "jobs": jobs.JobsView,
    "jobs/cancel": jobs.JobsCancelView,
    "jobs/<str:prompt_id>": jobs.JobView,
    "jobs/<str:prompt_id>/cancel": jobs.JobCancelView,
}

urlpatterns = [
    *with_optional_slash(_both),
    *with_optional_slash({f"api/{route}": view for route, view in {**_both, **_api}.items()}),
    path("", UnknownPathView.as_view()),
    re_path(r"", UnknownPathView.as_view()),
]
