"""Reads the files that programs put at the ComfyUI listener, by their names."""

from collections.abc import Iterable
from typing import Final

from jobgroups.models import Asset, InputFile

_MAX_NAMES: Final = 2_000  #: Of the names in the choices of a node; the newest ones.
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
