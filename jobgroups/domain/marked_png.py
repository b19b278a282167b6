"""Finds out whether a received PNG is one picture of one job: the Director's mark is in it, and all
its checksums fit. Pure.

ComfyUI writes the mark while it writes the picture, directly before the pixels. If another prompt
writes to the file while it is read, the parts of two pictures do not fit the checksum of the piece
(64 KiB) in which one follows the other.
"""

import json
from typing import Final
from zlib import crc32

from jobgroups.domain.outputs import MARK_KEY

_SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"
_TEXTS: Final = frozenset({b"tEXt", b"zTXt", b"iTXt"})
_PREFIX: Final = f"{MARK_KEY}\0".encode("ascii")


class MarkedPng:
    """A PNG that arrives in parts."""

    def __init__(self) -> None:
        self._rest = b""
        self._is_intact = True
        self._has_signature = self._has_pixels = self._is_whole = False
        self._text = b""  #: The last text before the pixels, with its key.

    def update(self, part: bytes | bytearray) -> None:
        """Take the next part."""
        if not self._is_intact:
            return
        content, at = self._rest + part, 0
        if not self._has_signature and len(content) >= len(_SIGNATURE):
            self._has_signature, at = True, len(_SIGNATURE)
            self._is_intact = content.startswith(_SIGNATURE)
        with memoryview(content) as view:
            # Length, kind, content and checksum.
            while self._is_intact and at + 12 <= len(view):
                end = at + 8 + int.from_bytes(view[at : at + 4])
                if end + 4 > len(view):
                    break
                # Nothing may be behind the end: no checksum is of it.
                fits = crc32(view[at + 4 : end]) == int.from_bytes(view[end : end + 4])
                self._is_intact = fits and not self._is_whole
                self._take(bytes(view[at + 4 : at + 8]), view[at + 8 : end])
                at = end + 4
        self._rest = content[at:]

    def _take(self, kind: bytes, content: memoryview) -> None:
        if kind in _TEXTS and not self._has_pixels:
            self._text = bytes(content) if kind == b"tEXt" else b""
        self._has_pixels |= kind == b"IDAT"
        self._is_whole |= kind == b"IEND"

    def is_of(self, group_id: str, job_id: str) -> bool:
        """Return whether this is known to be a whole and intact picture of a job."""
        if not (self._is_intact and self._has_pixels and self._is_whole) or self._rest:
            return False
        if not self._text.startswith(_PREFIX):
            return False
        try:
            mark = json.loads(self._text.removeprefix(_PREFIX))
        except (ValueError, RecursionError):
            return False
        return isinstance(mark, dict) and (mark.get("group"), mark.get("job")) == (group_id, job_id)
