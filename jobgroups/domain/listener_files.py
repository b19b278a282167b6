"""File objects of the ComfyUI listener: their names are unique over all machines. Pure.

Names repeat on every machine (``ComfyUI_00001_.png`` on each), so the subfolder of a file begins
with the id of its job. Clients treat it as opaque, and join it with ``/``.
"""

import re
from collections.abc import Mapping
from typing import Any, Final

#: The folders of ComfyUI's files.
FOLDERS: Final = ("input", "output", "temp")
#: The folder of images that Krita puts before its prompts, by their ids.
IMAGES: Final = "etn"
#: The folder of the files of a user of ComfyUI's editor.
USER: Final = "user"
_MAX_PATH: Final = 400  #: Characters of ``InputFile.path``.
_MAX_NAME: Final = 255  #: Characters of one of its names.
_ANNOTATED: Final = re.compile(r"(.*?) ?\[(input|output|temp)\]", re.DOTALL)
#: The subfolder of a file of a job begins so.
_OF_JOB: Final = re.compile(r"j_[0-9a-f]{12}/")
UNPRINTABLE: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")


def account_owner(user_id: int) -> str:
    """Return the owner of what an account sends to the ComfyUI listener."""
    return f"account {user_id}"


def split_annotated(text: str) -> tuple[str, str]:
    """Return path and folder of a file as a workflow names it: ``name [output]``; of a plain name
    the folder is ``input``.
    """
    matched = _ANNOTATED.fullmatch(text)
    return (matched[1], matched[2]) if matched else (text, "input")


def file_path(subfolder: str, name: str) -> str | None:
    """Return the path of a file below its folder, with slashes; None if it leads out of the folder,
    or is none.
    """
    path = f"{subfolder}/{name}".replace("\\", "/")
    parts = [part for part in path.split("/") if part not in ("", ".")]
    is_absolute = any(text.startswith(("/", "\\")) for text in (subfolder, name))
    if is_absolute or path.endswith(("/", "/.")) or not name.strip():
        return None
    if not parts or any(
        part == ".." or len(part) > _MAX_NAME or UNPRINTABLE.search(part) for part in parts
    ):
        return None
    joined = "/".join(parts)
    return joined if len(joined) <= _MAX_PATH else None


def is_of_job(path: str) -> bool:
    """Return whether a path is that of a file of a job."""
    return _OF_JOB.match(path) is not None


def numbered(path: str, number: int) -> str:
    """Return a path with a number before its extension, as ComfyUI names a file whose name has
    another content: ``name (1).png``.
    """
    folder, slash, name = path.rpartition("/")
    stem, dot, extension = name.rpartition(".")
    if not stem:
        stem, dot, extension = name, "", ""
    return f"{folder}{slash}{stem} ({number}){dot}{extension}"


def with_job(output: Any, job_id: str) -> Any:
    """Return what a node reported, with the id of its job in the subfolders of its files; all other
    keys stay.
    """
    if isinstance(output, Mapping):
        changed = {key: with_job(value, job_id) for key, value in output.items()}
        if isinstance(output.get("filename"), str):
            subfolder = output.get("subfolder") or ""
            changed["subfolder"] = f"{job_id}/{subfolder}".rstrip("/")
        return changed
    if isinstance(output, list):
        return [with_job(item, job_id) for item in output]
    return output


def split_subfolder(subfolder: str) -> tuple[str, str]:
    """Return the id of the job in a subfolder, and the subfolder at the machine."""
    job_id, _, rest = subfolder.strip("/").partition("/")
    return job_id, rest
