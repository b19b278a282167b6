"""Reads files and settings of users of ComfyUI's editor."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from django.db.models import Count, Sum

from jobgroups.domain.listener_files import USER
from jobgroups.models import EditorSetting, InputFile


@dataclass(slots=True)
class Kept:
    """What an owner has at the ComfyUI listener.

    Attributes:
        files, size_bytes: saved in the editor.
        uploads: names in ComfyUI's other folders.
        settings: of the editor.
    """

    files: int = 0
    size_bytes: int = 0
    uploads: int = 0
    settings: int = 0


def kept_by_owner() -> dict[str, Kept]:
    """Return what each owner has, by owner."""
    kept: dict[str, Kept] = {}
    names = InputFile.objects.order_by("owner").values_list("owner", "folder")
    for owner, folder, count, size in names.annotate(Count("id"), Sum("asset__size_bytes")):
        of_owner = kept.setdefault(owner, Kept())
        if folder == USER:
            of_owner.files, of_owner.size_bytes = count, size
        else:
            of_owner.uploads += count
    settings = EditorSetting.objects.order_by("owner").values_list("owner")
    for owner, count in settings.annotate(Count("id")):
        kept.setdefault(owner, Kept()).settings = count
    return kept


def files_of(owner: str) -> Iterable[InputFile]:
    """Return all files that an owner has, saved or uploaded."""
    return InputFile.objects.filter(owner=owner).select_related("asset").order_by("folder", "path")


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
