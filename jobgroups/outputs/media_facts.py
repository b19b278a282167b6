"""Reads width, height and duration of a file from its head; no pixel is decoded."""

import contextlib
import json
import shutil
from pathlib import Path
from typing import Final

from PIL import Image

from jobgroups.domain.media_types import media_type
from jobgroups.models import StoredFile
from jobgroups.outputs import ffmpeg
from jobgroups.outputs.resize import FORMATS
from jobgroups.services.stored_files import IncomingFile

_FORMATS: Final = "mov,matroska,aac,flac,mp3,ogg,wav"


def media_facts(path: Path, filename: str) -> tuple[int | None, int | None, float | None]:
    """Return width and height in pixels and the duration in seconds; None for each that is not
    known.

    Videos and sounds need ffprobe, of ffmpeg, on the ``PATH``.
    """
    kind = media_type(filename)
    with contextlib.suppress(Exception):  # The parsers raise errors of any class for broken input.
        if kind.startswith("image/"):
            with Image.open(path, formats=FORMATS) as image:
                return *image.size, None
        if kind.startswith(("video/", "audio/")) and (ffprobe := shutil.which("ffprobe")):
            return _probe(ffprobe, path)
    return None, None, None


def stored_row(incoming: IncomingFile, filename: str) -> StoredFile:
    """End a received file, whose hashes are BLAKE3 and perhaps SHA-256; return its row, without key
    and time.
    """
    incoming.close()
    width, height, duration = media_facts(incoming.path, filename)
    hashes = {"sha256": ""} | {digest.name: digest.hexdigest() for digest in incoming.hashes}
    return StoredFile(
        **hashes, size_bytes=incoming.size_bytes, width=width, height=height, duration=duration
    )


def _probe(ffprobe: str, path: Path) -> tuple[int | None, int | None, float | None]:
    options = ("-of", "json", "-show_entries", "format=duration:stream=width,height")
    probed = json.loads(ffmpeg.run(ffprobe, f"file:{path}", _FORMATS, options))
    seen: dict[str, int] = next(
        (stream for stream in probed.get("streams", ()) if stream.get("width")), {}
    )
    duration = probed.get("format", {}).get("duration")
    return (
        seen.get("width"),
        seen.get("height"),
        None if duration is None else round(float(duration), 3),
    )
