"""File objects of the ComfyUI listener: their names are unique over all machines. Pure.

Names repeat on every machine (``ComfyUI_00001_.png`` on each), so the subfolder of a file begins
with the id of its job. Clients treat it as opaque, and join it with ``/``.
"""

from collections.abc import Mapping
from typing import Any


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
