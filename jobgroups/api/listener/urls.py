"""Every path of the ComfyUI listener: most of them bare and below ``/api/``, as ComfyUI has them.

The last route takes every other path.
"""

from django.urls import path, re_path, register_converter

from jobgroups.api.listener import (
    editor,
    extensions,
    files,
    history,
    images,
    jobs,
    machine,
    node_routes,
    nodes,
    prompts,
    queue,
    user_files,
)
from jobgroups.api.listener.base import UnknownPathView
from jobgroups.api.urls import Views, with_optional_slash

register_converter(node_routes.NodeRoute, "node_route")

#: Bare and below ``/api/``.
_both: Views = {
    "prompt": prompts.PromptView,
    "queue": queue.QueueView,
    "interrupt": queue.InterruptView,
    "history": history.HistoryView,
    "view": files.ViewView,
    "upload/image": files.UploadImageView,
    "upload/mask": files.UploadMaskView,
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
#: For ComfyUI's editor; likewise.
_of_editor: Views = {
    "users": user_files.UsersView,
    "userdata": user_files.UserFilesView,
    "v2/userdata": user_files.UserTreeView,
    "userdata/<path:file>": user_files.UserFileView,
    "settings": user_files.SettingsView,
    "settings/<str:setting>": user_files.SettingView,
    "director": editor.DirectorView,
    "director/<str:prompt_id>": editor.DirectorView,
    "extensions": extensions.ExtensionsView,
    extensions.OWN: editor.OwnExtensionView,
    "extensions/<path:path>": extensions.ExtensionFileView,
    "i18n": editor.EmptyObjectView,
    "workflow_templates": editor.EmptyObjectView,
    f"workflow_templates/{editor.SOURCE}/<str:group_id>.json": editor.GroupTemplateView,
    "global_subgraphs": editor.EmptyObjectView,
    "node_replacements": editor.EmptyObjectView,
    "templates/<path:path>": editor.TemplateView,
    "internal/logs": editor.LogsView,
    "internal/logs/raw": editor.LogsView,
    "internal/logs/subscribe": editor.LogsView,
    "internal/folder_paths": editor.EmptyObjectView,
    "internal/files/<str:folder>": editor.FolderView,
}
#: Only below ``/api/``.
_api: Views = {
    "etn/image/<str:image_id>": images.ImageView,
    "etn/model_info": images.ModelInfoView,
    "etn/model_info/<str:folder>": images.ModelInfoView,
    "etn/languages": images.LanguagesView,
    "etn/translate/<str:language>/<path:text>": images.TranslationView,
    "etn/workflow/subscribe": images.SubscriptionView,
    "etn/workflow/unsubscribe": images.SubscriptionView,
    "etn/upload/<str:folder>/<path:name>": images.ModelUploadView,
    "jobs": jobs.JobsView,
    "jobs/cancel": jobs.JobsCancelView,
    "jobs/<str:prompt_id>": jobs.JobView,
    "jobs/<str:prompt_id>/cancel": jobs.JobCancelView,
}

urlpatterns = [
    *with_optional_slash({**_both, **_of_editor}),
    *with_optional_slash(
        {f"api/{route}": view for route, view in {**_both, **_of_editor, **_api}.items()}
    ),
    path("<node_route:path>", node_routes.NodeRouteView.as_view()),
    path("api/<path:path>", UnknownPathView.as_view()),
    path("", editor.EditorView.as_view()),
    path("<path:path>", editor.EditorView.as_view()),
    re_path(r"", UnknownPathView.as_view()),
]
