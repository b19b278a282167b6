"""ComfyUI's own editor, from the package that an operator has installed beside the Director.

The package is another work (GPL-3): it is no part of ours, and without it the first page says how
to get it.
"""

import re
from functools import cache
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, cast

from django.conf import settings
from django.core.exceptions import SuspiciousFileOperation
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.http.request import split_domain_port
from django.http.response import HttpResponseBase
from django.utils.http import urlencode
from django.views.static import serve
from rest_framework.request import Request

from backends.node_classes import node_class
from jobgroups.api.listener.base import ListenerView, not_found
from jobgroups.api.listener.nodes import farm_nodes
from jobgroups.api.listener.owner import owner_of
from jobgroups.api.views.base import json_response
from jobgroups.database.pools import machine_threads
from jobgroups.domain.media_types import GUARD_HEADERS
from jobgroups.queries.editor_workflows import editor_workflow
from jobgroups.queries.input_files import uploaded_names
from jobgroups.queries.listener_prompts import group_of_prompt
from jobgroups.workflow.to_editor import to_editor

_PACKAGE: Final = "comfyui_frontend_package"
_TEMPLATES: Final = "comfyui_workflow_templates_json"
#: The source of templates that are workflows of groups.
SOURCE: Final = "director"
_MISSING: Final = """<!doctype html><html lang="en"><meta charset="utf-8">
<title>The ComfyUI listener of the Director</title>
<h1>This is the ComfyUI listener of the Director</h1>
<p>Programs of ComfyUI use this address as that of one ComfyUI. ComfyUI's own editor is not
installed here. To have it at this address, its operator installs the extra
<code>editor</code> of the Director, or the package <code>comfyui-frontend-package</code>, into the
Director's environment, and starts the Director again.</p></html>
"""
#: The editor executes scripts that it makes, and so its pages need more than the Director's own.
_POLICY: Final = "frame-ancestors 'none'; object-src 'none'; base-uri 'self'"
#: Files of these folders have the hash of their content in their names.
_HASHED: Final = re.compile(r"assets/.+-[A-Za-z0-9_-]{8}\.\w+")
_IMMUTABLE: Final = "public, max-age=31536000, immutable"


@cache
def _folder(package: str, name: str) -> Path | None:
    """Return a folder of an installed package; None: it is not installed."""
    if find_spec(package) is None:
        return None
    return Path(str(files(package).joinpath(name)))


def _file(request: Request, package: str, folder: str, path: str) -> HttpResponseBase:
    root = _folder(package, folder)
    if root is None:
        return not_found(path)
    try:
        response = serve(cast(HttpRequest, request), path, document_root=str(root))
    except (Http404, SuspiciousFileOperation, OSError):  # of a name that is too long
        return not_found(path)
    is_hashed = _HASHED.fullmatch(path) is not None
    response.headers["Cache-Control"] = _IMMUTABLE if is_hashed else "no-cache"
    return response


def editor_url(request: HttpRequest, group_id: str) -> str | None:
    """Return the address at which the editor opens the workflow of a group, from a request to the
    Director's own port; None: this Director has no editor.
    """
    port = settings.DIRECTOR_COMFYUI_PORT
    if not port or _folder(_PACKAGE, "static") is None:
        return None
    base = settings.DIRECTOR_COMFYUI_URL or _at_port(request, port)
    return f"{base}/?{urlencode({'template': group_id, 'source': SOURCE})}"


def _at_port(request: HttpRequest | Request, port: int) -> str:
    return f"{request.scheme}://{split_domain_port(request.get_host())[0]}:{port}"


class DirectorView(ListenerView):
    """The pages of the Director: the list of groups, or the page of a prompt's group."""

    def get(self, request: Request, prompt_id: str = "") -> HttpResponse:
        base = settings.DIRECTOR_PUBLIC_URL or _at_port(request, settings.DIRECTOR_PORT)
        group_id = group_of_prompt(owner_of(request), prompt_id) if prompt_id else None
        return HttpResponseRedirect(f"{base}/groups/{group_id}" if group_id else f"{base}/")


class OwnExtensionView(ListenerView):
    """The Director's own extension of the editor."""

    def get(self, _request: Request) -> HttpResponse:
        script = files("director").joinpath("static/director/editor.js").read_bytes()
        return HttpResponse(script, content_type="text/javascript", headers=GUARD_HEADERS)


class EditorView(ListenerView):
    """The editor's page at ``/``, and its files at all paths that no other route has."""

    def get(self, request: Request, path: str = "") -> HttpResponseBase:
        if not path and _folder(_PACKAGE, "static") is None:
            return HttpResponse(_MISSING)
        response = _file(request, _PACKAGE, "static", path or "index.html")
        if response.headers.get("Content-Type", "").startswith("text/html"):
            response.headers["Content-Security-Policy"] = _POLICY
        return response

    def post(self, _request: Request, **_: Any) -> HttpResponse:
        return not_found()

    put = patch = delete = post


#: In the place of a template's picture.
_NO_PICTURE: Final = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 4 3">'
    '<path fill="#888" fill-opacity=".3" d="M0 0h4v3H0z"/></svg>'
)


class TemplateView(ListenerView):
    """A workflow template of ComfyUI, of which the package has no pictures."""

    def get(self, request: Request, path: str) -> HttpResponseBase:
        if path.endswith((".webp", ".png", ".jpg")):
            # The editor logs an error for each picture that is not there.
            return HttpResponse(_NO_PICTURE, content_type="image/svg+xml", headers=GUARD_HEADERS)
        return _file(request, _TEMPLATES, "templates", path)


class GroupTemplateView(ListenerView):
    """The workflow of a group of the Director, which the editor opens as a template."""

    reads_in = machine_threads  # It may wait for machines.

    def get(self, _request: Request, group_id: str) -> HttpResponse:
        workflow, graph = editor_workflow(group_id)
        if workflow is None:
            described = farm_nodes().classes
            wanted = {node["class_type"] for node in graph.values()} & described.keys()
            workflow = to_editor(
                graph, {name: node_class(described[name].value) for name in wanted}
            )
        return json_response(workflow)


class EmptyObjectView(ListenerView):
    """An empty object: the farm has no translations, templates and subgraphs of custom nodes."""

    def get(self, _request: Request) -> HttpResponse:
        return json_response({})


class LogsView(ListenerView):
    """The log of ComfyUI's process, of which the farm has several and shows none."""

    def get(self, _request: Request) -> HttpResponse:
        return json_response({"entries": [], "size": {"cols": 80, "rows": 24}})

    def patch(self, _request: Request) -> HttpResponse:
        """Accept a subscription to new lines, of which there are none."""
        return HttpResponse()


class FolderView(ListenerView):
    """The names of files in a folder; in the input folder those that the owner uploaded."""

    def get(self, request: Request, folder: str) -> HttpResponse:
        return json_response(uploaded_names(owner_of(request)) if folder == "input" else [])
