"""Reads the files that programs put at the ComfyUI listener, by their names."""

from collections.abc import Iterable
from pathlib import PurePosixPath
from typing import Final

from jobgroups.domain.access import Principal
from jobgroups.domain.listener_files import IMAGES, is_of_job, split_subfolder
from jobgroups.models import Asset, ChildJob, InputFile, ListenerPrompt
from jobgroups.queries.outputs import OutputFile, job_file, reported_image
from jobgroups.queries.visibility import visible_assets
from jobgroups.workflow.assets import SUBFOLDER

_MAX_NAMES: Final = 2_000  #: Of the names in the choices of a node; the newest ones.
_MAX_PROMPTS: Final = 200  #: Whose results are searched for an image.
_AT_ONCE: Final = 500  #: Paths of one statement.


def uploaded_names(owner: str) -> list[str]:
    """Return the names of the files that an owner uploaded into the input folder, in their order:
    choices of nodes that load files.
    """
    rows = InputFile.objects.filter(owner=owner, folder="input").order_by("-id")
    return sorted(rows.values_list("path", flat=True)[:_MAX_NAMES])


def input_file(owner: str, folder: str, path: str) -> Asset | None:
    """Return the content of a file by its name; None: the owner has no such file."""
    rows = InputFile.objects.filter(owner=owner, folder=folder, path=path)
    row = rows.select_related("asset").first()
    return None if row is None else row.asset


def farm_file(principal: Principal, folder: str, path: str) -> Asset | None:
    """Return an asset that a principal sees, by the name that its file has at the machines; None:
    there is none. Workflows of jobs have such names.
    """
    name = PurePosixPath(path)
    if folder != "input" or str(name.parent) != SUBFOLDER:
        return None
    return Asset.objects.filter(visible_assets(principal), hash=name.stem).first()


def named_file(owner: str, folder: str, path: str) -> tuple[Asset | OutputFile | None, bool]:
    """Return an owner's file by the name that the ComfyUI listener gave it: uploaded, or made by a
    job; and whether the job may still report it.
    """
    content = input_file(owner, folder, path)
    if content is not None or not is_of_job(path):
        return content, False
    job_id, at_backend = split_subfolder(path)
    subfolder, _, filename = at_backend.rpartition("/")
    children = ChildJob.objects.filter(group__listener_prompt__owner=owner)
    item = {"filename": filename, "subfolder": subfolder, "type": folder}
    return job_file(children, job_id, item)


def kept_image(owner: str, image_id: str) -> tuple[Asset | OutputFile | None, bool]:
    """Return an image of Krita's nodes by its id: one that the owner has put, or a result of one of
    the newest prompts; and whether a prompt may still report it.
    """
    content = input_file(owner, IMAGES, image_id)
    if content is not None:
        return content, False
    newest = ListenerPrompt.objects.filter(owner=owner).order_by("-id")[:_MAX_PROMPTS]
    groups = list(newest.values_list("group_id", flat=True))
    return reported_image(ChildJob.objects.filter(group__in=groups), image_id)


def asset_ids(owner: str, files: Iterable[tuple[str, str]]) -> dict[tuple[str, str], str]:
    """Return the ids of the assets of those of some files, each a folder and a path, that an owner
    has.
    """
    wanted = set(files)
    paths = sorted({path for _, path in wanted})
    found: dict[tuple[str, str], str] = {}
    for first in range(0, len(paths), _AT_ONCE):
        rows = InputFile.objects.filter(owner=owner, path__in=paths[first : first + _AT_ONCE])
        found |= {
            (folder, path): asset_id
            for folder, path, asset_id in rows.values_list("folder", "path", "asset_id")
        }
    return {file: asset_id for file, asset_id in found.items() if file in wanted}
