"""What a child made: its files, where the Director shows them, and its texts."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from jobgroups.domain.media_types import media_kind
from jobgroups.domain.outputs import REPLACED, download_name, output_url, reported_files
from jobgroups.serializers import has_thumbnail

#: Characters of a text that a card shows, and texts.
_MAX_TEXT: Final = 2_000
_MAX_TEXTS: Final = 8


@dataclass(frozen=True, slots=True)
class Output:
    filename: str
    #: The name under which a browser saves it.
    saved_as: str
    url: str
    #: As ``media_kind`` returns it.
    kind: str
    missing: bool
    #: Whether a later file of the same name has replaced it; an old thumbnail may exist.
    replaced: bool = False
    #: Known of captured files; a size in bytes, a duration in seconds.
    size_bytes: int | None = None
    duration: float | None = None

    @property
    def is_shown(self) -> bool:
        """Whether the page shows it. A replaced one may have an old thumbnail."""
        return self.kind != "other" and (not self.missing or (self.replaced and self.kind in ("image", "video")))

    @property
    def has_thumbnail(self) -> bool:
        return has_thumbnail(self.filename)

    @property
    def lasts(self) -> str:
        """The duration of a video or sound as ``1:05``; empty: it is not known."""
        minutes, seconds = divmod(round(self.duration or 0), 60)
        return "" if self.duration is None else f"{minutes}:{seconds:02}"

    @property
    def thumbnail(self) -> str:
        return f"{self.url}?w=320"


@dataclass(frozen=True, slots=True)
class Text:
    """A text that a node reported; ``shown`` is its beginning."""

    shown: str
    length: int


def texts_of(outputs: Any) -> list[Text]:
    """Return the first texts of a child's ``outputs``, which are no files."""
    found = outputs.get("text") if isinstance(outputs, Mapping) else None
    texts = [one for one in found if isinstance(one, str)] if isinstance(found, list) else []
    return [Text(one[:_MAX_TEXT], len(one)) for one in texts[:_MAX_TEXTS]]


def outputs_of(group_id: str, child: Mapping[str, Any]) -> list[Output]:
    """Return a child's files in the order of their numbers: images first, then other keys.

    ``child`` has ``job_id``, ``backend_id``, ``seed`` and ``outputs``, perhaps as :func:`describe_files` completes them.
    """
    outputs = child["outputs"]
    if not isinstance(outputs, Mapping):
        return []
    return [
        Output(
            filename=str(file["filename"]),
            saved_as=download_name(child["seed"], child["backend_id"] or "", file["filename"]),
            url=output_url(group_id, child["job_id"], number),
            kind=media_kind(str(file["filename"])),
            missing=bool(file.get("missing")),
            replaced=file.get("reason") == REPLACED,
            size_bytes=file.get("size_bytes"),
            duration=file.get("duration"),
        )
        for number, file in enumerate(reported_files(outputs))
    ]
