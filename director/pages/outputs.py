"""What a child made: its files, where the Director shows them, and its texts."""

from collections.abc import Mapping
from typing import Any, Final

from jobgroups.domain.file_names import default_name
from jobgroups.domain.media_types import media_kind
from jobgroups.domain.outputs import REPLACED, output_url, reported_files
from jobgroups.serializers import has_thumbnail

#: Characters of a text that a card shows, and texts.
_MAX_TEXT: Final = 2_000
_MAX_TEXTS: Final = 8


def texts_of(outputs: Any) -> list[dict[str, Any]]:
    """Return the first texts of a child's ``outputs``, which are no files: the beginning and the
    length of each.
    """
    given_texts = outputs.get("text") if isinstance(outputs, Mapping) else None
    texts = (
        [entry for entry in given_texts if isinstance(entry, str)]
        if isinstance(given_texts, list)
        else []
    )
    return [{"shown": text[:_MAX_TEXT], "length": len(text)} for text in texts[:_MAX_TEXTS]]


def duration_text(seconds: float | None) -> str:
    """Return the duration of a video or sound as ``1:05``; empty: it is not known."""
    minutes, rest = divmod(round(seconds or 0), 60)
    return "" if seconds is None else f"{minutes}:{rest:02}"


def outputs_of(group_id: str, child: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return a child's files in the order of their numbers: images first, then other keys.

    ``child`` has ``job_id``, ``backend_id``, ``seed`` and ``outputs``, perhaps as
    :func:`describe_files` completes them.
    """
    outputs = child["outputs"]
    if not isinstance(outputs, Mapping):
        return []
    cards = []
    for number, file in enumerate(reported_files(outputs)):
        name, url = str(file["filename"]), output_url(group_id, child["job_id"], number)
        kind, missing = media_kind(name), bool(file.get("missing"))
        # A later file of the same name has replaced it; an old thumbnail may exist.
        replaced = file.get("reason") == REPLACED
        cards.append(
            {
                "filename": name,
                # The name under which a browser saves it.
                "saved_as": default_name(
                    child["seed"], child["backend_id"] or "", file["filename"]
                ),
                "url": url,
                # Empty: none can be made.
                "thumbnail": f"{url}?w=320" if has_thumbnail(name) else "",
                "kind": kind,
                "missing": missing,
                "replaced": replaced,
                # Whether the page shows it.
                "is_shown": kind != "other"
                and (not missing or (replaced and kind in ("image", "video"))),
                # Known of captured files: bytes, and the duration of a video or sound as ``1:05``.
                "size_bytes": file.get("size_bytes"),
                "capture_warning": file.get("capture_warning"),
                "lasts": duration_text(file.get("duration")),
            }
        )
    return cards
