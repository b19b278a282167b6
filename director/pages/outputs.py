"""Which files a child made, and where the Director shows them. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from jobgroups.domain.outputs import REPLACED, download_name, reported_files

_IMAGE_SUFFIXES: Final = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".avif", ".bmp", ".tif", ".tiff")


@dataclass(frozen=True, slots=True)
class Output:
    """One output file of a child."""

    filename: str
    #: The name under which a browser saves it.
    saved_as: str
    url: str
    is_image: bool
    missing: bool
    #: Whether a later file of the same name has replaced it; an old thumbnail may exist.
    replaced: bool = False

    @property
    def thumbnail(self) -> str:
        """Address of the thumbnail."""
        return f"{self.url}?w=320"


def outputs_of(group_id: str, child: Mapping[str, Any]) -> list[Output]:
    """Return a child's files in the order of their numbers: images first, then other keys.

    Args:
        group_id: its group.
        child: ``job_id``, ``backend_id``, ``seed`` and ``outputs`` of it.
    """
    outputs = child["outputs"]
    if not isinstance(outputs, Mapping):
        return []
    base = f"/api/job-groups/{group_id}/jobs/{child['job_id']}/outputs"
    return [
        Output(
            filename=str(file["filename"]),
            saved_as=download_name(child["seed"], child["backend_id"] or "", file["filename"]),
            url=f"{base}/{number}",
            is_image=str(file["filename"]).lower().endswith(_IMAGE_SUFFIXES),
            missing=bool(file.get("missing")),
            replaced=file.get("reason") == REPLACED,
        )
        for number, file in enumerate(reported_files(outputs))
    ]
