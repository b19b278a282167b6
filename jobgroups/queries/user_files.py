"""Reads files and settings of users of ComfyUI's editor."""

import json
from typing import Any

from jobgroups.domain.listener_files import USER
from jobgroups.models import EditorSetting, InputFile


def user_files(owner: str, folder: str) -> list[InputFile]:
    """Return the files of a user in a folder and below it, by their paths; an empty folder has all."""
    rows = InputFile.objects.filter(owner=owner, folder=USER)
    if folder:
        rows = rows.filter(path__startswith=f"{folder}/")
    return list(rows.select_related("asset").order_by("path"))


def user_file(owner: str, path: str) -> InputFile | None:
    """Return a file of a user; None: there is none with the path."""
    rows = InputFile.objects.filter(owner=owner, folder=USER, path=path)
    return rows.select_related("asset").first()


def editor_settings(owner: str) -> dict[str, Any]:
    """Return the settings of a user by their names."""
    rows = EditorSetting.objects.filter(owner=owner).order_by("name")
    return {name: json.loads(value) for name, value in rows.values_list("name", "value_json")}
