"""Judges a body that was received as the file that a job reported: a web page or half a picture is
no copy of it. Pure.

Only files whose name has the extension of a known binary format are judged: a custom node may write
any others. The end of a picture is found by its format, so that bytes behind it, which decoders
ignore, do no harm.
"""

import re
from typing import Final

from jobgroups.domain.media_types import media_type

#: The boxes of MP4 and QuickTime.
_ISO: Final = rb"....(?:ftyp(?!avi|mif|msf|hei)|moov|mdat|free|skip|wide|pnot)"
_MATROSKA: Final = rb"\x1aE\xdf\xa3"
#: How a file begins, by its media type.
_BEGINNINGS: Final = {
    name: re.compile(pattern, re.DOTALL)
    for name, pattern in {
        "image/png": rb"\x89PNG\r\n\x1a\n",
        "image/jpeg": rb"\xff\xd8\xff",
        "image/webp": rb"RIFF....WEBP",
        "image/gif": rb"GIF8[79]a",
        "image/bmp": rb"BM",
        "image/avif": rb"....ftyp(?:avi|mif|msf)",
        "image/tiff": rb"II[*+]\0|MM\0[*+]",
        "video/mp4": _ISO,
        "video/quicktime": _ISO,
        "video/webm": _MATROSKA,
        "video/x-matroska": _MATROSKA,
        "audio/mp4": _ISO,
        "audio/flac": rb"fLaC|ID3",
        "audio/ogg": rb"OggS",
        "audio/wav": rb"(?:RIFF|RF64|BW64)....WAVE",
        "audio/mpeg": rb"ID3|\xff[\xe0-\xfe]",
        "audio/aac": rb"ADIF|ID3|\xff[\xf0-\xff]",
        "model/gltf-binary": rb"glTF",
        "application/zip": rb"PK",
    }.items()
}
#: A body that breaks off within its head: the longest head has twelve bytes.
_HEADS: Final = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"RIFF")
_HEAD: Final = 1024  #: Bytes by which the kind of a file is known.
#: The first element behind the declaration and the comments of a page. Nothing is matched twice: a
#: page may be hostile.
_ROOT: Final = re.compile(
    rb"(?>\s+|<\?.*?\?>|<!--.*?-->)*+<(?:!doctype\s+)?(\w+)", re.DOTALL | re.IGNORECASE
)
_BLANKS: Final = b"\xef\xbb\xbf \t\r\n\f"
_PNG_END: Final = b"\0\0\0\0IEND"  #: Its checksum of four bytes follows.
_JPEG_END: Final = b"\xff\xd9"
_OVERLAP: Final = 11  #: Bytes of an end that may be in the previous chunk.
#: A marker of a JPEG with the length behind it; markers without a length; the one before the
#: pixels.
_MARKER: Final = re.compile(rb"\xff([\x01-\xfe])(..)", re.DOTALL)
_BARE: Final = frozenset({0x01, *range(0xD0, 0xD9)})
_PIXELS: Final = 0xDA
_MAX_SEGMENTS: Final = 10_000  #: No encoder writes as many; their search must not take long.


class NoCopy(ValueError):
    """The body is not the file that the job reported, or not all of it. The text is a sentence."""


class Body:
    """A body that arrives in chunks, judged by its content and by the name that the job reported."""

    def __init__(self, filename: str) -> None:
        self._type = media_type(filename)
        self.is_judged = self._type in _BEGINNINGS
        self.size = 0
        #: What is doubtful about a body that may be kept, as a sentence; known at its end.
        self.warning = ""
        self.is_whole = False  #: Whether the content proves that nothing is missing at its end.
        self._head = b""
        self._rest = b""  #: What is searched again together with the next chunk.
        self._segments = 0  #: Segments of a JPEG that were skipped.
        self._skipped = 0  #: Bytes of the next chunks that belong to a segment.
        self._in_pixels = False

    def add(self, chunk: bytes) -> None:
        """Take the next chunk; raise ``NoCopy`` as soon as the body is seen to be another one."""
        self.size += len(chunk)
        if not self.is_judged:
            return
        if len(self._head) < _HEAD:
            self._head += chunk[: _HEAD - len(self._head)]
            self._refuse_page(is_all=False)
        if not self.is_whole:
            if self._is("image/png"):
                self._find(_PNG_END, self._rest + chunk, behind=4)
            elif self._is("image/jpeg"):
                self._find_jpeg_end(self._rest + chunk)

    def end(self) -> None:
        """Judge the whole body, or raise ``NoCopy``."""
        if not self.is_judged:
            return
        self._refuse_page(is_all=True)
        if self._is("image/webp"):
            self.is_whole = self.size >= 8 + int.from_bytes(self._head[4:8], "little")
        is_stub = self.size < 12 and any(
            head.startswith(self._head[: len(head)]) for head in _HEADS
        )
        if is_stub or (
            not self.is_whole and any(map(self._is, ("image/png", "image/jpeg", "image/webp")))
        ):
            raise NoCopy(f"The file is truncated: its end is missing after {self.size} bytes.")
        if not self._is(self._type):
            kind = next(filter(self._is, _BEGINNINGS), "")
            self.warning = f"Its content is {kind or 'unknown'}, not {self._type} as its name says."

    def _is(self, name: str) -> bool:
        return _BEGINNINGS[name].match(self._head) is not None

    def _refuse_page(self, *, is_all: bool) -> None:
        text = self._head.lstrip(_BLANKS)
        # A 3D scene may be JSON under the name of its binary form.
        if text.startswith((b"{", b"[")) and self._type != "model/gltf-binary":
            raise NoCopy(f"The body is JSON, not {self._type}.")
        if not text.startswith(b"<"):
            return
        root = _ROOT.match(text)
        if root is None and not is_all and len(self._head) < _HEAD:
            return
        if root is None or root[1].lower() != b"svg":
            raise NoCopy(f"The body is a web page, not {self._type}.")

    def _find(self, end: bytes, window: bytes, *, behind: int = 0) -> None:
        self.is_whole = 0 <= window.find(end) <= len(window) - len(end) - behind
        self._rest = window[-_OVERLAP:]

    def _find_jpeg_end(self, window: bytes) -> None:
        """Search the end of a JPEG behind its segments, one of which may be a whole JPEG: its
        thumbnail.
        """
        at = self._skipped
        while not self._in_pixels:
            marker = _MARKER.search(window, at)
            if marker is None:
                # Three bytes may be the beginning of a marker with its length.
                self._rest, self._skipped = (
                    window[max(at, len(window) - 3) :],
                    max(0, at - len(window)),
                )
                return
            self._segments += 1
            at = marker.start() + 2
            if marker[1][0] == _PIXELS or self._segments > _MAX_SEGMENTS:
                self._in_pixels = True
            elif marker[1][0] not in _BARE:
                at += int.from_bytes(marker[2])
        self._find(_JPEG_END, window[at:])
        self._skipped = 0
