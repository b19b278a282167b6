"""Files and settings of a user of ComfyUI's editor: ``/users``, ``/userdata``, ``/settings``."""

import re
from typing import Any, Final
from urllib.parse import unquote

from django.http import HttpResponse
from rest_framework.request import Request

from jobgroups.api.listener.base import ListenerView, body_of, not_found
from jobgroups.api.listener.owner import owner_of
from jobgroups.api.permissions import principal_of
from jobgroups.api.requests.body import PayloadTooLarge, parse_value
from jobgroups.api.views.base import json_response
from jobgroups.domain.listener_files import file_path
from jobgroups.errors import UserPathInvalid
from jobgroups.models import InputFile
from jobgroups.queries.user_files import editor_settings, user_file, user_files
from jobgroups.services.stored_files import read_file
from jobgroups.services.user_files import (
    MAX_FILE_BYTES,
    settings_change,
    user_file_delete,
    user_file_move,
    user_file_store,
)

#: The paths of a move, whose names may have slashes that were encoded.
_MOVE: Final = re.compile(r"/(?:api/)?userdata/([^/]+)/move/([^/]+)/?")
#: A style sheet of the user's own, which the editor loads.
_USER_CSS: Final = "user.css"
_MAX_NAME: Final = 200  #: Characters of a setting's name.


class UsersView(ListenerView):
    def get(self, _request: Request) -> HttpResponse:
        """Return that the settings are stored here, those of the owner of the request."""
        return json_response({"storage": "server", "migrated": True})


def _checked(path: str) -> str:
    checked = file_path("", path)
    if checked is None:
        raise UserPathInvalid(path[:100])
    return checked


def _info(row: InputFile, folder: str = "") -> dict[str, Any]:
    milliseconds = int(row.created_at.timestamp() * 1000)
    return {
        "path": row.path.removeprefix(f"{folder}/"),
        "size": row.asset.size_bytes,
        "modified": milliseconds,
        "created": milliseconds,
    }


def _is_set(request: Request, name: str, default: str = "false") -> bool:
    return bool(request.GET.get(name, default).lower() == "true")


def _stored(request: Request, row: InputFile) -> HttpResponse:
    return json_response(_info(row) if _is_set(request, "full_info") else row.path)


class UserFilesView(ListenerView):
    def get(self, request: Request) -> HttpResponse:
        """List the files of a folder."""
        if not request.GET.get("dir"):
            return HttpResponse("Directory not provided", status=400)
        folder = _checked(request.GET["dir"])
        rows = user_files(owner_of(request), folder)
        if not rows:
            return HttpResponse("Directory not found", status=404)
        if not _is_set(request, "recurse"):
            rows = [row for row in rows if "/" not in row.path.removeprefix(f"{folder}/")]
        infos = [_info(row, folder) for row in rows]
        if _is_set(request, "full_info"):
            return json_response(infos)
        paths = [info["path"] for info in infos]
        if _is_set(request, "split"):
            return json_response([[path, *path.split("/")] for path in paths])
        return json_response(paths)


class UserTreeView(ListenerView):
    def get(self, request: Request) -> HttpResponse:
        """List the files and the folders below a folder; the folders come first."""
        folder = _checked(request.GET["path"]) if request.GET.get("path") else ""
        rows = user_files(owner_of(request), folder)
        if folder and not rows:
            return HttpResponse("Requested path not found", status=404)
        parents = set[str]()
        for row in rows:
            parts = row.path.split("/")[:-1]
            parents |= {"/".join(parts[:depth]) for depth in range(1, len(parts) + 1)}
        parents = {path for path in parents if path != folder and path.startswith(folder)}
        entries: list[dict[str, Any]] = [
            {"name": path.rpartition("/")[2], "path": path, "type": "directory"} for path in parents
        ]
        entries += [
            {
                "name": row.path.rpartition("/")[2],
                "path": row.path,
                "type": "file",
                "size": row.asset.size_bytes,
                "modified": row.created_at.timestamp(),
            }
            for row in rows
        ]
        entries.sort(key=lambda entry: (entry["type"] != "directory", entry["name"].lower()))
        return json_response(entries)


class UserFileView(ListenerView):
    def get(self, request: Request, file: str) -> HttpResponse:
        """Return a file, never to be shown as a page of this address."""
        path = _checked(file)
        row = user_file(owner_of(request), path)
        if row is None:
            return not_found(path)
        content = read_file(row.asset.stored_name, 0, row.asset.size_bytes)
        is_style = path == _USER_CSS
        return HttpResponse(
            content,
            content_type="text/css" if is_style else "application/octet-stream",
            headers={"Content-Disposition": "inline" if is_style else "attachment"},
        )

    def post(self, request: Request, file: str) -> HttpResponse:
        """Store a file, or move one: both paths begin alike."""
        owner, overwrite = owner_of(request), _is_set(request, "overwrite", "true")
        raw = getattr(request, "scope", {}).get("raw_path", b"").decode("latin-1")
        if moved := _MOVE.fullmatch(raw.partition("?")[0]):
            path, to = (_checked(unquote(part)) for part in moved.groups())
            row = user_file_move(owner=owner, path=path, to=to, overwrite=overwrite)
            return _stored(request, row)
        content = request.read(MAX_FILE_BYTES + 1)
        if len(content) > MAX_FILE_BYTES:
            raise PayloadTooLarge(MAX_FILE_BYTES)
        row = user_file_store(
            content,
            owner=owner,
            owner_id=principal_of(request).user_id,
            path=_checked(file),
            overwrite=overwrite,
        )
        return _stored(request, row)

    def delete(self, request: Request, file: str) -> HttpResponse:
        """Delete a file."""
        user_file_delete(owner=owner_of(request), path=_checked(file))
        return HttpResponse(status=204)


class SettingsView(ListenerView):
    def get(self, request: Request) -> HttpResponse:
        """Return the settings of the user."""
        return json_response(editor_settings(owner_of(request)))

    def post(self, request: Request) -> HttpResponse:
        """Store some settings of the user."""
        settings_change(
            owner=owner_of(request),
            values={name[:_MAX_NAME]: value for name, value in body_of(request).items()},
        )
        return HttpResponse()


class SettingView(ListenerView):
    def get(self, request: Request, setting: str) -> HttpResponse:
        """Return one setting; null: it is not set."""
        return json_response(editor_settings(owner_of(request)).get(setting))

    def post(self, request: Request, setting: str) -> HttpResponse:
        """Store one setting, of which the body is the value."""
        value = parse_value(request.read(MAX_FILE_BYTES + 1))
        settings_change(owner=owner_of(request), values={setting[:_MAX_NAME]: value})
        return HttpResponse()
